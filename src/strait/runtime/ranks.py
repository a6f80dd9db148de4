"""The processes of a distributed run: rank, size and collective operations. A single process is the default.

``training.distributed`` creates a ``Ranks`` and passes it on. Models do not depend on it.
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
    """Another process of the run failed, and has reported the reason."""


class Stopped(Exception):
    """The run stops before its work is finished; the next run resumes it.

    Args:
        signal_number: of the signal that requested it; 0 for a deadline.
    """

    def __init__(self, signal_number: int = 0) -> None:
        super().__init__(signal_number)
        self.signal_number = signal_number


@dataclass(frozen=True)
class Ranks:
    """One of ``size`` processes, numbered from 0. Only the first writes folders and logs and prints messages.

    Args:
        rank: number of this process.
        size: number of processes.
        device: on which this process computes and communicates.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = _CPU

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, count: int) -> range:
        """This process's part of ``range(count)``, of equal size for all.

        Raises:
            ValueError: if the count is not divisible by the number of processes.
        """
        if count % self.size:
            raise ValueError(f"batch_size: {count} is not divisible by the number of processes, {self.size}")
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
        """For each flag, whether it is set on any process."""
        return [bool(value) for value in self.largest([int(flag) for flag in flags])]

    def largest(self, values: Sequence[int]) -> list[int]:
        """The elementwise maximum of small integers over all processes."""
        if self.size == 1:
            return list(values)
        largest = torch.tensor(list(values), dtype=torch.int32, device=self.device)
        dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return largest.tolist()

    def stop_if(self, stopped: bool) -> None:
        """Stop all processes if any is to stop; every process must call it.

        Raises:
            Stopped: on every process.
        """
        if any(self.any([stopped])):
            raise Stopped

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in order. For small or rare values: they are serialised."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def turns(self, work: Sequence[T]) -> Sequence[T]:
        """The items that this process handles when items are dealt out in turn."""
        return work[self.rank :: self.size]

    def take_turns(self, done: list[T]) -> list[T]:
        """The results of all processes' ``turns``, in the order of the items."""
        shares = self.gather(done)
        longest = max(len(share) for share in shares)
        return [share[turn] for turn in range(longest) for share in shares if turn < len(share)]

    def each(self, work: Callable[[], object], what: str) -> None:
        """Let every process do its share of some work, and agree on the outcome.

        Args:
            work: this process's share.
            what: name of the work, for error messages.

        Raises:
            Stopped: on every process, if any was stopped.
            OtherProcessFailed: on the processes that succeeded, if another failed.
        """
        failure: BaseException | None = None
        stopped = 0  # the signal's number plus one; a deadline has the number 0
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
        """Run some work on the first process and share its result.

        Raises:
            OtherProcessFailed: on the others, if the first raised a ``ValueError`` or an ``OSError``.
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
