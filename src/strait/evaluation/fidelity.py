"""Fréchet distance, Inception score, precision and recall, from features.

Source: StraIT section 4.2 (FID, IS; precision and recall as in Table 2, with k = 3 nearest neighbours).
"""

from __future__ import annotations

import itertools
import math
from functools import cached_property

import torch
from torch import Tensor

from strait.evaluation.features import FeatureError, Features
from strait.randomness import permutation
from strait.runtime.messages import say_once

NEIGHBOURS = 3
_SPLITS = 10
_PIECE = 1024  # rows at once, which limits the memory for float64 features and for distances
_TINY = torch.finfo(torch.float64).tiny
_RANK = 1e-12  # eigenvalues below this share of the largest are rounding errors


def check_finite(features: Features, kind: str) -> None:
    """Check that all features are finite.

    Args:
        features: of the images.
        kind: of the images, for the error message.

    Raises:
        FeatureError: with the index, in its source, of the first image whose features are not finite.
    """
    bad = ~features.values.isfinite().all(1)
    if features.logits is not None:
        bad |= ~features.logits.isfinite().all(1)
    if bad.any():
        row = int(bad.nonzero()[0, 0])
        index = row if features.indices is None else int(features.indices[row])
        raise FeatureError(f"features: those of {kind} image {index} are not finite numbers")


def warn_if_few(count: int, width: int) -> None:
    """Warn if ``count`` images are too few for a Fréchet distance in ``width`` dimensions."""
    if count < width:
        say_once(
            f"{count} images are fewer than the {width} dimensions of the features: the Fréchet distance is biased"
        )


class Summary:
    """Statistics of a set of features, computed once: a reference is compared with many sets."""

    def __init__(self, features: Features) -> None:
        self.features = features

    @property
    def values(self) -> Tensor:
        return self.features.values

    @cached_property
    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance."""
        return moments(self.values)

    @cached_property
    def root(self) -> Tensor:
        """The symmetric square root of the covariance."""
        return _root(self.moments[1])

    @cached_property
    def radii(self) -> Tensor:
        """The distance of each image to its k-th nearest neighbour, float32 ``[images]``."""
        return _radii(self.values, NEIGHBOURS)


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``[width]`` and covariance ``[width, width]`` of features ``[images, width]``, in float64.

    Summed in pieces, so that the features are never copied as a whole in float64.
    """
    count, width = values.shape
    mean = torch.zeros(width, dtype=torch.float64)
    for piece in values.split(_PIECE):
        mean += piece.double().sum(0)
    mean /= count
    covariance = torch.zeros(width, width, dtype=torch.float64)
    for piece in values.split(_PIECE):
        centred = piece.double() - mean
        covariance.addmm_(centred.T, centred)
    return mean, covariance / max(count - 1, 1)


def frechet_distance(samples: Tensor | Summary, reference: Tensor | Summary) -> float:
    """Fréchet distance between Gaussians fitted to two sets of features ``[images, width]``.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). The trace of the root is the sum of the singular values of
    C1^(1/2) C2^(1/2). This needs only symmetric roots, which are exact even with fewer images than dimensions.
    """
    samples, reference = _summary(samples), _summary(reference)
    (mean_a, covariance_a), (mean_b, covariance_b) = samples.moments, reference.moments
    root = torch.linalg.svdvals(samples.root @ reference.root).sum()
    distance = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * root
    return max(float(distance), 0.0)


def frechet_error(samples: Tensor | Summary, reference: Tensor | Summary) -> float:
    """Standard error of the distance due to the random choice of samples, by the delta method.

    To first order each image x changes the distance by 2 (x - m1)(m1 - m2) + (x - m1)^T (1 - T) (x - m1), where T is
    the linear map that transports the samples' Gaussian to the reference's. The bias of a small set is not included.
    """
    samples, reference = _summary(samples), _summary(reference)
    (mean_a, covariance_a), (mean_b, _) = samples.moments, reference.moments
    root = reference.root
    values, vectors = torch.linalg.eigh(root @ covariance_a @ root)
    inverse = torch.where(values > values.max() * _RANK, values.clamp(min=_TINY).rsqrt(), 0.0)
    transport = root @ ((vectors * inverse) @ vectors.T) @ root
    influence = []
    for piece in samples.values.split(_PIECE):
        centred = piece.double() - mean_a
        quadratic = ((centred - centred @ transport) * centred).sum(1)
        influence.append(quadratic + 2 * centred @ (mean_a - mean_b))
    return float(torch.cat(influence).std()) / math.sqrt(len(samples.values))


