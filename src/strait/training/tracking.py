"""The log of a run: means over the steps between two lines, as JSON lines and, where it is installed, TensorBoard."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from strait.files import write_text

Metrics = Mapping[str, Tensor | float | tuple[Tensor | float, Tensor | float]]
"""By name: a value, or a pair (sum, weight) whose sums are divided at the end."""


class Tracker:
    """Sums metrics on their device without waiting for it; a line is written every ``every`` steps.

    After a resume the log goes on from the checkpoint's step: no step stands in it twice, none is missing.
    """

    def __init__(self, folder: Path, every: int, step: int, notes: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self.every = folder / "log.jsonl", every
        self._sums: dict[str, Any] = dict(notes.get("sums", {}))
        self._weights: dict[str, Any] = dict(notes.get("weights", {}))
        self._drop_after(step)
        self._board = _tensorboard(folder)
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
        weights = {name: float(weight) for name, weight in self._weights.items()}
        self.latest = {name: float(total) / weights[name] for name, total in self._sums.items() if weights[name]}
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, **{k: round(v, 6) for k, v in self.latest.items()}}) + "\n")
        if self._board is not None:
            for name, value in self.latest.items():
                self._board.add_scalar(name, value, step)
        self._sums, self._weights = {}, {}
        return True

    def notes(self) -> dict[str, Any]:
        """What a checkpoint must hold for the log to go on as if nothing had happened."""
        return {
            "sums": {name: float(value) for name, value in self._sums.items()},
            "weights": {name: float(value) for name, value in self._weights.items()},
        }


def _detached(value: Tensor | float) -> Tensor | float:
    return value if isinstance(value, float | int) else value.detach()


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 1 << 62  # half a line, from a kill while it was written


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))
