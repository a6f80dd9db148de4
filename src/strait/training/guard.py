"""Guards against non-finite losses: such steps are skipped, too many in a row end training; jumps are noted."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from strait.runtime.ranks import Ranks
from strait.training.distributed import whole

_MEMORY, _LEAST_STEPS, _DEVIATIONS = 0.99, 100, 6.0


class NotFinite(ArithmeticError):
    """A step whose loss or gradients are not finite; it has changed nothing."""


class TrainingFailed(ValueError):
    """Training cannot go on by itself; the message says from where it can."""


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The norm of all gradients together, shards included; not finite if one of them is not."""
    gradients = [value.grad for value in parameters if value.grad is not None]
    return whole(torch.nn.utils.get_total_norm(gradients))


def require_finite(loss: Tensor, norm: Tensor, ranks: Ranks) -> None:
    """Raise ``NotFinite`` on every process if loss or gradients are not finite on one."""
    bad_loss, bad_norm = ranks.any([not bool(loss.isfinite()), not bool(norm.isfinite())])
    if bad_loss or bad_norm:
        raise NotFinite("the loss is not finite" if bad_loss else "the gradients are not finite")


class Guard:
    """Counts skipped steps in a row, and knows when a loss is far above what it was.

    Args:
        skip_at_most: steps in a row that may be skipped.
        notes: what a checkpoint kept of ``notes()``.
    """

    def __init__(self, skip_at_most: int, notes: dict[str, Any]) -> None:
        self.skip_at_most = skip_at_most
        self.in_a_row = int(notes.get("skipped_in_a_row", 0))
        self._steps, self._mean, self._variance = notes.get("loss_moments", (0, 0.0, 0.0))

    def skipped(self) -> bool:
        """Note a skipped step; True if it was one too many."""
        self.in_a_row += 1
        return self.in_a_row > self.skip_at_most

    def spike(self, loss: float) -> str | None:
        """Fold the loss of a step in; where it lies six deviations above the running mean, say so in words."""
        self.in_a_row = 0
        mean, deviation = self._mean, math.sqrt(self._variance)
        high = self._steps >= _LEAST_STEPS and loss > mean + _DEVIATIONS * deviation
        # A jump is held back, so that one does not hide the next.
        seen = mean + _DEVIATIONS * deviation if high else loss
        weight = max(1 - _MEMORY, 1 / (self._steps + 1))
        self._mean += weight * (seen - mean)
        self._variance = (1 - weight) * (self._variance + weight * (seen - mean) ** 2)
        self._steps += 1
        return f"the loss jumped to {loss:.4g}, from {mean:.4g} (deviation {deviation:.2g})" if high else None

    def notes(self) -> dict[str, Any]:
        """What a checkpoint must hold."""
        return {"skipped_in_a_row": self.in_a_row, "loss_moments": [self._steps, self._mean, self._variance]}
