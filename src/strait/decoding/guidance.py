"""Classifier-free guidance: the condition and the null condition in one batch of twice the size.

logits = conditional + scale * (conditional - unconditional). Source: StraIT section 4.2, scale 0.2.

Over the steps the scale may grow: linearly; as a power-cosine (MDT; MaskBit decodes with it); or only late, after a
start (guidance in an interval; eMIGM keeps its late part).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from strait.types import Bind, Canvas, Condition, LogitsFn


class Guided:
    """A transformer bound to its condition and, with guidance, also to the null condition.

    Args:
        bind: of the transformer.
        condition: with labels.
        guided: False leaves out the unconditional half of the batch.
    """

    def __init__(self, bind: Bind, condition: Condition, guided: bool) -> None:
        self.guided = guided
        if guided:
            null = condition.without_label()
            condition = Condition(
                torch.cat([condition.labels, null.labels]),
                tuple(torch.cat([grid, grid]) for grid in condition.context),
            )
        self._network = bind(condition)

    def at(self, scale: Tensor) -> LogitsFn:
        """The network with a guidance of ``scale`` ``[batch]``, which can differ between rows and steps."""
        if not self.guided:
            return self._network

        def logits(canvas: Canvas, positions: Tensor | None = None) -> Tensor:
            doubled = Canvas(torch.cat([canvas.tokens] * 2), torch.cat([canvas.masked] * 2), canvas.grid)
            places = None if positions is None else torch.cat([positions] * 2)
            conditional, unconditional = self._network(doubled, places).chunk(2)
            return conditional + scale[:, None, None].to(conditional.dtype) * (conditional - unconditional)

        return logits


POWER = 3
"""Of the power-cosine: half the scale is reached at 0.5 ** (1 / 3) = 79% of the steps."""


def ramped(scale: Tensor, step: Tensor, num_steps: Tensor, ramp: str, start: float = 0.0) -> Tensor:
    """The guidance ``[batch]`` of a step at the progress r = (step + 1) / num_steps.

    Args:
        scale: ``[batch]``, reached at the last step.
        step: int ``[batch]``, from 0.
        num_steps: int ``[batch]``.
        ramp: ``constant``; ``linear``, scale * r; or ``power_cosine``, scale * (1 - cos(pi * r ** 3)) / 2.
        start: the guidance is 0 while r <= start.
    """
    if ramp == "linear":
        values = scale * (step + 1) / num_steps
    elif ramp == "power_cosine":
        values = scale * (1 - torch.cos(math.pi * ((step + 1) / num_steps) ** POWER)) / 2
    else:
        values = scale
    # A margin for rounding: a product that is exactly an integer may be rounded below it.
    return values if start == 0 else values.masked_fill(step + 1 <= start * num_steps + 1e-4, 0.0)
