"""The log of a run: means over the steps between lines, as JSON lines and, if installed, in TensorBoard."""

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
"""By name: a value, or a pair (sum, weight); the mean is the total sum divided by the total weight."""


class Tracker:
    """Accumulates metrics on their device, without synchronising, and writes a line every ``every`` steps.

    A resumed log continues at the checkpoint's step: no step is missing or counted twice. Each process accumulates its
    own metrics; the first writes means over all processes.
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
        """Add the metrics of step ``step`` (from 1); True if this, or ``last``, wrote a line."""
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
        """Count an event; the next line has the number of events since the line before."""
        self._counts[name] = self._counts.get(name, 0) + 1

    def add_picture(self, step: int, picture: Image.Image) -> None:
        """Add a sample grid to TensorBoard; on the first process only."""
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
        """The state to store in a checkpoint, so that a resumed log continues without a gap; a collective call."""
        sums, weights = self._totals()
        size = self.ranks.size  # a resumed process starts with an equal share of the totals
        notes: dict[str, Any] = {
            "sums": {name: value / size for name, value in sums.items()},
            "weights": {name: value / size for name, value in weights.items()},
        }
        return {**notes, "counts": dict(self._counts)} if self._counts else notes


def _detached(value: Tensor | float) -> Tensor | float:
    return value if isinstance(value, float | int) else value.detach()


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 1 << 62  # an incomplete line: the process was killed while writing it
