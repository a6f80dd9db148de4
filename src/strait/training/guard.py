"""Guards against non-finite losses: such steps are skipped, too many in a row end training; spikes are reported."""

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
    """The loss or the gradients of a step are not finite; the step has changed nothing."""


class TrainingFailed(ValueError):
    """Training cannot continue; the message names the last good checkpoint."""


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """The norm of all gradients, over all shards; not finite if any gradient is not."""
    gradients = [value.grad for value in parameters if value.grad is not None]
    return whole(torch.nn.utils.get_total_norm(gradients))


def require_finite(loss: Tensor, norm: Tensor, ranks: Ranks) -> None:
    """Raise ``NotFinite`` on every process if the loss or the gradients are not finite on any."""
    bad_loss, bad_norm = ranks.any([not bool(loss.isfinite()), not bool(norm.isfinite())])
    if bad_loss or bad_norm:
        raise NotFinite("the loss is not finite" if bad_loss else "the gradients are not finite")


class Guard:
    """Counts skipped steps in a row, and detects spikes of the loss.

    Args:
        skip_at_most: steps in a row that may be skipped.
        notes: the ``notes()`` of a checkpoint, to resume from.
    """

    def __init__(self, skip_at_most: int, notes: dict[str, Any]) -> None:
        self.skip_at_most = skip_at_most
        self.in_a_row = int(notes.get("skipped_in_a_row", 0))
        self._steps, self._mean, self._variance = notes.get("loss_moments", (0, 0.0, 0.0))

    def skipped(self) -> bool:
        """Count a skipped step; True if there are now too many in a row."""
        self.in_a_row += 1
        return self.in_a_row > self.skip_at_most

    def spike(self, loss: float) -> str | None:
        """Add the loss of a step; returns a message if it is six deviations above the running mean."""
        self.in_a_row = 0
        mean, deviation = self._mean, math.sqrt(self._variance)
        high = self._steps >= _LEAST_STEPS and loss > mean + _DEVIATIONS * deviation
        # Spikes are clipped, so that one does not hide the next.
        clipped = mean + _DEVIATIONS * deviation if high else loss
        weight = max(1 - _MEMORY, 1 / (self._steps + 1))
        self._mean += weight * (clipped - mean)
        self._variance = (1 - weight) * (self._variance + weight * (clipped - mean) ** 2)
        self._steps += 1
        return f"the loss jumped to {loss:.4g}, from {mean:.4g} (deviation {deviation:.2g})" if high else None

    def notes(self) -> dict[str, Any]:
        """The state to store in a checkpoint."""
        return {"skipped_in_a_row": self.in_a_row, "loss_moments": [self._steps, self._mean, self._variance]}
