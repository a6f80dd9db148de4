"""The best settings of decoding, searched on a few samples: a fair comparison gives every row its own."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from strait.decoding.config import DecodingConfig
from strait.runtime.files import write_text
from strait.runtime.ranks import ALONE, Ranks

TEMPERATURES = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
SHARES = (0.25, 0.5, 0.625, 0.75, 0.875)
"""Of all steps, those of the top."""


class Trials:
    """Settings that have been tried and what they scored, kept in a file, so that none is tried twice.

    Args:
        path: JSON lines; made if need be.
        measure: settings -> scores.
        ranks: the processes that measure together; the first one's clock counts, and it alone writes.
        stopped: asked before each measurement.
    """

    def __init__(
        self,
        path: Path,
        measure: Callable[[DecodingConfig], dict[str, Any]],
        ranks: Ranks = ALONE,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.path, self.measure, self.ranks, self.stopped = path, measure, ranks, stopped
        self.done: list[dict[str, Any]] = ranks.on_first(
            lambda: [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        )

    def __call__(self, decoding: DecodingConfig) -> dict[str, Any]:
        """The scores of some settings, measured if they have not been.

        Raises:
            Stopped: if any process was told to stop before they were.
        """
        found = self.find(decoding)
        if found is None:
            self.ranks.stop_if(self.stopped())
            mine = self.measure(decoding)
            found = self.ranks.on_first(lambda: mine)  # clocks differ, and all processes must go the same way
            self.done.append({"decoding": _plain(decoding), "scores": found})
            self.ranks.on_first(self._write)
        return found

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, "".join(json.dumps(trial) + "\n" for trial in self.done))

    def find(self, decoding: DecodingConfig) -> dict[str, Any] | None:
        """The scores of settings that have been tried."""
        return next((trial["scores"] for trial in self.done if trial["decoding"] == _plain(decoding)), None)


def _plain(decoding: DecodingConfig) -> dict[str, Any]:
    return json.loads(json.dumps(dataclasses.asdict(decoding)))


def best_decoding(
    trials: Trials,
    start: DecodingConfig,
    fixed: Collection[str],
    grids: tuple[tuple[int, int], ...],
    by: str = "fid",
) -> DecodingConfig:
    """The settings with the best score, searched one after the other: steps, then temperatures.

    Args:
        trials: measures settings.
        start: where to begin; what is in ``fixed`` stays as it is there.
        fixed: names of settings that are held.
        grids: of the levels, which bound their steps.
        by: the score: a distance, which is to be least, or ``inception_score``, which is to be greatest.
    """
    sign = -1 if by == "inception_score" else 1

    def first_of(candidates: Iterator[DecodingConfig]) -> DecodingConfig:
        return min(candidates, key=lambda decoding: sign * trials(decoding)[by])

    best = start
    if "steps" not in fixed and len(start.steps) > 1:
        best = first_of(with_steps_shared(best, SHARES, grids))
    if "temperature" not in fixed:
        levels = len(start.steps)
        best = first_of(dataclasses.replace(best, temperature=(value,) * levels) for value in TEMPERATURES)
        for level in range(1, levels):
            best = first_of(_with_temperature(best, level, best.temperature[level] * scale) for scale in (1, 0.25, 4))
    return best


def with_steps_shared(
    decoding: DecodingConfig, shares: Collection[float], grids: tuple[tuple[int, int], ...]
) -> Iterator[DecodingConfig]:
    """The settings themselves, and those that share the steps of the first two levels in other ways."""
    yield decoding
    total = decoding.steps[0] + decoding.steps[1]
    seen = {decoding.steps[0]}
    for share in shares:
        top = max(1, min(round(share * total), total - 1, grids[0][0] * grids[0][1]))
        if top not in seen:
            seen.add(top)
            yield dataclasses.replace(decoding, steps=(top, total - top, *decoding.steps[2:]))


def _with_temperature(decoding: DecodingConfig, level: int, value: float) -> DecodingConfig:
    values = list(decoding.temperature)
    values[level] = value
    return dataclasses.replace(decoding, temperature=tuple(values))
