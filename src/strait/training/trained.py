"""A module in training, with its optimizer and the average of its weights: saved, loaded and stepped as one."""

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
    """What a trainee holds for each network that it trains.

    Args:
        module: on its device.
        optimizer: of its parameters.
        ema_decay: of the averaged weights; 0 for none.
        names: what the weights and the optimizer's moments are called in a checkpoint.
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
        """Set the learning rate, and forget the gradients of the step before."""
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)

    def update_average(self, step: int) -> None:
        """Fold the weights after step ``step`` (from 0) into their average, where there is one."""
        if self.ema is not None:
            self.ema.update(step)

    @contextmanager
    def as_shipped(self) -> Iterator[None]:
        """A look, in the midst of training, at what would be shipped: averaged weights where there are any, in
        evaluation mode, uncompiled, since to compile for batches of another size takes longer than to run them."""
        self.module.eval()
        with torch.compiler.set_stance("force_eager"), self.ema.applied() if self.ema else nullcontext():
            yield

    def weights(self) -> dict[str, Tensor]:
        """What becomes the model's: the averaged weights where there are any; shards as they lie."""
        average = {} if self.ema is None else self.ema.average
        return {**self.module.state_dict(), **average}

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a resumed run needs; shards as they lie."""
        weights, moments = self._names
        tensors = {f"{weights}/{name}": value for name, value in self.module.state_dict().items()}
        for name, value in optimizer_tensors(self.optimizer, self.module).items():
            tensors[f"{moments}/{name}"] = value
        if self.ema is not None:
            tensors.update({f"ema/{name}": value for name, value in self.ema.average.items()})
        return tensors

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of ``tensors``, from whole tensors."""
        weights, moments = self._names
        saved = with_prefix(tensors, f"{weights}/")
        self.module.load_state_dict(
            {name: placed(saved[name], value) for name, value in self.module.state_dict().items()}
        )
        load_optimizer_tensors(self.optimizer, self.module, with_prefix(tensors, f"{moments}/"))
        if self.ema is not None:
            self.ema.load(with_prefix(tensors, "ema/"))


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that later steps do not change."""
    return {name: value.detach().clone() for name, value in tensors.items()}
