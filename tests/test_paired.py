"""Paired differences against closed forms, another formula and the spread over independent draws."""

from __future__ import annotations

import math
import statistics

import pytest
import torch

from strait.evaluation.fidelity import frechet_distance
from strait.evaluation.paired import FAILS, HOLDS, UNCLEAR, Difference, paired_jackknife, paired_mean


def test_of_right_and_wrong_answers_it_is_mcnemars_test() -> None:
    """In Wald's form: b images only the first got right, c only the second, whatever the others are."""
    for both, first, second, neither in ((10, 7, 2, 81), (300, 40, 38, 22), (0, 3, 9, 0)):
        ours = torch.tensor([1.0] * (both + first) + [0.0] * (second + neither))
        theirs = torch.tensor([1.0] * both + [0.0] * first + [1.0] * second + [0.0] * neither)
        difference, count = paired_mean(ours, theirs), both + first + second + neither
        variance = (first + second - (first - second) ** 2 / count) / (count - 1)
        assert difference.value == pytest.approx((first - second) / count)
        assert difference.error == pytest.approx(math.sqrt(variance / count))


def test_what_images_have_in_common_cancels() -> None:
    draw = torch.Generator().manual_seed(0)
    common, noise = torch.randn(500, generator=draw) * 100, torch.randn(500, generator=draw)
    difference = paired_mean(common + noise + 1, common)
    assert difference.error < 0.06
    assert difference.verdict() == HOLDS


def test_the_jackknife_of_a_mean_is_the_error_of_a_mean() -> None:
    draw = torch.Generator().manual_seed(1)
    values = torch.randn(60, generator=draw, dtype=torch.float64)
    estimate = paired_jackknife(lambda images: float(values[images].mean()), 60, groups=60)
    assert estimate.value == pytest.approx(float(values.mean()))
    assert estimate.error == pytest.approx(statistics.stdev(values.tolist()) / math.sqrt(60))


def test_the_jackknife_knows_how_far_differences_of_distances_spread() -> None:
    """Against 60 sets drawn anew: two ways to distort the same images, compared by Fréchet distance."""
    reference = torch.randn(4000, 4, generator=torch.Generator().manual_seed(99))

    def difference(seed: int) -> Difference:
        draw = torch.Generator().manual_seed(seed)
        images = torch.randn(400, 4, generator=draw)
        ways = images * 1.3 + torch.randn(400, 4, generator=draw) * 0.2, images + 0.5
        return paired_jackknife(
            lambda some: frechet_distance(ways[0][some], reference) - frechet_distance(ways[1][some], reference), 400
        )

    estimates = [difference(seed) for seed in range(60)]
    spread = statistics.stdev(estimate.value for estimate in estimates)
    assert statistics.mean(estimate.error for estimate in estimates) == pytest.approx(spread, rel=0.25)


def test_nothing_is_said_within_two_standard_errors() -> None:
    assert Difference(0.1, 0.05).verdict() == UNCLEAR
    assert Difference(0.101, 0.05).verdict() == HOLDS
    assert Difference(-0.101, 0.05).verdict() == FAILS
    assert Difference(-0.101, 0.05).verdict(more=False) == HOLDS
    assert Difference(0.0, 0.0).verdict() == UNCLEAR
    # A single image tells nothing.
    assert paired_mean(torch.ones(1), torch.zeros(1)).verdict() == UNCLEAR
