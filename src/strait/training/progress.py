"""Progress of long work: a bar on a terminal; elsewhere a plain line at the start and then one a minute."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

_FIRST, _EVERY = 5.0, 60.0  # seconds until the first line without a terminal, and between later ones


class Progress:
    """Progress in steps or images.

    Args:
        title: of the work.
        total: number of steps.
        done: steps done before.
        unit: name of a step.
        silent: show nothing.
    """

    def __init__(self, title: str, total: int, done: int = 0, unit: str = "step", silent: bool = False) -> None:
        self._title, self._total, self._first, self._done, self._unit = title, total, done, done, unit
        self._lines = not silent and not sys.stderr.isatty()
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=title,
            unit=unit,
            dynamic_ncols=True,
            disable=silent or self._lines,
        )
        self._began = time.monotonic()
        self._next = self._began + _FIRST
        self._loss: float | None = None

    def __enter__(self) -> Progress:
        return self

    def advance(self, count: int = 1, loss: float | None = None) -> None:
        """Count finished steps; ``loss`` is that of the last one."""
        self._done, self._loss = self._done + count, loss
        if loss is not None:
            self._bar.set_postfix_str(f"loss {loss:.3g}", refresh=False)
        self._bar.update(count)
        if self._lines and time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY
            self._say(f"{self._pace()}, {duration(self._seconds_left())} left")

    def _say(self, rest: str) -> None:
        loss = "" if self._loss is None else f", loss {self._loss:.3g}"
        print(
            f"{self._title}: {self._done} of {self._total} {self._unit}s{loss}, {rest}",
            file=sys.stderr,
            flush=True,
        )

    def _pace(self) -> str:
        seconds = (time.monotonic() - self._began) / max(1, self._done - self._first)
        return f"{seconds:.2g} s a {self._unit}" if seconds > 1 else f"{1 / max(seconds, 1e-9):.3g} {self._unit}s/s"

    def _seconds_left(self) -> float:
        spent = time.monotonic() - self._began
        return spent / max(1, self._done - self._first) * (self._total - self._done)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._bar.close()
        if self._lines and self._done > self._first:
            self._say(f"in {duration(time.monotonic() - self._began)}")


def duration(seconds: float) -> str:
    """A duration as text: ``40 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 99.5:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
