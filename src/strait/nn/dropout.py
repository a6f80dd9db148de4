"""Dropout at a CPU's pace."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_STEPS = 2**16


class Dropout(nn.Module):
    """Elements are zeroed at a rate and the others scaled up, while training.

    Args:
        rate: from 0 to below 1; on a CPU to the nearest 65536th.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.rate) if self.training else x


def dropout(x: Tensor, rate: float) -> Tensor:
    """Any shape -> the same.

    Torch's own draws one number an element, one after the other, which on a CPU takes a tenth of a training step
    and more (docs/performance.md). There four elements share one draw of its generator, of 16 bits each.
    """
    if rate == 0:
        return x
    if x.device.type != "cpu":
        return F.dropout(x, rate)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    zeroed = round(rate * _STEPS)
    kept = draws[: x.numel()].view(x.shape) >= zeroed - _STEPS // 2
    return x * kept.to(x.dtype).mul_(_STEPS / (_STEPS - zeroed))
