"""The log of a run: means over the steps between two lines, as JSON lines and, where it is installed, TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from strait.runtime.files import naming, write_text
from strait.runtime.ranks import ALONE, Ranks
from strait.training.tensorboard import EventFile, open_events

Metrics = Mapping[str, Tensor | float | tuple[Tensor | float, Tensor | float]]
"""By name: a value, or a pair (sum, weight) whose sums are divided at the end."""


class Tracker:
    """Sums metrics on their device without waiting for it; a line is written every ``every`` steps.

    After a resume the log continues at the checkpoint's step: no step is in it twice, none is missing. Of several
    processes each sums its own; the first writes the means over all.
    """

    def __init__(self, folder: Path, every: int, step: int, notes: dict[str, Any], ranks: Ranks = ALONE) -> None:
        self.path, self.every, self.ranks = folder / "log.jsonl", every, ranks
        self._sums: dict[str, Any] = dict(notes.get("sums", {}))
        self._weights: dict[str, Any] = dict(notes.get("weights", {}))
        self._counts: dict[str, int] = dict(notes.get("counts", {}))
        self._board: EventFile | None = None
        if ranks.first:
            folder.mkdir(parents=True, exist_ok=True)
            self._drop_after(step)
            self._board = open_events(folder / "tensorboard", step)
        self.latest: dict[str, float] = {}

    def _drop_after(self, step: int) -> None:
        if not self.path.exists():
            return
        text = self.path.read_text(encoding="utf-8", errors="replace")
        lines = [line for line in text.splitlines() if _step_of(line) <= step]
        write_text(self.path, "".join(line + "\n" for line in lines))

    def add(self, step: int, metrics: Metrics, last: bool = False) -> bool:
        """Fold in the metrics of step ``step`` (from 1); True if a line was written, as it is for the last step."""
        for name, value in metrics.items():
            amount, weight = value if isinstance(value, tuple) else (value, 1.0)
            self._sums[name] = self._sums.get(name, 0.0) + _detached(amount)
            self._weights[name] = self._weights.get(name, 0.0) + _detached(weight)
        if step % self.every and not last:
            return False
        sums, weights = self._totals()
        self.latest = {name: total / weights[name] for name, total in sums.items() if weights[name]}
        if self.ranks.first:
            means = {name: round(value, 6) for name, value in self.latest.items()}
            with naming(self.path), self.path.open("a") as file:
                file.write(json.dumps({"step": step, **means, **self._counts}) + "\n")
        if self._board is not None:
            self._board.add_scalars(step, {**self.latest, **self._counts})
        self._sums, self._weights, self._counts = {}, {}, {}
        return True

    def count(self, name: str) -> None:
        """Count an event; the next line says how many there were since the last."""
        self._counts[name] = self._counts.get(name, 0) + 1

    def add_picture(self, step: int, picture: Image.Image) -> None:
        """Show a sample grid in TensorBoard; only the first process has one."""
        if self._board is not None:
            self._board.add_picture(step, picture)

    def _totals(self) -> tuple[dict[str, float], dict[str, float]]:
        """Sums and weights over all processes."""
        if self.ranks.size == 1:
            return {n: float(v) for n, v in self._sums.items()}, {n: float(v) for n, v in self._weights.items()}
        names = list(self._sums)  # in the same order everywhere: all run the same steps
        totals = [[float(table[name]) for name in names] for table in (self._sums, self._weights)]
        sums, weights = self.ranks.sum(torch.tensor(totals, dtype=torch.float64, device=self.ranks.device)).tolist()
        return dict(zip(names, sums, strict=True)), dict(zip(names, weights, strict=True))

    def notes(self) -> dict[str, Any]:
        """What a checkpoint must hold for the log to go on as if nothing had happened; every process must ask."""
        sums, weights = self._totals()
        each = self.ranks.size  # every process takes up its part of what all have seen
        notes: dict[str, Any] = {
            "sums": {name: value / each for name, value in sums.items()},
            "weights": {name: value / each for name, value in weights.items()},
        }
        return {**notes, "counts": dict(self._counts)} if self._counts else notes


def _detached(value: Tensor | float) -> Tensor | float:
    return value if isinstance(value, float | int) else value.detach()


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 1 << 62  # half a line, from a kill while it was written
