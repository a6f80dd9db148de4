"""Minutes of training as a number of steps: measured in a short rehearsal, once, and kept with the model.

A schedule needs its number of steps at the start, and a run that is resumed must keep it: the clock is asked once.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from strait.config import Config
from strait.model.config import ModelError
from strait.runtime.files import read_json, write_text
from strait.runtime.ranks import ALONE, Ranks
from strait.training.loop import Trainee

_TOKENIZER_SHARE, _CLASSIFIER_SHARE = 1 / 3, 1 / 10
_LATE = 0.9  # of training: by then losses that begin later have begun
_WARM_UP, _FEWEST = 3, 2
_SHARE, _SECONDS = 0.05, 20.0  # of a part's time, and at most so much, is a rehearsal once it has warmed up


def share_of(part: str, parts: Sequence[str]) -> float:
    """How much of a budget one of the parts of a model gets: a classifier a tenth; of what is left the tokenizer a
    third, the transformers alike. Without a tokenizer they share all of it."""
    if "tokenizer" not in parts or len(parts) == 1:
        return 1 / len(parts)
    if "classifier" in parts:
        if part == "classifier":
            return _CLASSIFIER_SHARE
        return (1 - _CLASSIFIER_SHARE) * share_of(part, [other for other in parts if other != "classifier"])
    return _TOKENIZER_SHARE if part == "tokenizer" else (1 - _TOKENIZER_SHARE) / (len(parts) - 1)


class Budget:
    """The minutes that a model folder's training may take, and the steps they have become.

    Args:
        folder: of the model; what is settled is kept in ``runs/budget.json``.
        minutes: for all parts that are trained together.
        ranks: the processes that train; the first one's clock counts.
    """

    def __init__(self, folder: Path, minutes: float, ranks: Ranks = ALONE) -> None:
        if not 0 < minutes < math.inf:
            raise ValueError(f"--budget: {minutes} must be above 0 minutes, and finite")
        self.folder, self.minutes, self.ranks = folder, minutes, ranks
        self.path = folder / "runs" / "budget.json"
        self.shares: dict[str, float] = {}
        self.settled: dict[str, dict[str, float]] = ranks.on_first(lambda: read_json(self.path, {}))

    def divide(self, parts: Sequence[str], config: Config) -> Config:
        """Divide the minutes among parts; returns the settings with the steps of those that are settled already.

        Raises:
            ModelError: if a part was begun with other minutes.
        """
        self.shares = {part: self.minutes * share_of(part, parts) for part in parts}
        for part, minutes in self.shares.items():
            before = self.settled.get(part)
            if before is None:
                continue
            if not math.isclose(before["minutes"], minutes):
                raise ModelError(
                    f"--budget: the {part} in {self.folder} was begun with {before['minutes']:.2f} minutes of it, "
                    f"not {minutes:.2f}"
                )
            config = with_steps(config, part, int(before["steps"]))
        return config

    def settle(self, part: str, config: Config, trainees: Iterable[Callable[[], Trainee]]) -> Config:
        """Rehearse a part, if that has not been done, and return the settings with its steps. The rehearsal counts:
        its time is taken from the part's minutes.

        Args:
            part: which.
            config: the settings.
            trainees: makers of what is trained one after the other for this part; they are thrown away.
        """
        if part not in self.settled:
            late = int(_LATE * getattr(config, f"{part}_training").steps)
            minutes, began = self.shares[part], time.perf_counter()
            enough = min(_SECONDS, _SHARE * 60 * minutes)
            measured = sum(_seconds_per_step(make(), late, enough, self.ranks) for make in trainees)
            rehearsed = time.perf_counter() - began
            per_step, rehearsed = self.ranks.on_first(lambda: (measured, rehearsed))
            steps = max(1, round((60 * minutes - rehearsed) / per_step))
            self.settled[part] = {"minutes": minutes, "seconds_per_step": per_step, "steps": steps}
            self.ranks.on_first(self._write)
            print(
                f"{part}: {minutes:.2g} minutes, less {rehearsed:.0f} s of rehearsal, at {per_step:.3g} s a step are "
                f"{steps} steps",
                file=sys.stderr,
                flush=True,
            )
        return with_steps(config, part, int(self.settled[part]["steps"]))

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps(self.settled, indent=1))


def with_steps(config: Config, part: str, steps: int) -> Config:
    """The settings with another number of steps for a part; what is counted in steps shrinks or grows along."""
    training = getattr(config, f"{part}_training")
    scale = steps / training.steps
    changes = {"steps": steps, "warmup_steps": round(training.warmup_steps * scale)}
    if part == "tokenizer":
        start = min(round(training.codebook.start * scale), steps - 1)
        changes["codebook"] = dataclasses.replace(training.codebook, start=start)
    return dataclasses.replace(config, **{f"{part}_training": dataclasses.replace(training, **changes)})


def _seconds_per_step(trainee: Trainee, first: int, seconds: float, ranks: Ranks) -> float:
    trainee.begin(first)
    for step in range(_WARM_UP):  # compiles, among others
        trainee.step(first + step)
    _wait()
    start, taken, enough = time.perf_counter(), 0, False
    while not enough:
        trainee.step(first + _WARM_UP + taken)
        taken += 1
        if taken % _FEWEST == 0:
            _wait()
            spent = time.perf_counter() - start
            enough = ranks.on_first(lambda spent=spent: spent >= seconds)
    return (time.perf_counter() - start) / taken


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
