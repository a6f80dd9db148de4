"""Classifier-free guidance: the condition and the null condition in one batch of twice the size.

logits = conditional + scale * (conditional - unconditional). Source: StraIT section 4.2, scale 0.2.
"""

from __future__ import annotations

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


def ramped(scale: Tensor, step: Tensor, num_steps: Tensor, ramp: str) -> Tensor:
    """The guidance ``[batch]`` of a step: constant, or growing linearly to ``scale`` at the last step."""
    return scale if ramp == "constant" else scale * (step + 1) / num_steps
