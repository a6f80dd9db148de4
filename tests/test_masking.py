"""How much is masked: each schedule of Table 10 against plain arithmetic, counts of each step, masks of training."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from strait.decoding.config import SCHEDULES
from strait.decoding.masking import mask_ratio, num_masked, training_mask
from strait.randomness import key, uniform

EVERY = settings(max_examples=100)

# The definitions, with r = progress and n = unknown tokens at the start.
PLAIN: dict[str, Callable[[float, float], float]] = {
    "linear": lambda r, n: 1 - r,
    "square": lambda r, n: 1 - r * r,
    "cubic": lambda r, n: 1 - r * r * r,
    "square_root": lambda r, n: 1 - math.sqrt(r),
    "cosine": lambda r, n: math.cos(math.pi * r / 2),
    "logarithmic": lambda r, n: -math.log(r) / math.log(n) if r else math.inf,
    "exponential": lambda r, n: 1 - math.exp(math.log(n) * (r - 1)),
    "arccos": lambda r, n: math.acos(r) / (math.pi / 2),
}
TABLE_10 = ("logarithmic", "square_root", "linear", "cosine", "square", "cubic", "exponential")


def naive_ratio(schedule: str, progress: float, unknown: int) -> float:
    return min(1.0, max(1e-6, PLAIN[schedule](progress, max(2, unknown))))


def naive_num_masked(schedule: str, step: int, num_steps: int, start: int, unknown: int) -> int:
    """max(1, min(unknown - 1, floor(start * ratio))), and 0 after the last step or where nothing was unknown."""
    if step + 1 >= num_steps or unknown == 0:
        return 0
    # What is an integer on paper must not fall below it by rounding.
    left = math.floor(start * naive_ratio(schedule, (step + 1) / num_steps, start) + 1e-9)
    return max(1, min(unknown - 1, left))


def near_integer(value: float) -> bool:
    return abs(value - round(value)) < 1e-6


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values)


# gamma(r)


def test_every_schedule_of_table_10_is_there():
    assert set(SCHEDULES) == {*TABLE_10, "arccos"} == set(PLAIN)


@pytest.mark.parametrize("schedule", PLAIN)
@EVERY
@given(rows=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4096)), min_size=1, max_size=5))
def test_ratio_equals_plain_math(schedule: str, rows: list[tuple[float, int]]):
    progress = torch.tensor([r for r, _ in rows], dtype=torch.float64)
    unknown = torch.tensor([n for _, n in rows])
    ratio = mask_ratio(schedule, progress, unknown)
    assert ratio.dtype == torch.float64
    assert ratio.tolist() == pytest.approx([naive_ratio(schedule, r, n) for r, n in rows], abs=1e-9)


@pytest.mark.parametrize("schedule", PLAIN)
def test_ratio_at_the_ends_and_its_clip(schedule: str):
    ends = mask_ratio(schedule, torch.tensor([0.0, 1.0]), ints(64, 64))
    assert ends.dtype == torch.float32
    assert ends[1] == torch.tensor(1e-6)
    # Before the first step everything is masked; the exponential reaches that only as n grows.
    assert ends[0] == pytest.approx(63 / 64 if schedule == "exponential" else 1)


@pytest.mark.parametrize("schedule", PLAIN)
def test_ratio_falls(schedule: str):
    progress = torch.linspace(0, 1, 101, dtype=torch.float64)
    ratio = mask_ratio(schedule, progress, torch.full((101,), 256))
    assert (ratio.diff() <= 0).all()
    assert ratio[0] > ratio[50] > ratio[100]


@pytest.mark.parametrize("schedule", TABLE_10)
def test_curvature_is_what_table_10_says(schedule: str):
    # Not below 1/n, where the logarithmic is clipped.
    progress = torch.linspace(1 / 64, 1, 65, dtype=torch.float64)
    bend = mask_ratio(schedule, progress, torch.full((65,), 64)).diff().diff()[:-1]
    if schedule in ("logarithmic", "square_root"):
        assert (bend > 0).all()
    elif schedule == "linear":
        assert bend.abs().max() < 1e-9
    else:
        assert (bend < 0).all()


def test_unknown_schedule_is_named():
    with pytest.raises(ValueError, match=r"'sinus'.*cosine"):
        mask_ratio("sinus", torch.tensor([0.5]), ints(4))
    with pytest.raises(ValueError, match="'sinus'"):
        num_masked("sinus", ints(0), ints(2), ints(4), ints(4))
    with pytest.raises(ValueError, match="'sinus'"):
        training_mask("sinus", torch.tensor([0.5]), torch.rand(1, 4))


# gamma(t, T)


@st.composite
def steps_of_rows(draw: st.DrawFn) -> list[tuple[int, int, int, int]]:
    """(step, num_steps, start, unknown) of a few rows, none of them on an integer before the floor."""
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        num_steps, start = draw(st.integers(1, 30)), draw(st.integers(0, 1024))
        rows.append((draw(st.integers(0, num_steps - 1)), num_steps, start, draw(st.integers(0, start))))
    return rows


@pytest.mark.parametrize("schedule", PLAIN)
@EVERY
@given(rows=steps_of_rows())
def test_count_equals_naive(schedule: str, rows: list[tuple[int, int, int, int]]):
    for step, num_steps, start, _ in rows:
        ratio = naive_ratio(schedule, (step + 1) / num_steps, start)
        assume(ratio in (1e-6, 1.0) or not near_integer(start * ratio))
    left = num_masked(schedule, *(torch.tensor(column) for column in zip(*rows, strict=True)))
    assert left.dtype == torch.int64
    assert left.tolist() == [naive_num_masked(schedule, *row) for row in rows]


EXACT: dict[str, Callable[[Fraction], Fraction]] = {
    "linear": lambda r: 1 - r,
    "square": lambda r: 1 - r**2,
    "cubic": lambda r: 1 - r**3,
}


@pytest.mark.parametrize("schedule", EXACT)
def test_count_is_exact_where_the_ratio_is_rational(schedule: str):
    for num_steps in range(2, 25):
        for start in (10, 16, 25, 36, 64, 100, 256):
            steps = torch.arange(num_steps - 1)
            every = torch.ones_like(steps)
            left = num_masked(schedule, steps, every * num_steps, every * start, every * start)
            exact = [start * EXACT[schedule](Fraction(step + 1, num_steps)) for step in range(num_steps - 1)]
            assert left.tolist() == [max(1, min(start - 1, math.floor(value))) for value in exact], (num_steps, start)


@pytest.mark.parametrize(
    ("schedule", "step", "num_steps", "start", "left"),
    [
        ("cosine", 3, 6, 64, 32),  # cos(60 degrees)
        ("arccos", 2, 6, 48, 32),  # arccos(1/2) is a third of pi
        ("logarithmic", 3, 16, 64, 21),  # log2(4) / log2(64) = 1/3 of 64
        ("logarithmic", 0, 8, 64, 32),  # log2(8) / log2(64) = 1/2
        ("square_root", 3, 9, 36, 12),  # 1 - 2/3
        ("exponential", 3, 6, 64, 48),  # 1 - 64^(-1/3) = 3/4
        ("exponential", 4, 6, 64, 32),  # 1 - 64^(-1/6) = 1/2
    ],
)
def test_count_at_progress_where_the_ratio_is_round(schedule: str, step: int, num_steps: int, start: int, left: int):
    assert num_masked(schedule, ints(step), ints(num_steps), ints(start), ints(start)).tolist() == [left]


@pytest.mark.parametrize("schedule", PLAIN)
def test_nothing_is_left_after_the_last_step_or_where_nothing_was_unknown(schedule: str):
    numbers = torch.arange(1, 20)
    after_last = num_masked(schedule, numbers - 1, numbers, torch.full_like(numbers, 64), numbers)
    assert after_last.tolist() == [0] * 19
    none_unknown = num_masked(
        schedule, torch.zeros_like(numbers), numbers, torch.zeros_like(numbers), torch.zeros_like(numbers)
    )
    assert none_unknown.tolist() == [0] * 19


@pytest.mark.parametrize("schedule", PLAIN)
def test_each_step_decodes_at_least_one_token_until_one_is_left(schedule: str):
    for start in (1, 2, 5, 64):
        unknown, num_steps = start, 18
        for step in range(num_steps):
            left = int(num_masked(schedule, ints(step), ints(num_steps), ints(start), ints(unknown)))
            if step == num_steps - 1:
                assert left == 0
            else:
                assert left == 1 if unknown == 1 else 1 <= left < unknown
            unknown = left


@pytest.mark.parametrize("schedule", PLAIN)
def test_rows_do_not_see_each_other(schedule: str):
    step, num_steps, start, unknown = ints(0, 4, 2, 7), ints(3, 9, 3, 8), ints(16, 49, 12, 3), ints(16, 20, 5, 2)
    together = num_masked(schedule, step, num_steps, start, unknown)
    alone = [
        int(num_masked(schedule, *(part[row : row + 1] for part in (step, num_steps, start, unknown))))
        for row in range(4)
    ]
    assert together.tolist() == alone


# Masks of training


@pytest.mark.parametrize("schedule", PLAIN)
@EVERY
@given(
    length=st.integers(1, 80),
    progress=st.lists(st.floats(0, 1, exclude_min=True, exclude_max=True), min_size=1, max_size=5),
    seed=st.integers(0, 10**6),
)
def test_training_mask_has_the_prescribed_count(schedule: str, length: int, progress: list[float], seed: int):
    ratios = [naive_ratio(schedule, r, length) for r in progress]
    assume(all(ratio == 1 or not near_integer(length * ratio) for ratio in ratios))
    scores = uniform(key(seed, torch.arange(len(progress))[:, None], torch.arange(length)))
    masked = training_mask(schedule, torch.tensor(progress, dtype=torch.float64), scores)
    assert masked.dtype == torch.bool
    assert masked.shape == scores.shape
    for row, ratio in enumerate(ratios):
        count = max(1, math.ceil(length * ratio))
        assert int(masked[row].sum()) == count
        smallest = sorted(range(length), key=lambda place: float(scores[row, place]))[:count]
        assert sorted(smallest) == masked[row].nonzero().flatten().tolist()


def test_training_mask_always_masks_something():
    progress = torch.tensor([1 - 2.0**-24, 0.999999, 2.0**-24])
    for schedule in PLAIN:
        counts = training_mask(schedule, progress, uniform(key(1, torch.arange(3)[:, None], torch.arange(16)))).sum(-1)
        assert counts.min() >= 1, schedule
        assert counts[0] == 1, schedule
        # At progress 0 the exponential is 1 - 1/n: one token short of all.
        assert counts[2] == (15 if schedule == "exponential" else 16), schedule


def test_training_mask_is_uniform_over_positions_and_follows_the_mean_ratio():
    rows, length = 20_000, 16
    progress = uniform(key(2, torch.arange(rows)))
    masked = training_mask("cosine", progress, uniform(key(3, torch.arange(rows)[:, None], torch.arange(length))))
    frequency = masked.double().mean(0)
    # The mean of cos(pi r / 2) over uniform r is 2 / pi; rounding up to whole tokens adds half a token on average.
    assert float(frequency.mean()) == pytest.approx(2 / math.pi + 0.5 / length, abs=0.01)
    deviation = math.sqrt(float(frequency.mean()) * (1 - float(frequency.mean())) / rows)
    assert (frequency - frequency.mean()).abs().max() < 5 * deviation
