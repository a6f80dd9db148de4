"""Rates and agreement of the preference study, against naive second ways and published values."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strait.apps.study.statistics import Z95, effective_trials, krippendorff_alpha, wilson


@given(st.integers(1, 400), st.data())
def test_wilson_holds_the_rates_that_a_score_test_accepts(trials: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, trials))
    low, high = wilson(successes, trials)

    def distance(rate: float) -> float:
        return abs(successes / trials - rate) - Z95 * (rate * (1 - rate) / trials) ** 0.5

    # The interval's ends are where the test turns: inside it accepts, outside it refuses.
    for end in (low, high):
        if 1e-9 < end < 1 - 1e-9:
            assert distance(end) == pytest.approx(0, abs=1e-9)
    assert low - 1e-12 <= successes / trials <= high + 1e-12
    assert distance((low + high) / 2) < 0


def test_wilson_of_known_figures() -> None:
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for successes, trials, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)
    assert wilson(0, 0) == (0, 1)


def _naive_alpha(units: list[list[int]]) -> float:
    units = [unit for unit in units if len(unit) > 1]
    everything = [value for unit in units for value in unit]
    observed = [(a != b, 1 / (len(unit) - 1)) for unit in units for a, b in itertools.permutations(unit, 2)]
    expected = [a != b for a, b in itertools.permutations(everything, 2)]
    return 1 - (sum(d * w for d, w in observed) / len(everything)) / (sum(expected) / len(expected))


@given(st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=8))
def test_alpha_is_one_minus_observed_over_expected_disagreement(units: list[list[int]]) -> None:
    alpha = krippendorff_alpha(units)
    if len({value for unit in units if len(unit) > 1 for value in unit}) < 2:
        assert alpha is None
    else:
        assert alpha == pytest.approx(_naive_alpha(units), abs=1e-12)


def test_alpha_of_krippendorffs_own_example() -> None:
    # Krippendorff, "Computing Krippendorff's alpha-reliability": twelve units, four observers, 0 is missing.
    rows = ["123321412000", "123322412503", "033323422510", "123324412510"]
    units = [[int(row[place]) for row in rows if row[place] != "0"] for place in range(12)]
    assert krippendorff_alpha(units) == pytest.approx(0.743, abs=5e-4)


def test_answers_about_few_pairs_are_worth_less() -> None:
    alike = [[1] * 10, [0] * 10, [1] * 10, [0] * 10]
    assert effective_trials(alike) == pytest.approx(3)  # four pairs of one mind each; the variance takes k / (k - 1)
    assert effective_trials([[0, 1] * 5] * 4) == 40  # pairs do not differ: all answers count
    assert effective_trials([[1] * 10] * 4) == 4
    assert effective_trials([[1, 0, 1]]) == 1
    assert effective_trials([]) == 0


def test_intervals_at_effective_trials_cover_as_they_say() -> None:
    draw, covered, narrow = random.Random(0), 0, 0
    for _ in range(400):
        chances = [draw.choice((0.15, 0.95)) for _ in range(30)]
        groups = [[int(draw.random() < chance) for _ in range(15)] for chance in chances]
        rate, worth = sum(map(sum, groups)) / 450, effective_trials(groups)
        low, high = wilson(rate * worth, worth)
        covered += low <= 0.55 <= high
        low, high = wilson(rate * 450, 450)
        narrow += low <= 0.55 <= high
    assert covered / 400 > 0.92
    assert narrow / 400 < 0.7
