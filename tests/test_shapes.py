"""The checks of ``shapes.py`` find what does not fit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from strait.types import Canvas, Condition, DecodingStep, Sampling, Tokens

_CANVAS = Canvas.blank(2, (2, 3))
_STEP = DecodingStep("top", 0, 1, _CANVAS, _CANVAS.tokens, torch.zeros(2, 6), torch.ones(2, 6, dtype=torch.bool))
_SAMPLING = Sampling(
    torch.zeros(2, dtype=torch.int64),
    torch.ones(2, dtype=torch.int64),
    torch.zeros(2),
    torch.zeros(2),
    torch.zeros(2, dtype=torch.int64),
)


@pytest.mark.parametrize(
    ("value", "change", "message"),
    [
        (_CANVAS, {"tokens": torch.zeros(2, 6)}, "Canvas.tokens must be int64 batch length"),
        (_CANVAS, {"masked": torch.zeros(2, 6, dtype=torch.int64)}, "Canvas.masked must be bool"),
        (_CANVAS, {"given": torch.zeros(2, 5, dtype=torch.bool)}, "Canvas.given must be bool"),
        (_STEP, {"confidence": torch.zeros(2, 6, dtype=torch.int64)}, "DecodingStep.confidence must be float"),
        (_STEP, {"drawn": torch.zeros(2, 1, dtype=torch.int64)}, "DecodingStep.drawn|DecodingStep.confidence"),
        (_SAMPLING, {"seed": torch.zeros(3, dtype=torch.int64)}, "Sampling.seed must be int64 batch"),
        (_SAMPLING, {"guidance": torch.zeros(2, 1)}, "Sampling.guidance must be float batch"),
        (Condition(torch.zeros(2, dtype=torch.int64)), {"context": (torch.zeros(3, 2, 2).long(),)}, "Condition.cont"),
    ],
)
def test_a_value_that_does_not_fit_its_annotation_is_refused(value: Any, change: dict[str, Any], message: str):
    with pytest.raises(TypeError, match=message):
        replace(value, **change)


def test_grids_of_two_sizes_fit():
    levels = (torch.zeros(2, 2, 2, dtype=torch.int64), torch.zeros(2, 4, 4, dtype=torch.int16))
    assert Tokens(levels).batch == 2
    assert Condition(torch.zeros(2, dtype=torch.int64), levels).context == levels
