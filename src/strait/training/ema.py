"""An exponential moving average of a model's weights, which become the saved model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from strait.training.distributed import placed


class ExponentialMovingAverage:
    """A float32 average of all parameters; the decay is smaller in the first steps, to forget the random weights."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model, self.decay = model, decay
        self.average = {name: value.detach().clone().float() for name, value in model.named_parameters()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Fold the weights after step ``step`` (from 0) in."""
        decay = min(self.decay, (1 + step) / (10 + step))
        names = list(self.average)
        parameters = dict(self.model.named_parameters())
        torch._foreach_lerp_(
            [self.average[name] for name in names], [parameters[name].detach().float() for name in names], 1 - decay
        )

    @torch.no_grad()
    def load(self, average: dict[str, Tensor]) -> None:
        """Load a saved average; parameters without one start from the model's present values."""
        for name, parameter in self.model.named_parameters():
            current = self.average[name]
            current.copy_(placed(average[name], current) if name in average else parameter)

    @contextmanager
    def applied(self) -> Iterator[nn.Module]:
        """The model with averaged weights inside the context."""
        trained = {name: value.detach().clone() for name, value in self.model.named_parameters()}
        self._put(self.average)
        try:
            yield self.model
        finally:
            self._put(trained)

    @torch.no_grad()
    def _put(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.model.named_parameters():
            parameter.copy_(values[name])
