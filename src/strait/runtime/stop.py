"""An orderly end before the last step: a deadline, Ctrl-C, or a signal of whoever runs the machine."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from strait.runtime.ranks import Ranks

# What schedulers send before they take a machine away (SLURM: SIGUSR1 or SIGUSR2, a limit of processor time: SIGXCPU),
# and what a terminal sends that is closed.
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
_ORDERLY = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
_HANGUP = getattr(signal, "SIGHUP", None)


@dataclass
class Stop:
    """Whether, and why, work should end before it is done."""

    deadline: float | None = None
    signal_number: int | None = None
    signalled_at: float = 0.0

    def adopt(self, signal_number: int) -> None:
        """Another process got a signal (0 for none): it counts as if it had come to this one."""
        if signal_number and self.signal_number is None:
            self.signal_number, self.signalled_at = signal_number, time.monotonic()

    def agreed(self, ranks: Ranks, *flags: bool) -> list[bool]:
        """Whether any process is to stop, then for each flag whether any has raised it; a signal becomes all's."""
        number, *raised = ranks.largest([self.signal_number or 0, self.wanted(), *flags])
        self.adopt(number)
        return [bool(flag) for flag in raised]

    def wanted(self) -> bool:
        return self.signal_number is not None or (self.deadline is not None and time.monotonic() >= self.deadline)


@contextmanager
def orderly_stop(minutes: float | None) -> Iterator[Stop]:
    """Ctrl-C and signals such as SIGTERM finish the step and save; a second Ctrl-C ends at once. SIGHUP
    stays ignored where the process was started so (``nohup``). ``minutes`` sets a deadline."""
    stop = Stop(deadline=None if minutes is None else time.monotonic() + 60 * minutes)

    def handle(number: int, frame: object) -> None:
        if stop.signal_number is not None:
            # A launcher passes on a signal that the whole group has been sent already: only impatience counts.
            if number == signal.SIGINT and time.monotonic() - stop.signalled_at > 1:
                raise KeyboardInterrupt
            return
        stop.signal_number, stop.signalled_at = number, time.monotonic()
        if number == _HANGUP:
            _leave_the_terminal()
        with suppress(OSError):  # nobody may be left to read it
            print("\nfinishing this step, then saving ...", file=sys.stderr, flush=True)

    ours = [number for number in _ORDERLY if number != _HANGUP or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, handle) for number in ours}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave_the_terminal() -> None:
    """It has been closed: whatever is written to it from now on would be an error."""
    for descriptor in (1, 2):
        if os.isatty(descriptor):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
