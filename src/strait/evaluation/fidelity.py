"""Fréchet distance, Inception score, precision and recall, from features.

Source: StraIT section 4.2 (FID, IS; precision and recall as its Table 2 has them, with k = 3 nearest neighbours).
"""

from __future__ import annotations

import functools
import math
import sys

import torch
from torch import Tensor

from strait.evaluation.features import FeatureError, Features
from strait.randomness import permutation

NEIGHBOURS = 3
_SPLITS = 10
_TINY = torch.finfo(torch.float64).tiny
_RANK = 1e-12  # eigenvalues below this share of the largest are rounding


def check_finite(features: Features, whose: str) -> None:
    """Refuse features that are no numbers.

    Raises:
        FeatureError: with the index of the first image whose features are not finite.
    """
    bad = ~features.values.isfinite().all(1)
    if features.logits is not None:
        bad |= ~features.logits.isfinite().all(1)
    if bad.any():
        raise FeatureError(f"features: those of {whose} image {int(bad.nonzero()[0, 0])} are not finite numbers")


def moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean ``[width]`` and covariance ``[width, width]`` of features ``[images, width]``, in float64.

    Summed in pieces, so that no second copy of the features is made in float64.
    """
    count, width = values.shape
    mean = torch.zeros(width, dtype=torch.float64)
    for piece in values.split(1024):
        mean += piece.double().sum(0)
    mean /= count
    covariance = torch.zeros(width, width, dtype=torch.float64)
    for piece in values.split(1024):
        centred = piece.double() - mean
        covariance.addmm_(centred.T, centred)
    return mean, covariance / max(count - 1, 1)


def frechet_distance(ours: Tensor, theirs: Tensor) -> float:
    """Fréchet distance between Gaussians fitted to two sets of features ``[images, width]``.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)). The trace of the root is the sum of the singular values of
    C1^(1/2) C2^(1/2): symmetric roots alone, which are exact where a set has fewer images than dimensions.
    """
    return _distance(moments(ours), moments(theirs))


def frechet_error(ours: Tensor, theirs: Tensor) -> float:
    """Standard error of the distance that comes from having drawn just these images, by the delta method.

    To first order each image x moves the distance by 2 (x - m1)(m1 - m2) + (x - m1)^T (1 - T) (x - m1), where T is the
    linear map that transports the one Gaussian to the other. The bias of a small set is not part of it.
    """
    (mean_a, covariance_a), (mean_b, covariance_b) = moments(ours), moments(theirs)
    root = _root(covariance_b)
    values, vectors = torch.linalg.eigh(root @ covariance_a @ root)
    inverse = torch.where(values > values.max() * _RANK, values.clamp(min=_TINY).rsqrt(), 0.0)
    transport = root @ ((vectors * inverse) @ vectors.T) @ root
    influence = []
    for piece in ours.split(1024):
        centred = piece.double() - mean_a
        moved = ((centred - centred @ transport) * centred).sum(1)
        influence.append(moved + 2 * centred @ (mean_a - mean_b))
    return float(torch.cat(influence).std()) / math.sqrt(len(ours))


def _distance(ours: tuple[Tensor, Tensor], theirs: tuple[Tensor, Tensor]) -> float:
    (mean_a, covariance_a), (mean_b, covariance_b) = ours, theirs
    root = torch.linalg.svdvals(_root(covariance_a) @ _root(covariance_b)).sum()
    distance = (mean_a - mean_b).square().sum() + covariance_a.trace() + covariance_b.trace() - 2 * root
    return max(float(distance), 0.0)


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
    scores = []
    for part in log_p.tensor_split(min(splits, len(log_p))):
        marginal = part.exp().mean(0).clamp(min=_TINY).log()
        scores.append(float((part.exp() * (part - marginal)).sum(1).mean().exp()))
    found = torch.tensor(scores, dtype=torch.float64)
    return float(found.mean()), float(found.std(correction=0))


def precision_and_recall(
    real: Tensor, generated: Tensor, neighbours: int = NEIGHBOURS, piece: int = 1024
) -> tuple[float, float]:
    """The share of generated images near real ones, and of real images near generated ones.

    Near: within the distance from one of the other set to its k-th nearest neighbour in its own set.

    Args:
        real: features ``[images, width]``.
        generated: features ``[images, width]``.
        neighbours: k.
        piece: rows of the distance matrix held at once.
    """
    for values, whose in ((real, "real"), (generated, "generated")):
        if len(values) <= neighbours:
            raise FeatureError(f"precision and recall: {len(values)} {whose} images are too few for k = {neighbours}")
    return _covered(generated, real, neighbours, piece), _covered(real, generated, neighbours, piece)


def _covered(points: Tensor, manifold: Tensor, neighbours: int, piece: int) -> float:
    # One more, since each is its own nearest.
    radii = torch.cat(
        [torch.cdist(rows, manifold).kthvalue(neighbours + 1, dim=1).values for rows in manifold.split(piece)]
    )
    inside = sum(int((torch.cdist(rows, manifold) <= radii).any(1).sum()) for rows in points.split(piece))
    return inside / len(points)


def fidelity(reference: Features, generated: Features) -> dict[str, float | int | None]:
    """All four scores of generated images against a reference set.

    Returns:
        ``fid, inception_score, inception_score_std, precision, recall, samples``; the Inception scores are None where
        the network has no logits.

    Raises:
        FeatureError: for features that are not finite, or of different widths.
    """
    check_finite(reference, "reference")
    check_finite(generated, "generated")
    width = generated.values.shape[1]
    if reference.values.shape[1] != width:
        raise FeatureError(f"features: {width} dimensions against the reference's {reference.values.shape[1]}")
    fewest = min(len(generated), len(reference))
    if fewest < width:
        say_once(
            f"{fewest} images are fewer than the {width} dimensions of the features: the Fréchet distance is biased"
        )
    score, spread = (math.nan, math.nan) if generated.logits is None else inception_score(generated.logits)
    if generated.logits is None:
        say_once("the feature network has no logits, and so gives no Inception score")
    precision, recall = precision_and_recall(reference.values, generated.values)
    return {
        "fid": frechet_distance(generated.values, reference.values),
        "inception_score": None if math.isnan(score) else score,
        "inception_score_std": None if math.isnan(spread) else spread,
        "precision": precision,
        "recall": recall,
        "samples": len(generated),
    }


@functools.cache
def say_once(message: str) -> None:
    """A search judges many sets of images alike; one line about it is enough."""
    print(message, file=sys.stderr)
