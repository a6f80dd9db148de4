"""How long a step of a part's training took: ``runs/PART/pace.jsonl``, a line each time that it was trained.

Not in the log, which is the same whatever machine it was written on.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch

from strait.runtime.files import naming

WARM_UP = 3
"""Steps that are not counted: the first ones compile, among others."""
_ENOUGH, _SECONDS = 3, 2.0  # steps and their time, from which a mean says something


class Pace:
    """A stopwatch over the steps of one run, from its start or from where it was resumed.

    Args:
        folder: the part's ``runs/PART``.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "pace.jsonl"
        self.steps, self._seconds, self._since = 0, 0.0, 0.0

    def start(self) -> None:
        """A step begins."""
        self.steps += 1
        if self.steps > WARM_UP:
            if self.steps == WARM_UP + 1:
                _wait()
            self._since = time.perf_counter()

    def pause(self) -> None:
        """It has been taken; what is done before the next (checkpoints, sample grids) is not of its time."""
        if self.steps > WARM_UP:
            self._seconds += time.perf_counter() - self._since

    def seconds_per_step(self) -> float | None:
        """The mean so far; None before there are enough steps for one."""
        counted = self.steps - WARM_UP
        return self._seconds / counted if counted >= _ENOUGH and self._seconds >= _SECONDS else None

    def write(self) -> None:
        """Note the run, if it came to more than its warm-up."""
        counted = self.steps - WARM_UP
        if counted < 1:
            return
        begin = time.perf_counter()
        _wait()  # what a GPU has been asked for and has not done yet
        self._seconds += time.perf_counter() - begin
        with naming(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"steps": counted, "seconds": round(self._seconds, 3)}) + "\n")


def mean_seconds(folder: Path) -> float | None:
    """Seconds of a step over all runs of a part's training; None if none was noted."""
    try:
        lines = [json.loads(line) for line in (folder / "pace.jsonl").read_text(encoding="utf-8").splitlines()]
        return sum(line["seconds"] for line in lines) / sum(line["steps"] for line in lines)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None


def _wait() -> None:
    if torch.cuda.is_initialized():  # else nothing has been asked of one
        torch.cuda.synchronize()
