"""Paired comparison of two methods on the same images: the mean difference, its standard error and a verdict.

The difficulty of each image affects both methods and cancels, so a paired difference is more precise than the errors
of the two scores suggest. A difference below two standard errors counts as not distinguishable.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_SIGNIFICANT = 2.0  # standard errors above which a difference counts
HOLDS, FAILS, UNCLEAR = "holds", "does not hold", "not distinguishable"


@dataclass(frozen=True)
class Difference:
    """The difference between the scores of two methods.

    Attributes:
        value: first minus second.
        error: its standard error over images.
    """

    value: float
    error: float

    def verdict(self, more: bool = True) -> str:
        """Whether the first scores higher (or lower) than the second: ``HOLDS``, ``FAILS``, or ``UNCLEAR``."""
        value = self.value if more else -self.value
        if not abs(value) > _SIGNIFICANT * self.error:  # also if the error is NaN
            return UNCLEAR
        return HOLDS if value > 0 else FAILS


def standard_error(values: Tensor) -> float:
    """The standard error of the mean of independent values ``[images]``; NaN for a single value."""
    return float(values.double().std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def paired_mean(first: Tensor, second: Tensor) -> Difference:
    """The difference of two means over the same images.

    For scores of 1 and 0 this is McNemar's test in Wald's form: only images on which the two differ count. Average the
    scores of several seeds first: draws for the same image are not independent.

    Args:
        first: ``[images]``, the first method's score of each image.
        second: ``[images]``, the second method's.
    """
    differences = first.double() - second.double()
    return Difference(float(differences.mean()), standard_error(differences))


def paired_jackknife(score: Callable[[Tensor], float], images: int, groups: int = 40) -> Difference:
    """The jackknife error of a difference that is not a mean over images, such as that of two Fréchet distances.

    Args:
        score: indices of a subset of the images -> the difference over that subset.
        images: number of images.
        groups: number of groups that are left out in turn, at most the number of images.
    """
    groups = min(groups, images)
    indices = torch.arange(images)
    scores = torch.tensor([score(indices[indices % groups != group]) for group in range(groups)], dtype=torch.float64)
    variance = (scores - scores.mean()).square().sum() * (groups - 1) / groups
    return Difference(score(indices), float(variance.sqrt()))
