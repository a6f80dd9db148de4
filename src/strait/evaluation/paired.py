"""Two ways to fill the same images compared: the difference for each image, its error, and what may be said of it.

What makes one image harder than another is in both and cancels, so that a paired difference is surer than the errors
of the two figures suggest. Nothing is claimed within two standard errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_SIGNIFICANT = 2.0  # a difference counts from so many standard errors on
HOLDS, FAILS, UNCLEAR = "holds", "does not hold", "not distinguishable"


@dataclass(frozen=True)
class Difference:
    """How much more one way scores than the other.

    Attributes:
        value: the difference.
        error: its standard error, over images.
    """

    value: float
    error: float

    def verdict(self, more: bool = True) -> str:
        """Whether the first scores more (or less) than the second: ``HOLDS``, ``FAILS``, or ``UNCLEAR``."""
        value = self.value if more else -self.value
        if not abs(value) > _SIGNIFICANT * self.error:  # an error that is not known, NaN, lets nothing be said either
            return UNCLEAR
        return HOLDS if value > 0 else FAILS


def standard_error(values: Tensor) -> float:
    """Of the mean of independent values ``[images]``; NaN for a single one."""
    return float(values.double().std()) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def paired_mean(ours: Tensor, theirs: Tensor) -> Difference:
    """The difference of two means over the same images.

    Of right and wrong answers, 1 and 0, this is McNemar's test in Wald's form: only the images on which the two differ
    count. Images of several seeds are averaged first, since draws for one image are no independent images.

    Args:
        ours: ``[images]``, a score of each.
        theirs: ``[images]``, the other way's of the same images.
    """
    apart = ours.double() - theirs.double()
    return Difference(float(apart.mean()), standard_error(apart))


def paired_jackknife(score: Callable[[Tensor], float], images: int, groups: int = 40) -> Difference:
    """A difference that is no mean over images, as that of two Fréchet distances, by leaving out groups of them.

    Args:
        score: the difference over the images of these indices ``[some]``.
        images: how many there are.
        groups: into how many they are divided; fewer where there are fewer images.
    """
    groups = min(groups, images)
    every = torch.arange(images)
    without = torch.tensor([score(every[every % groups != group]) for group in range(groups)], dtype=torch.float64)
    spread = (without - without.mean()).square().sum() * (groups - 1) / groups
    return Difference(score(every), float(spread.sqrt()))