def _summary(values: Tensor | Summary) -> Summary:
    return Summary(Features(values, None)) if isinstance(values, Tensor) else values


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def inception_score(logits: Tensor, splits: int = _SPLITS) -> tuple[float, float]:
    """exp(E KL(p(y|x) || p(y))): its mean and standard deviation over parts of the samples.

    The samples are shuffled first: if they were sorted by class, each part would have few classes and score too low.

    Args:
        logits: ``[images, classes]``.
        splits: number of parts, at most the number of images.
    """
    log_p = logits.double().log_softmax(1)[permutation(len(logits), 0)]
    splits = min(splits, len(log_p))
    bounds = [part * len(log_p) // splits for part in range(splits + 1)]  # as in torch-fidelity
    scores = []
    for start, end in itertools.pairwise(bounds):
        part = log_p[start:end]
        marginal = part.exp().mean(0).clamp(min=_TINY).log()
        scores.append(float((part.exp() * (part - marginal)).sum(1).mean().exp()))
    split_scores = torch.tensor(scores, dtype=torch.float64)
    return float(split_scores.mean()), float(split_scores.std(correction=0))


def precision_and_recall(
    real: Tensor, generated: Tensor, neighbours: int = NEIGHBOURS, piece: int = _PIECE
) -> tuple[float, float]:
    """The share of generated images near real ones, and of real images near generated ones.

    Near means within the distance from an image of the other set to its k-th nearest neighbour in that set.

    Args:
        real: features ``[images, width]``.
        generated: features ``[images, width]``.
        neighbours: k.
        piece: rows of the distance matrix held at once.

    Raises:
        FeatureError: if a set has at most k images.
    """
    for values, kind in ((real, "real"), (generated, "generated")):
        _check_count(len(values), kind, neighbours)
    radii = _radii(real, neighbours, piece), _radii(generated, neighbours, piece)
    return _coverage(real, generated, *radii, piece)


def _check_count(count: int, kind: str, neighbours: int) -> None:
    if count <= neighbours:
        raise FeatureError(f"precision and recall: {count} {kind} images are too few for k = {neighbours}")


def _radii(values: Tensor, neighbours: int, piece: int = _PIECE) -> Tensor:
    # One more, since each image is its own nearest neighbour. (kthvalue takes ten times as long.)
    nearest = [torch.cdist(rows, values).topk(neighbours + 1, largest=False).values for rows in values.split(piece)]
    return torch.cat(nearest)[:, -1]


def _coverage(
    real: Tensor, generated: Tensor, real_radii: Tensor, generated_radii: Tensor, piece: int = _PIECE
) -> tuple[float, float]:
    """Precision and recall from one pass over the distances between the two sets."""
    inside = 0
    reached = torch.zeros(len(real), dtype=torch.bool)
    for rows, radii in zip(generated.split(piece), generated_radii.split(piece), strict=True):
        distances = torch.cdist(rows, real)
        inside += int((distances <= real_radii).any(1).sum())
        reached |= (distances <= radii[:, None]).any(0)
    return inside / len(generated), int(reached.sum()) / len(real)


def fidelity(reference: Features | Summary, generated: Features | Summary) -> dict[str, float | int | None]:
    """All four scores of generated images against a reference set.

    Returns:
        ``fid, inception_score, inception_score_std, precision, recall, samples``; the Inception scores are None if
        the network has no logits.

    Raises:
        FeatureError: if features are not finite or differ in width, or a set has too few images.
    """
    reference = Summary(reference) if isinstance(reference, Features) else reference
    generated = Summary(generated) if isinstance(generated, Features) else generated
    check_finite(reference.features, "reference")
    check_finite(generated.features, "generated")
    width = generated.values.shape[1]
    if reference.values.shape[1] != width:
        raise FeatureError(f"features: {width} dimensions, but the reference has {reference.values.shape[1]}")
    for summary, kind in ((reference, "reference"), (generated, "generated")):
        _check_count(len(summary.values), kind, NEIGHBOURS)
    warn_if_few(min(len(generated.values), len(reference.values)), width)
    logits = generated.features.logits
    score, spread = (None, None) if logits is None else inception_score(logits)
    if logits is None:
        say_once("the feature network has no logits, so there is no Inception score")
    precision, recall = _coverage(reference.values, generated.values, reference.radii, generated.radii)
    return {
        "fid": frechet_distance(generated, reference),
        "inception_score": score,
        "inception_score_std": spread,
        "precision": precision,
        "recall": recall,
        "samples": len(generated.values),
    }
