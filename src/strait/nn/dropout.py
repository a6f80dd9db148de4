"""Dropout that is fast on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_STEPS = 2**16


class Dropout(nn.Module):
    """Zeroes elements at random and scales up the others, in training only.

    Args:
        rate: share of zeroed elements, in [0, 1); on a CPU rounded to 1/65536.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.rate) if self.training else x


def dropout(x: Tensor, rate: float) -> Tensor:
    """Any shape -> the same shape.

    Torch's dropout draws a random number for each element, sequentially, which on a CPU takes a tenth of a training
    step and more (docs/performance.md). Here four elements share a draw of 64 bits.
    """
    if rate == 0:
        return x
    # Compiled code draws its random numbers inside its loops; this draw would divide it into several.
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return F.dropout(x, rate)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    zeroed = round(rate * _STEPS)
    mask = draws[: x.numel()].view(x.shape) >= zeroed - _STEPS // 2
    return x * mask.to(x.dtype).mul_(_STEPS / (_STEPS - zeroed))
