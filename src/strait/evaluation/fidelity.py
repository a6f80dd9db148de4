"""Fréchet distance, Inception score, precision and recall, from features.

Source: StraIT section 4.2 (FID, IS; precision and recall as its Table 2 has them, with k = 3 nearest neighbours).
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
_PIECE = 1024  # rows at once: neither features in float64 nor all distances are ever held whole
_TINY = torch.finfo(torch.float64).tiny
_RANK = 1e-12  # eigenvalues below this share of the largest are rounding


def check_finite(features: Features, whose: str) -> None:
    """Refuse features that are no numbers.

    Raises:
        FeatureError: with the index of the first image whose features are not finite: its number in the source that
            it was read from, where the features say which.
    """
    bad = ~features.values.isfinite().all(1)
    if features.logits is not None:
        bad |= ~features.logits.isfinite().all(1)
    if bad.any():
        place = int(bad.nonzero()[0, 0])
        index = place if features.indices is None else int(features.indices[place])
        raise FeatureError(f"features: those of {whose} image {index} are not finite numbers")


def warn_if_few(count: int, width: int) -> None:
    """Say that so many images are too few for a Fréchet distance of so many dimensions."""
    if count < width:
        say_once(
            f"{count} images are fewer than the {width} dimensions of the features: the Fréchet distance is biased"
        )


class Summary:
    """What comparisons ask of a set of features, each worked out once: one reference is compared with many sets."""

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
        """The symmetric root of the covariance."""
        return _root(self.moments[1])

    @cached_property
    def radii(self) -> Tensor:
        """The distance of each to its k-th nearest neighbour, float32 ``[images]``."""
        return _radii(self.values, NEIGHBOURS)


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``[width]`` and covariance ``[width, width]`` of features ``[images, width]``, in float64.

    Summed in pieces, so that no second copy of the features is made in float64.
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


def frechet_distance(ours: Tensor | Summary, theirs: Tensor | Summary) -> float:
    """Fréchet distance between Gaussians fitted to two sets of features ``[images, width]``.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). The trace of the root is the sum of the singular values of
    C1^(1/2) C2^(1/2): symmetric roots alone, which are exact where a set has fewer images than dimensions.
    """
    ours, theirs = _summary(ours), _summary(theirs)
    (mean_a, covariance_a), (mean_b, covariance_b) = ours.moments, theirs.moments
    root = torch.linalg.svdvals(ours.root @ theirs.root).sum()
    distance = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * root
    return max(float(distance), 0.0)


def frechet_error(ours: Tensor | Summary, theirs: Tensor | Summary) -> float:
    """Standard error of the distance that comes from having drawn just these images, by the delta method.

    To first order each image x moves the distance by 2 (x - m1)(m1 - m2) + (x - m1)^T (1 - T) (x - m1), where T is the
    linear map that transports the one Gaussian to the other. The bias of a small set is not part of it.
    """
    ours, theirs = _summary(ours), _summary(theirs)
    (mean_a, covariance_a), (mean_b, _) = ours.moments, theirs.moments
    root = theirs.root
    values, vectors = torch.linalg.eigh(root @ covariance_a @ root)
    inverse = torch.where(values > values.max() * _RANK, values.clamp(min=_TINY).rsqrt(), 0.0)
    transport = root @ ((vectors * inverse) @ vectors.T) @ root
    influence = []
    for piece in ours.values.split(_PIECE):
        centred = piece.double() - mean_a
        moved = ((centred - centred @ transport) * centred).sum(1)
        influence.append(moved + 2 * centred @ (mean_a - mean_b))
    return float(torch.cat(influence).std()) / math.sqrt(len(ours.values))


def _summary(values: Tensor | Summary) -> Summary:
    return Summary(Features(values, None)) if isinstance(values, Tensor) else values


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


def inception_score(logits: Tensor, splits: int = _SPLITS) -> tuple[float, float]:
    """exp(E KL(p(y|x) || p(y))): its mean and standard deviation over so many parts of the samples.

    The samples are shuffled first: sorted by class, every part would hold few classes and score too low.

    Args:
        logits: ``[images, classes]``.
        splits: parts; fewer where there are fewer images.
    """
    log_p = logits.double().log_softmax(1)[permutation(len(logits), 0)]
    splits = min(splits, len(log_p))
    bounds = [part * len(log_p) // splits for part in range(splits + 1)]  # torch-fidelity's
    scores = []
    for start, end in itertools.pairwise(bounds):
        part = log_p[start:end]
        marginal = part.exp().mean(0).clamp(min=_TINY).log()
        scores.append(float((part.exp() * (part - marginal)).sum(1).mean().exp()))
    found = torch.tensor(scores, dtype=torch.float64)
    return float(found.mean()), float(found.std(correction=0))


def precision_and_recall(
    real: Tensor, generated: Tensor, neighbours: int = NEIGHBOURS, piece: int = _PIECE
) -> tuple[float, float]:
    """The share of generated images near real ones, and of real images near generated ones.

    Near: within the distance from one of the other set to its k-th nearest neighbour in its own set.

    Args:
        real: features ``[images, width]``.
        generated: features ``[images, width]``.
        neighbours: k.
        piece: rows of the distance matrix held at once.

    Raises:
        FeatureError: if a set has no k neighbours.
    """
    for values, whose in ((real, "real"), (generated, "generated")):
        _refuse_too_few(len(values), whose, neighbours)
    radii = _radii(real, neighbours, piece), _radii(generated, neighbours, piece)
    return _coverage(real, generated, *radii, piece)


def _refuse_too_few(count: int, whose: str, neighbours: int) -> None:
    if count <= neighbours:
        raise FeatureError(f"precision and recall: {count} {whose} images are too few for k = {neighbours}")


def _radii(values: Tensor, neighbours: int, piece: int = _PIECE) -> Tensor:
    # One more, since each is its own nearest. (kthvalue finds the same in ten times the time.)
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
        ``fid, inception_score, inception_score_std, precision, recall, samples``; the Inception scores are None where
        the network has no logits.

    Raises:
        FeatureError: for features that are not finite, or of different widths, or of too few images.
    """
    theirs = Summary(reference) if isinstance(reference, Features) else reference
    ours = Summary(generated) if isinstance(generated, Features) else generated
    check_finite(theirs.features, "reference")
    check_finite(ours.features, "generated")
    width = ours.values.shape[1]
    if theirs.values.shape[1] != width:
        raise FeatureError(f"features: {width} dimensions against the reference's {theirs.values.shape[1]}")
    for some, whose in ((theirs, "reference"), (ours, "generated")):
        _refuse_too_few(len(some.values), whose, NEIGHBOURS)
    warn_if_few(min(len(ours.values), len(theirs.values)), width)
    logits = ours.features.logits
    score, spread = (None, None) if logits is None else inception_score(logits)
    if logits is None:
        say_once("the feature network has no logits, and so gives no Inception score")
    precision, recall = _coverage(theirs.values, ours.values, theirs.radii, ours.radii)
    return {
        "fid": frechet_distance(ours, theirs),
        "inception_score": score,
        "inception_score_std": spread,
        "precision": precision,
        "recall": recall,
        "samples": len(ours.values),
    }
