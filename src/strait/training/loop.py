"""The loop that every part is trained by: steps, log, checkpoints, sample grids, and an orderly stop."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from strait.runtime.files import naming
from strait.runtime.ranks import ALONE, OtherProcessFailed, Ranks
from strait.training.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint
from strait.training.config import RunConfig
from strait.training.guard import Guard, NotFinite, TrainingFailed
from strait.training.pace import Pace
from strait.training.tracking import Metrics, Tracker

# What schedulers send before they take a machine away (SIGUSR1: SLURM, SIGUSR2 and SIGXCPU: Grid Engine, LSF), and a
# terminal that is lost (SIGHUP).
_ORDERLY = ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGXCPU", "SIGHUP")


class Trainee(Protocol):
    """A part in training. Its steps are a function of their number and its tensors: nothing else is carried over."""

    def begin(self, step: int) -> None:
        """Get ready to take step ``step`` (from 0) next."""
        ...

    def step(self, step: int) -> Metrics:
        """Take one step; the metrics stay on their device.

        Raises:
            NotFinite: if its loss or gradients are no numbers; it has then changed nothing.
        """
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, on the first process; every process must ask."""
        ...

    def load_tensors(self, tensors: dict[str, Tensor]) -> None: ...

    def samples(self) -> Image.Image | None:
        """A picture of what has been learned so far, on the first process; every process must ask."""
        ...


@dataclass
class Stop:
    """Whether, and why, training should end before its last step."""

    deadline: float | None = None
    signal_number: int | None = None
    signalled_at: float = 0.0

    def adopt(self, signal_number: int) -> None:
        """Another process got a signal (0 for none): it counts as if it had come to this one."""
        if signal_number and self.signal_number is None:
            self.signal_number, self.signalled_at = signal_number, time.monotonic()

    def agreed(self, ranks: Ranks, *flags: bool) -> list[bool]:
        """Whether any process is to stop, then for each flag whether any has raised it; a signal becomes all's."""
        number, *raised = ranks.largest([self.signal_number or 0, self.wanted(), *flags])
        self.adopt(number)
        return [bool(flag) for flag in raised]

    def wanted(self) -> bool:
        return self.signal_number is not None or (self.deadline is not None and time.monotonic() >= self.deadline)


@contextmanager
def orderly_stop(minutes: float | None) -> Iterator[Stop]:
    """Ctrl-C and the signals of schedulers and lost terminals finish the step and save; a second Ctrl-C ends at once.

    A SIGHUP that is ignored stays ignored: so says ``nohup``. ``minutes`` sets a deadline.
    """
    stop = Stop(deadline=None if minutes is None else time.monotonic() + 60 * minutes)

    def handle(number: int, frame: object) -> None:
        if stop.signal_number is not None:
            # A launcher passes on a signal that the whole group has been sent already: only impatience counts.
            if number == signal.SIGINT and time.monotonic() - stop.signalled_at > 1:
                raise KeyboardInterrupt
            return
        stop.signal_number, stop.signalled_at = number, time.monotonic()
        with suppress(OSError):  # the terminal may be gone
            print("\nfinishing this step, then saving ...", file=sys.stderr, flush=True)

    orderly = [getattr(signal, name) for name in _ORDERLY if hasattr(signal, name)]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        orderly.remove(signal.SIGHUP)
    before = {number: signal.signal(number, handle) for number in orderly}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Run:
    """What surrounds the steps of one part: its checkpoints, log and guard."""

    def __init__(self, trainee: Trainee, folder: Path, config: RunConfig, ranks: Ranks) -> None:
        self.trainee, self.folder, self.config, self.ranks = trainee, folder, config, ranks
        self.done = 0
        notes: dict[str, Any] = {}
        # One process looks, and sets broken ones aside; what it found the others read.
        ranks.on_first(lambda: load_checkpoint(folder / "checkpoints") and None)
        checkpoint = load_checkpoint(folder / "checkpoints")
        if checkpoint is not None:
            self.done, tensors, notes = checkpoint
            trainee.load_tensors(tensors)
            _warn_of_other_threads(folder, notes)
        self.best: dict[str, float] | None = notes.get("best")
        self.tracker = Tracker(folder, config.log_every, self.done, notes, ranks)
        self.guard = Guard(config.skip_at_most, notes)
        self.saved_at = time.monotonic()

    def save(self, step: int) -> None:
        tensors = self.trainee.tensors()
        notes = {**self.tracker.notes(), **self.guard.notes(), "threads": torch.get_num_threads()}
        if self.best is not None:
            notes["best"] = self.best
        best = None if self.best is None else int(self.best["step"])
        folder, keep = self.folder / "checkpoints", self.config.keep_checkpoints
        self.ranks.on_first(lambda: save_checkpoint(folder, step, tensors, notes, keep, best) and None)
        self.saved_at = time.monotonic()

    def take(self, step: int, last: bool) -> bool:
        """Take one step (from 0); whether it is the best so far by the validation loss."""
        metrics: Metrics = {}
        try:
            metrics = self.trainee.step(step)
            jump = self.guard.spike(float(metrics["loss"])) if "loss" in metrics else None  # pyright: ignore
            if jump is not None:
                self.tracker.count("loss_spikes")
                print(f"\nstep {step + 1}: {jump}", file=sys.stderr, flush=True)
        except NotFinite as reason:
            self.tracker.count("skipped")
            print(f"\nstep {step + 1} is skipped: {reason}", file=sys.stderr, flush=True)
            if self.guard.skipped():
                if not self.ranks.first:  # the first speaks for all
                    raise OtherProcessFailed("training cannot go on") from None
                raise TrainingFailed(self._failure(step, str(reason))) from None
        self.tracker.add(step + 1, metrics, last)
        judged = metrics.get("validation_loss")
        if not isinstance(judged, float) or (self.best is not None and judged >= self.best["validation_loss"]):
            return False
        self.best = {"step": step + 1, "validation_loss": judged}
        return True

    def _failure(self, step: int, reason: str) -> str:
        good = newest_checkpoint(self.folder / "checkpoints")
        return (
            f"{self.folder.name}: {reason}, for {self.guard.in_a_row} steps in a row, the last of them {step + 1} "
            f"(run.skip_at_most); the last good checkpoint is {good or 'none'}; a lower learning rate, a smaller "
            "gradient_clip or float32 may help"
        )

    def saving_is_due(self) -> bool:
        # Not in the midst of steps that fail: what was good before them is then still the newest.
        return not self.guard.in_a_row and time.monotonic() - self.saved_at >= self.config.checkpoint_seconds


