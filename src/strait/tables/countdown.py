"""Which row of a table is measured, of how many, and about how long the rest takes: a line before each."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence

from strait.training.progress import duration


class Countdown:
    """Tells a person how far a table is.

    Args:
        names: of the rows, in order.
        done: whether each has been measured by an earlier run; those take no time.
        least: seconds that a row takes at least, such as its budget of training.
        clock: in seconds.
    """

    def __init__(
        self,
        names: Sequence[str],
        done: Sequence[bool],
        least: float = 0.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._names, self._done, self._least, self._clock = names, list(done), least, clock
        self._began, self._measured = clock(), 0

    def line(self, place: int) -> str:
        """What is said before the row at a place (from 0) is measured."""
        missing = self._done[place:].count(False)
        if self._measured:
            left = f", about {duration((self._clock() - self._began) / self._measured * missing)} left"
        else:
            left = f", at least {duration(self._least * missing)} left" if self._least else ""
        return f"row {place + 1} of {len(self._names)} ({self._names[place]}){left}"

    def begin(self, place: int) -> None:
        """Say it, on standard error, unless the row is there already."""
        if not self._done[place]:
            print(self.line(place), file=sys.stderr, flush=True)

    def end(self, place: int) -> None:
        """The row at this place has been measured."""
        self._measured += not self._done[place]
