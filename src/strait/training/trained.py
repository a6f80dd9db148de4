"""A module in training with its optimizer and averaged weights, saved and loaded as one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from strait.training.checkpoint import with_prefix
from strait.training.distributed import placed
from strait.training.ema import ExponentialMovingAverage
from strait.training.optimizer import load_optimizer_tensors, optimizer_tensors, set_learning_rate

Module = TypeVar("Module", bound=nn.Module)


class Trained(Generic[Module]):
    """A network with its optimizer and, optionally, averaged weights.

    Args:
        module: on its device.
        optimizer: of its parameters.
        ema_decay: of the averaged weights; 0 for none.
        names: prefixes of weights and optimizer state in a checkpoint.
    """

    def __init__(
        self,
        module: Module,
        optimizer: Optimizer,
        ema_decay: float = 0.0,
        names: tuple[str, str] = ("model", "optimizer"),
    ) -> None:
        self.module, self.optimizer, self._names = module, optimizer, names
        self.ema = ExponentialMovingAverage(module, ema_decay) if ema_decay else None

    def start_step(self, rate: float) -> None:
        """Set the learning rate and clear the gradients."""
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)

    def update_average(self, step: int) -> None:
        """Add the weights after step ``step`` (from 0) to their average, if there is one."""
        if self.ema is not None:
            self.ema.update(step)

    @contextmanager
    def as_shipped(self) -> Iterator[None]:
        """The module as it would be saved: averaged weights if there are any, in evaluation mode. Eager, since
        compiling for another batch size takes longer than running it."""
        self.module.eval()
        with torch.compiler.set_stance("force_eager"), self.ema.applied() if self.ema else nullcontext():
            yield

    def weights(self) -> dict[str, Tensor]:
        """The weights to save, averaged if there is an average; sharded like the module."""
        average = {} if self.ema is None else self.ema.average
        return {**self.module.state_dict(), **average}

    def tensors(self) -> dict[str, Tensor]:
        """The complete training state; sharded like the module."""
        weights, moments = self._names
        tensors = {f"{weights}/{name}": value for name, value in self.module.state_dict().items()}
        for name, value in optimizer_tensors(self.optimizer, self.module).items():
            tensors[f"{moments}/{name}"] = value
        if self.ema is not None:
            tensors.update({f"ema/{name}": value for name, value in self.ema.average.items()})
        return tensors

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of ``tensors``, from full tensors."""
        weights, moments = self._names
        saved = with_prefix(tensors, f"{weights}/")
        self.module.load_state_dict(
            {name: placed(saved[name], value) for name, value in self.module.state_dict().items()}
        )
        load_optimizer_tensors(self.optimizer, self.module, with_prefix(tensors, f"{moments}/"))
        if self.ema is not None:
            self.ema.load(with_prefix(tensors, "ema/"))


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies that later steps do not change."""
    return {name: value.detach().clone() for name, value in tensors.items()}
