"""The training loop of every part: steps, log, checkpoints, sample grids, and an orderly stop."""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor

from strait.data.job import Job
from strait.runtime.files import naming
from strait.runtime.ranks import OtherProcessFailed
from strait.training.checkpoint import load_checkpoint, newest_checkpoint, save_checkpoint, set_damaged_aside
from strait.training.config import RunConfig
from strait.training.curves import write_curves
from strait.training.guard import Guard, NotFinite, TrainingFailed
from strait.training.pace import Pace
from strait.training.progress import Progress
from strait.training.tracking import Metrics, Tracker


class Trainee(Protocol):
    """A network in training. A step depends on its number and ``tensors`` only: there is no other state."""

    def begin(self, step: int) -> None:
        """Prepare for step ``step`` (from 0), the next to be taken."""
        ...

    def step(self, step: int) -> Metrics:
        """Take one step; the metrics stay on their device.

        Raises:
            NotFinite: if its loss or gradients are not finite; nothing is changed then.
        """
        ...

    def tensors(self) -> dict[str, Tensor]:
        """The complete training state, on the first process; a collective call."""
        ...

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of ``tensors``."""
        ...

    def weights(self) -> dict[str, Tensor]:
        """The weights to save in the model, on the first process; a collective call."""
        ...

    def samples(self) -> Image.Image | None:
        """A sample grid, on the first process; a collective call."""
        ...


def train(trainee: Trainee, folder: Path, steps: int, config: RunConfig, job: Job) -> bool:
    """Train a network to its last step, resuming from its newest checkpoint if there is one.

    Args:
        trainee: the network.
        folder: its ``runs/PART``.
        steps: total number of steps.
        config: logging and checkpoints.
        job: its stop request is checked after every step; a request to one process stops all.

    Returns:
        True after the last step, False if the job was stopped first; the state is saved in both cases.

    Raises:
        TrainingFailed: if too many steps in a row were skipped.
        OSError: if a checkpoint or the log cannot be written; the previous checkpoint is intact.
    """
    run = _Run(trainee, folder, config, job)
    if run.taken >= steps:
        return True
    trainee.begin(run.taken)
    pace = Pace(folder)
    with Progress(folder.name, steps, run.taken, silent=not job.ranks.first) as progress:
        for step in range(run.taken, steps):
            is_last = step + 1 == steps
            pace.start()
            try:
                metrics = run.accepted(step, trainee.step(step))
            except NotFinite as reason:
                metrics = run.skipped(step, str(reason))
            is_best = run.log(step, metrics, is_last)
            pace.pause()
            progress.advance(loss=run.loss)
            # All processes agree: steps are skipped on all or none, and validation losses are equal.
            stopping, due = job.stop.agreed(job.ranks, run.saving_is_due())
            if is_last or stopping or due or is_best:
                run.save(step + 1)
            samples_due = config.sample_every > 0 and ((step + 1) % config.sample_every == 0 or is_last)
            if samples_due:
                run.write_samples(step + 1)
            if job.ranks.first and (is_last or stopping):
                pace.write()
            if job.ranks.first and (is_last or stopping or samples_due):
                write_curves(folder)
            if stopping:
                return is_last
    return True


class _Run:
    """The checkpoints, log and guard of a run, resumed from the newest checkpoint.

    Attributes:
        taken: number of steps taken by earlier runs.
        loss: of the last step that was not skipped; None before the first.
    """

    def __init__(self, trainee: Trainee, folder: Path, config: RunConfig, job: Job) -> None:
        self.trainee, self.folder, self.config, self.job = trainee, folder, config, job
        self.taken = 0
        notes: dict[str, Any] = {}
        # One process renames damaged checkpoints; then all load the same one.
        job.ranks.on_first(partial(set_damaged_aside, folder / "checkpoints"))
        checkpoint = load_checkpoint(folder / "checkpoints")
        if checkpoint is not None:
            self.taken, tensors, notes = checkpoint
            trainee.load_tensors(tensors)
            _warn_if_threads_differ(folder, notes)
        self.loss: float | None = None
        self._best: dict[str, float] | None = notes.get("best")
        self._tracker = Tracker(folder, config.log_every, self.taken, notes, job.ranks)
        self._guard = Guard(config.skip_at_most, notes)
        self._saved_at = time.monotonic()

    def accepted(self, step: int, metrics: Metrics) -> Metrics:
        """The metrics of a step (from 0) that was taken; spikes of the loss are reported and counted."""
        if "loss" in metrics:
            self.loss = float(metrics["loss"])  # pyright: ignore
            spike = self._guard.spike(self.loss)
            if spike is not None:
                self._tracker.count("loss_spikes")
                print(f"\nstep {step + 1}: {spike}", file=sys.stderr, flush=True)
        return metrics

    def skipped(self, step: int, reason: str) -> Metrics:
        """Report and count a skipped step (from 0); it has no metrics.

        Raises:
            TrainingFailed: if too many steps in a row were skipped.
        """
        self._tracker.count("skipped")
        print(f"\nstep {step + 1} is skipped: {reason}", file=sys.stderr, flush=True)
        if self._guard.skipped():
            if not self.job.ranks.first:  # the first process reports the error
                raise OtherProcessFailed("training cannot continue") from None
            raise TrainingFailed(self._failure(step, reason)) from None
        return {}

    def log(self, step: int, metrics: Metrics, is_last: bool) -> bool:
        """Log the metrics of a step (from 0); True if its validation loss is the lowest so far."""
        if self._tracker.add(step + 1, metrics, is_last):
            self.job.bad_files.share()
        loss = metrics.get("validation_loss")
        if not isinstance(loss, float) or (self._best is not None and loss >= self._best["validation_loss"]):
            return False
        self._best = {"step": step + 1, "validation_loss": loss}
        return True

    def saving_is_due(self) -> bool:
        # Not while steps fail: the newest checkpoint must be from before they did.
        return not self._guard.in_a_row and time.monotonic() - self._saved_at >= self.config.checkpoint_seconds

    def save(self, step: int) -> None:
        """Write the checkpoint after ``step`` steps; a collective call."""
        tensors = self.trainee.tensors()
        notes = {**self._tracker.notes(), **self._guard.notes(), "threads": torch.get_num_threads()}
        if self._best is not None:
            notes["best"] = self._best
        best = None if self._best is None else int(self._best["step"])
        folder, keep = self.folder / "checkpoints", self.config.keep_checkpoints
        self.job.ranks.on_first(partial(save_checkpoint, folder, step, tensors, notes, keep, best))
        self._saved_at = time.monotonic()

    def write_samples(self, step: int) -> None:
        """Write the sample grid after ``step`` steps; a collective call."""
        picture = self.trainee.samples()
        if self.job.ranks.first and picture is not None:
            target = self.folder / "samples" / f"step-{step:08d}.png"
            with naming(target):
                target.parent.mkdir(exist_ok=True)
                picture.save(target)
            self._tracker.add_picture(step, picture)

    def _failure(self, step: int, reason: str) -> str:
        checkpoint = newest_checkpoint(self.folder / "checkpoints")
        return (
            f"{self.folder.name}: {reason}, for {self._guard.in_a_row} steps in a row up to step {step + 1} "
            f"(run.skip_at_most); the last good checkpoint is {checkpoint or 'none'}; try a lower learning rate, a "
            "smaller gradient_clip or float32"
        )


def _warn_if_threads_differ(folder: Path, notes: dict[str, Any]) -> None:
    before, now = notes.get("threads"), torch.get_num_threads()
    if before is not None and before != now:
        print(
            f"{folder.name}: started with {before} threads, resumed with {now} (OMP_NUM_THREADS); sums are then in "
            "another order, so the last bits of the weights will differ",
            file=sys.stderr,
            flush=True,
        )
