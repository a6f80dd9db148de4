"""The values that flow refuse what does not fit together, and go to grids and back unchanged."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strait.types import NULL_LABEL, Canvas, Condition, StratifiedTokens, Tokens

SIDES = st.integers(1, 5)


def grid(*shape: int) -> torch.Tensor:
    return torch.arange(int(torch.tensor(shape).prod())).reshape(shape)


@pytest.mark.parametrize(
    ("levels", "message"),
    [
        ((), "at least one level"),
        ((torch.zeros(2, 4, 4),), "integers"),
        ((torch.zeros(2, 16, dtype=torch.int64),), r"\(2, 16\)"),
        ((torch.zeros(4, 4, dtype=torch.int64),), r"\(4, 4\)"),
        ((grid(2, 4, 4), grid(3, 8, 8)), r"\[2, 3\]"),
    ],
)
def test_tokens_refuse_what_is_no_grid(levels: tuple[torch.Tensor, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Tokens(levels)


@given(batch=SIDES, height=SIDES, width=SIDES)
def test_a_stratified_pair_is_twice_as_high_and_wide_below(batch: int, height: int, width: int) -> None:
    top, bottom = grid(batch, height, width), grid(batch, 2 * height, 2 * width)
    tokens = StratifiedTokens((top, bottom))
    assert tokens.batch == batch
    assert torch.equal(tokens.top, top)
    assert torch.equal(tokens.bottom, bottom)
    for wrong in (grid(batch, 2 * height + 1, 2 * width), grid(batch, 2 * height, width), top):
        with pytest.raises(ValueError, match=f"{2 * height}x{2 * width} for a top of {height}x{width}"):
            StratifiedTokens((top, wrong))


@pytest.mark.parametrize("count", [1, 3])
def test_a_stratified_pair_is_two(count: int) -> None:
    with pytest.raises(ValueError, match=f"two levels, not {count}"):
        StratifiedTokens(tuple(grid(1, 2, 2) for _ in range(count)))


@given(batch=SIDES, height=SIDES, width=SIDES)
def test_a_blank_canvas_knows_nothing(batch: int, height: int, width: int) -> None:
    canvas = Canvas.blank(batch, (height, width))
    assert canvas.tokens.shape == canvas.masked.shape == (batch, height * width)
    assert canvas.tokens.dtype == torch.int64
    assert canvas.masked.dtype == torch.bool
    assert bool(canvas.masked.all())


@given(batch=SIDES, height=SIDES, width=SIDES, data=st.data())
def test_a_known_canvas_goes_there_and_back(batch: int, height: int, width: int, data: st.DataObject) -> None:
    tokens = grid(batch, height, width).to(torch.int32)
    canvas = Canvas.known(tokens)
    assert canvas.tokens.dtype == torch.int64
    assert torch.equal(canvas.as_grid(), tokens.long())
    assert not canvas.masked.any()
    flags = data.draw(st.lists(st.booleans(), min_size=tokens.numel(), max_size=tokens.numel()))
    masked = torch.tensor(flags).reshape(tokens.shape)
    hidden = Canvas.known(tokens, masked)
    for row in range(batch):
        for down in range(height):
            for right in range(width):
                assert hidden.masked[row, down * width + right] == masked[row, down, right]
                assert hidden.tokens[row, down * width + right] == tokens[row, down, right]


@pytest.mark.parametrize(("tokens", "masked", "sides"), [(6, 6, (2, 2)), (4, 6, (2, 2)), (6, 4, (2, 3))])
def test_a_canvas_refuses_parts_that_do_not_fit(tokens: int, masked: int, sides: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="do not fit together"):
        Canvas(torch.zeros(1, tokens, dtype=torch.int64), torch.zeros(1, masked, dtype=torch.bool), sides)


def test_the_null_condition_loses_the_class_and_keeps_the_context() -> None:
    context = (grid(3, 2, 2),)
    condition = Condition(torch.tensor([4, 0, NULL_LABEL]), context)
    null = condition.without_label()
    assert null.labels.tolist() == [NULL_LABEL] * 3
    assert null.context is context
    assert condition.labels.tolist() == [4, 0, NULL_LABEL]


def test_values_cannot_be_changed() -> None:
    canvas = Canvas.blank(1, (2, 2))
    with pytest.raises(dataclasses.FrozenInstanceError):
        canvas.grid = (1, 4)  # type: ignore[misc]
