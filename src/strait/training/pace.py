"""The time of a training step: ``runs/PART/pace.jsonl``, a line for each run.

Kept out of the log, which does not depend on the machine.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import torch

from strait.runtime.files import naming

WARM_UP = 3
"""Steps at the start that are not timed (they compile, for example)."""


class Pace:
    """A stopwatch over the steps of one run.

    Args:
        folder: the part's ``runs/PART``.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "pace.jsonl"
        self.steps, self._seconds, self._since = 0, 0.0, 0.0

    def start(self) -> None:
        """Start timing a step."""
        self.steps += 1
        if self.steps > WARM_UP:
            if self.steps == WARM_UP + 1:
                wait_for_gpu()
            self._since = time.perf_counter()

    def pause(self) -> None:
        """Stop timing: checkpoints and sample grids before the next step do not count."""
        if self.steps > WARM_UP:
            self._seconds += time.perf_counter() - self._since

    def write(self) -> None:
        """Append the run to the file, unless it ended during warm-up."""
        counted = self.steps - WARM_UP
        if counted < 1:
            return
        begin = time.perf_counter()
        wait_for_gpu()
        self._seconds += time.perf_counter() - begin
        with naming(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"steps": counted, "seconds": round(self._seconds, 3)}) + "\n")


def mean_seconds(folder: Path) -> float | None:
    """Mean seconds of a step over all runs of a part; None if none was recorded."""
    try:
        lines = [json.loads(line) for line in (folder / "pace.jsonl").read_text(encoding="utf-8").splitlines()]
        return sum(line["seconds"] for line in lines) / sum(line["steps"] for line in lines)
    except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError):
        return None


def wait_for_gpu() -> None:
    """Wait for queued work on a GPU, so that it is included in a timing."""
    if torch.cuda.is_initialized():  # else no work is queued
        torch.cuda.synchronize()
