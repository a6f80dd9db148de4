"""Search for the best settings of decoding on a few samples: in a fair comparison each row has its own."""

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
"""Shares of the top in the total number of steps."""


class Trials:
    """Settings that have been tried, with their scores, stored in a file so that none is measured twice.

    Args:
        path: of a file of JSON lines; created if it is missing.
        measure: settings -> scores.
        ranks: the processes that measure together; the first one's scores count, and only it writes.
        stopped: checked before each measurement.
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
        """The scores of settings, measured unless they are stored.

        Raises:
            Stopped: if any process was stopped before the measurement.
        """
        scores = self.find(decoding)
        if scores is None:
            self.ranks.stop_if(self.stopped())
            local = self.measure(decoding)
            # Timings differ between processes, which must all take the same decisions.
            scores = self.ranks.on_first(lambda: local)
            self.done.append({"decoding": _plain(decoding), "scores": scores})
            self.ranks.on_first(self._write)
        return scores

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, "".join(json.dumps(trial) + "\n" for trial in self.done))

    def find(self, decoding: DecodingConfig) -> dict[str, Any] | None:
        """The stored scores of settings, if any."""
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
    """The settings with the best score, by coordinate search: steps, then temperatures.

    Args:
        trials: measures settings.
        start: initial settings.
        fixed: names of settings that stay as in ``start``.
        grids: of the levels, which limit their steps.
        by: a distance to minimise, or ``inception_score`` to maximise.
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
    """The settings themselves, then variants with other shares of the steps between the first two levels."""
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