def _warn_of_other_threads(folder: Path, notes: dict[str, Any]) -> None:
    before, now = notes.get("threads"), torch.get_num_threads()
    if before is not None and before != now:
        print(
            f"{folder.name}: begun with {before} threads, going on with {now} (OMP_NUM_THREADS); sums are then taken "
            "in another order, and the weights will not be the same to the last bit",
            file=sys.stderr,
            flush=True,
        )


def train(
    trainee: Trainee,
    title: str,
    folder: Path,
    steps: int,
    config: RunConfig,
    stop: Stop,
    ranks: Ranks = ALONE,
    at_log: Callable[[], object] = lambda: None,
) -> bool:
    """Train a part to its last step, from its newest checkpoint if there is one.

    Args:
        trainee: the part.
        title: what the progress bar calls it.
        folder: its ``runs/PART``.
        steps: steps in all.
        config: logging and checkpoints.
        stop: asked after every step; one process that is to stop stops all.
        ranks: the processes that train it together.
        at_log: called on every process with each line of the log.

    Returns:
        True if the last step has been taken, False if ``stop`` came first; either way the state is saved.

    Raises:
        TrainingFailed: if too many steps in a row had to be skipped.
        OSError: if a checkpoint or the log cannot be written; the one before is whole.
    """
    run = _Run(trainee, folder, config, ranks)
    if run.done >= steps:
        return True
    trainee.begin(run.done)
    pace = Pace(folder)
    with tqdm(
        total=steps, initial=run.done, desc=title, unit="step", dynamic_ncols=True, disable=not ranks.first
    ) as bar:
        for step in range(run.done, steps):
            at_end = step + 1 == steps
            pace.start()
            best = run.take(step, last=at_end)
            pace.pause()
            if (step + 1) % config.log_every == 0 or at_end:
                at_log()
                latest = list(run.tracker.latest.items())[:4]
                bar.set_postfix({name: f"{value:.3g}" for name, value in latest}, refresh=False)
            bar.update()
            # A step that was skipped on one process was skipped on all, and the best is the same for all.
            stopping, due = stop.agreed(ranks, run.saving_is_due())
            if at_end or stopping or due or best:
                run.save(step + 1)
            if (at_end or stopping) and ranks.first:
                pace.write()
            if config.sample_every and ((step + 1) % config.sample_every == 0 or at_end):
                _write_samples(trainee, folder, step + 1, ranks)
            if stopping:
                return at_end
    return True


def _write_samples(trainee: Trainee, folder: Path, step: int, ranks: Ranks) -> None:
    picture = trainee.samples()
    if ranks.first and picture is not None:
        target = folder / "samples" / f"step-{step:08d}.png"
        with naming(target):
            target.parent.mkdir(exist_ok=True)
            picture.save(target)
