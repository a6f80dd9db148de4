"""Orderly stop before the last step: by a deadline, Ctrl-C, or a signal from a scheduler."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from strait.runtime.ranks import Ranks

# Sent by schedulers before they end a job (SLURM: SIGUSR1 or SIGUSR2; a CPU time limit: SIGXCPU), and by a terminal
# that is closed.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
_ORDERLY = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
_HANGUP = getattr(signal, "SIGHUP", None)


@dataclass
class Stop:
    """Whether, and why, work should stop early."""

    deadline: float | None = None
    signal_number: int | None = None
    signalled_at: float = 0.0

    def adopt(self, signal_number: int) -> None:
        """Treat a signal of another process (0 for none) as this process's own."""
        if signal_number and self.signal_number is None:
            self.signal_number, self.signalled_at = signal_number, time.monotonic()

    def agreed(self, ranks: Ranks, *flags: bool) -> list[bool]:
        """Whether any process is to stop, then for each flag whether it is set on any; signals are shared by all."""
        number, *raised = ranks.largest([self.signal_number or 0, self.wanted(), *flags])
        self.adopt(number)
        return [bool(flag) for flag in raised]

    def wanted(self) -> bool:
        return self.signal_number is not None or (self.deadline is not None and time.monotonic() >= self.deadline)


@contextmanager
def orderly_stop(minutes: float | None) -> Iterator[Stop]:
    """Make Ctrl-C and signals such as SIGTERM finish the current step and save; a second Ctrl-C ends at once.

    SIGHUP stays ignored if it was ignored at the start (``nohup``).

    Args:
        minutes: until a deadline; None for no deadline.
    """
    stop = Stop(deadline=None if minutes is None else time.monotonic() + 60 * minutes)

    def handle(number: int, frame: object) -> None:
        if stop.signal_number is not None:
            # A launcher may forward a signal that the whole group already got: only a later Ctrl-C ends at once.
            if number == signal.SIGINT and time.monotonic() - stop.signalled_at > 1:
                raise KeyboardInterrupt
            return
        stop.signal_number, stop.signalled_at = number, time.monotonic()
        if number == _HANGUP:
            _leave_the_terminal()
        with suppress(OSError):  # standard error may be closed
            print("\nfinishing this step, then saving ...", file=sys.stderr, flush=True)

    handled = [number for number in _ORDERLY if number != _HANGUP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in handled}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_the_terminal() -> None:
    """Redirect output away from a closed terminal, where every write would fail."""
    for descriptor in (1, 2):
        if os.isatty(descriptor):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
