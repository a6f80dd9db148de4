"""gamma: the share of masked tokens. All schedules of Table 10, the counts of each step, and training masks.

Source: StraIT sections 2.1 and 3.3, Table 10; MaskGIT's decoding step, which the paper adopts.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from strait.decoding.config import SCHEDULES

_SMALLEST = 1e-6

_RATIOS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": lambda r, n: 1 - r,
    "square": lambda r, n: 1 - r**2,
    "cubic": lambda r, n: 1 - r**3,
    "square_root": lambda r, n: 1 - r**0.5,
    "cosine": lambda r, n: torch.cos(math.pi / 2 * r),
    "logarithmic": lambda r, n: -torch.log2(r) / torch.log2(n),
    "exponential": lambda r, n: 1 - n ** (r - 1),
    # Not in the paper: training masks with more high ratios.
    "arccos": lambda r, n: torch.acos(r) * (2 / math.pi),
}


def mask_ratio(schedule: str, progress: Tensor, unknown: Tensor) -> Tensor:
    """The share of masked tokens at a progress, gamma(r).

    Args:
        schedule: one of ``SCHEDULES``.
        progress: ``[batch]`` in [0, 1].
        unknown: ``[batch]``, number of unknown tokens at the start; two schedules depend on it.

    Returns:
        ``[batch]`` in [1e-6, 1], of the dtype of ``progress``.

    Raises:
        ValueError: for an unknown schedule.
    """
    if schedule not in _RATIOS:
        raise ValueError(f"schedule: {schedule!r} is not one of {', '.join(SCHEDULES)}")
    count = unknown.to(progress.dtype).clamp(min=2)
    return _RATIOS[schedule](progress, count).clamp(_SMALLEST, 1.0)


def num_masked(schedule: str, step: Tensor, num_steps: Tensor, start: Tensor, unknown: Tensor) -> Tensor:
    """The number of tokens masked after a step, gamma(t, T) of the algorithm in section 3.3.

    Args:
        schedule: one of ``SCHEDULES``.
        step: int ``[batch]``, the step just taken, from 0.
        num_steps: int ``[batch]``.
        start: int ``[batch]``, number of masked tokens on the first canvas.
        unknown: int ``[batch]``, number of masked tokens before this step.

    Returns:
        int64 ``[batch]``: max(1, min(unknown - 1, floor(start * ratio))), and 0 after the last step or if no token was
        masked.
    """
    # float64 if the device has it, and a margin for rounding: a product that is exactly an integer must not be floored
    # to the one below, on any device.
    dtype, margin = (torch.float32, 1e-4) if step.device.type == "mps" else (torch.float64, 1e-9)
    progress = (step + 1).to(dtype) / num_steps.to(dtype)
    left = torch.floor(start.to(dtype) * mask_ratio(schedule, progress, start) + margin).to(torch.int64)
    left = torch.minimum(left, unknown - 1).clamp(min=1)
    done = (step + 1 >= num_steps) | (unknown == 0)
    return left.masked_fill(done, 0)


def most_masked(schedule: str, num_steps: Tensor, start: Tensor, steps: int) -> list[int]:
    """The largest number of masked tokens in a row before each step of a level.

    Computed before the level starts, so that the loop need not synchronise with an accelerator at each step.

    Args:
        schedule: one of ``SCHEDULES``.
        num_steps: int ``[batch]``.
        start: int ``[batch]``, number of masked tokens on the first canvas.
        steps: number of steps.
    """
    if not len(start):
        return [0] * steps
    unknown, counts = start, []
    for step in range(steps):
        counts.append(unknown.max())
        unknown = num_masked(schedule, torch.full_like(start, step), num_steps, start, unknown)
    return torch.stack(counts).tolist()


def training_mask(schedule: str, progress: Tensor, scores: Tensor) -> Tensor:
    """Random masks for training: as many random positions as the schedule has masked at a uniform progress.

    Args:
        schedule: one of ``SCHEDULES``.
        progress: ``[batch]``, uniform in (0, 1).
        scores: ``[batch, length]``, random; the positions of the smallest are masked.

    Returns:
        bool ``[batch, length]`` with at least one True in each row.
    """
    length = scores.shape[-1]
    total = torch.full_like(progress, length)
    count = torch.ceil(length * mask_ratio(schedule, progress, total)).clamp(min=1)
    ranks = scores.argsort(-1).argsort(-1)
    return ranks < count[:, None]
