"""The processes of a run: which of them this is, and what they agree on. A single process is the ordinary case.

``training.distributed`` starts them; everything else is handed a ``Ranks`` and asks it. No model knows of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
_CPU = torch.device("cpu")


class OtherProcessFailed(OSError):
    """Another process of the run could not go on, and has said why itself."""


class Stopped(Exception):
    """Work was left unfinished because the run is to stop; the next run resumes it.

    Args:
        signal_number: of the signal that asked for it; 0 if it was the clock.
    """

    def __init__(self, signal_number: int = 0) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


@dataclass(frozen=True)
class Ranks:
    """One of ``size`` processes, numbered from 0. The first alone writes folders, logs and speaks.

    Args:
        rank: this one's number.
        size: how many there are.
        device: where this one computes, and where the backend wants its tensors.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = _CPU

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, count: int) -> range:
        """This process's part of ``range(count)``, equal for all.

        Raises:
            ValueError: if it cannot be divided.
        """
        if count % self.size:
            raise ValueError(f"batch_size: {count} cannot be divided among {self.size} processes")
        each = count // self.size
        return range(self.rank * each, (self.rank + 1) * each)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over all processes; without gradient."""
        if self.size == 1:
            return value
        total = value.detach().clone()
        dist.all_reduce(total)
        return total

    def mean(self, value: Tensor) -> Tensor:
        """The mean over all processes; without gradient."""
        return value if self.size == 1 else self.sum(value) / self.size

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """For each flag, whether any process has raised it."""
        return [bool(value) for value in self.largest([int(flag) for flag in flags])]

    def largest(self, values: Sequence[int]) -> list[int]:
        """For each small integer, the largest of any process."""
        if self.size == 1:
            return list(values)
        largest = torch.tensor(list(values), dtype=torch.int32, device=self.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return largest.tolist()

    def stop_if(self, stopped: bool) -> None:
        """Stop all if any process was told to; every process must ask.

        Raises:
            Stopped: on every process alike.
        """
        if any(self.any([stopped])):
            raise Stopped

    def gather(self, value: T) -> list[T]:
        """Every process's value, in their order. For what is small, or rare: it is serialised."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def turns(self, work: Sequence[T]) -> Sequence[T]:
        """The pieces of some work that are this process's, taking turns."""
        return work[self.rank :: self.size]

    def take_turns(self, done: list[T]) -> list[T]:
        """What all made of the pieces of their ``turns``, in the order of the pieces."""
        shares = self.gather(done)
        longest = max(len(share) for share in shares)
        return [share[turn] for turn in range(longest) for share in shares if turn < len(share)]

    def each(self, work: Callable[[], object], what: str) -> None:
        """Let every process do its share of some work, and agree how it ended; ``what`` names the work.

        Raises:
            Stopped: on every process, if one was stopped.
            OtherProcessFailed: on those that did not fail, if another did.
        """
        failure: BaseException | None = None
        stopped = 0  # one more than the signal's number, which is 0 for the clock
        try:
            work()
        except Stopped as reason:
            stopped = 1 + reason.signal_number
        except BaseException as error:
            failure = error
        stopped, any_failed = self.largest([stopped, failure is not None])
        if failure is not None:
            raise failure
        if any_failed:
            raise OtherProcessFailed(f"another process could not finish its part of {what}")
        if stopped:
            raise Stopped(stopped - 1)

    def on_first(self, work: Callable[[], T]) -> T:
        """Let the first process work and tell the others what came of it.

        Raises:
            OtherProcessFailed: on the others, where the first raised a ``ValueError`` or an ``OSError``.
        """
        if self.size == 1:
            return work()
        outcome: list[Any] = [None, None]
        failure: Exception | None = None
        if self.first:
            try:
                outcome[1] = work()
            except (ValueError, OSError) as error:
                outcome[0], failure = str(error), error
        dist.broadcast_object_list(outcome, src=0, device=self.device)
        if failure is not None:
            raise failure
        if outcome[0] is not None:
            raise OtherProcessFailed(f"process 0: {outcome[0]}")
        return outcome[1]


ALONE = Ranks()
