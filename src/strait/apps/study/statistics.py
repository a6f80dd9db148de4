"""Confidence intervals of preferences and agreement of raters, in closed form (no torch here)."""

from __future__ import annotations

import math
from collections.abc import Sequence

Z95 = 1.959963984540054
"""Two-sided 95% quantile of the normal distribution."""


def wilson(successes: float, trials: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a rate; (0, 1) without trials.

    Args:
        successes: between 0 and ``trials``.
        trials: number of trials; both may be fractional (``effective_trials``).
        z: quantile of the normal distribution.
    """
    if trials <= 0:
        return 0.0, 1.0
    rate = successes / trials
    middle = (rate + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * math.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    return max(0.0, middle - half), min(1.0, middle + half)


def effective_trials(groups: Sequence[Sequence[int]]) -> float:
    """The effective number of independent answers among grouped ones: all answers / design effect.

    Fifteen answers to one pair of images say less about two methods than one answer each to fifteen pairs. The design
    effect is the variance of the rate between pairs, relative to that of independent answers, and at least 1.

    Args:
        groups: the answers, 0 or 1, to each pair.
    """
    groups = [group for group in groups if group]
    total, ones = sum(map(len, groups)), sum(map(sum, groups))
    if len(groups) < 2 or ones in (0, total):
        # The variance between pairs is unknown, so each pair counts as one answer.
        return float(len(groups))
    rate = ones / total
    between = sum((sum(group) - rate * len(group)) ** 2 for group in groups) * len(groups) / (len(groups) - 1)
    return total / max(1.0, between / total / (rate * (1 - rate)))


def krippendorff_alpha(units: Sequence[Sequence[int]]) -> float | None:
    """Krippendorff's alpha of nominal answers: 1 for full agreement, 0 for chance; units may differ in size.

    Args:
        units: the answers to each unit; units with fewer than two answers are ignored.

    Returns:
        Alpha; None if it is undefined: no unit has two answers, or all answers are equal.
    """
    units = [unit for unit in units if len(unit) > 1]
    total = sum(map(len, units))
    values = {value for unit in units for value in unit}
    if len(values) < 2:
        return None
    totals = {value: sum(unit.count(value) for unit in units) for value in values}
    observed = sum(
        sum(unit.count(value) * (len(unit) - unit.count(value)) for value in values) / (len(unit) - 1)
        for unit in units
    )
    expected = sum(count * (total - count) for count in totals.values()) / (total - 1)
    return 1 - observed / expected
