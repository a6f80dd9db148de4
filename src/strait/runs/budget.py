"""Minutes of training as a number of steps, measured once in a short rehearsal and stored with the model.

A learning rate schedule needs the number of steps at the start, and a resumed run must keep it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from strait.config import Config
from strait.model.config import ModelError
from strait.runtime.files import read_json, write_text
from strait.runtime.ranks import ALONE, Ranks
from strait.training.guard import NotFinite
from strait.training.loop import Trainee
from strait.training.pace import wait_for_gpu

_TOKENIZER_SHARE, _CLASSIFIER_SHARE = 1 / 3, 1 / 10
_LATE = 0.9  # of training: a rehearsal is timed here, when losses that start later are active
_WARM_UP, _FEWEST = 3, 2
_SHARE, _SECONDS = 0.05, 20.0  # length of a rehearsal after its warm-up: a share of the part's time, up to a limit


def share_of(part: str, parts: Sequence[str]) -> float:
    """The share of a budget for one of the parts of a model: a tenth for a classifier; of the rest a third for the
    tokenizer and equal shares for the transformers, which share all of it without a tokenizer."""
    if "tokenizer" not in parts or len(parts) == 1:
        return 1 / len(parts)
    if "classifier" in parts:
        if part == "classifier":
            return _CLASSIFIER_SHARE
        return (1 - _CLASSIFIER_SHARE) * share_of(part, [name for name in parts if name != "classifier"])
    return _TOKENIZER_SHARE if part == "tokenizer" else (1 - _TOKENIZER_SHARE) / (len(parts) - 1)


class Budget:
    """The minutes for training a model folder, and the numbers of steps they correspond to.

    Args:
        folder: of the model; steps are stored in ``runs/budget.json``.
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
        """Divide the minutes among parts; returns the settings with the steps of parts that have been rehearsed.

        Raises:
            ModelError: if a part was started with other minutes.
        """
        self.shares = {part: self.minutes * share_of(part, parts) for part in parts}
        for part, minutes in self.shares.items():
            before = self.settled.get(part)
            if before is None:
                continue
            if not math.isclose(before["minutes"], minutes):
                raise ModelError(
                    f"--budget: the {part} in {self.folder} was started with {before['minutes']:.2f} minutes, "
                    f"not {minutes:.2f}"
                )
            config = with_steps(config, part, int(before["steps"]))
        return config

    def settle(self, part: str, config: Config, trainees: Iterable[Callable[[], Trainee]]) -> Config:
        """Rehearse a part, unless it has been rehearsed, and return the settings with its steps. The time of the
        rehearsal is part of the budget.

        Args:
            part: to rehearse.
            config: the settings.
            trainees: create the networks that are trained one after the other for this part; discarded afterwards.
        """
        if part not in self.settled:
            late = int(_LATE * getattr(config, f"{part}_training").steps)
            minutes, start = self.shares[part], time.perf_counter()
            length = min(_SECONDS, _SHARE * 60 * minutes)
            measured = sum(_seconds_per_step(create(), late, length, self.ranks) for create in trainees)
            elapsed = time.perf_counter() - start
            per_step, rehearsed = self.ranks.on_first(lambda: (measured, elapsed))
            steps = max(1, round((60 * minutes - rehearsed) / per_step))
            self.settled[part] = {"minutes": minutes, "seconds_per_step": per_step, "steps": steps}
            self.ranks.on_first(self._write)
            print(
                f"{part}: {minutes:.2g} minutes, minus {rehearsed:.0f} s of rehearsal, at {per_step:.3g} s a step "
                f"give {steps} steps",
                file=sys.stderr,
                flush=True,
            )
        return with_steps(config, part, int(self.settled[part]["steps"]))

    def _write(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, json.dumps(self.settled, indent=1))


def with_steps(config: Config, part: str, steps: int) -> Config:
    """The settings with another number of steps for a part; other settings in steps are scaled with it."""
    training = getattr(config, f"{part}_training")
    scale = steps / training.steps
    changes = {"steps": steps, "warmup_steps": round(training.warmup_steps * scale)}
    if part == "tokenizer":
        start = min(round(training.codebook.start * scale), steps - 1)
        changes["codebook"] = dataclasses.replace(training.codebook, start=start)
        head_start = min(round(training.adversarial.head_start * scale), steps - 1)
        changes["adversarial"] = dataclasses.replace(training.adversarial, head_start=head_start)
    return dataclasses.replace(config, **{f"{part}_training": dataclasses.replace(training, **changes)})


def _seconds_per_step(trainee: Trainee, first: int, seconds: float, ranks: Ranks) -> float:
    """The mean time of a step. Training skips a step that is not finite, so its time counts, too.

    Raises:
        ValueError: if no step is finite.
    """
    finite = 0

    def take(step: int) -> None:
        nonlocal finite
        with contextlib.suppress(NotFinite):
            trainee.step(first + step)
            finite += 1

    trainee.begin(first)
    for step in range(_WARM_UP):  # includes compiling
        take(step)
    wait_for_gpu()
    start, taken, done = time.perf_counter(), 0, False
    while not done:
        take(_WARM_UP + taken)
        taken += 1
        if taken % _FEWEST == 0:
            wait_for_gpu()
            elapsed = time.perf_counter() - start
            done = ranks.on_first(lambda elapsed=elapsed: elapsed >= seconds)
    if not finite:
        raise ValueError("--budget: no step of the rehearsal had a finite loss; lower the learning rate")
    return (time.perf_counter() - start) / taken
