"""The loop that every part is trained by: steps, log, checkpoints, sample grids, and an orderly stop."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image
from torch import Tensor
from tqdm import tqdm

from strait.training.checkpoint import load_checkpoint, save_checkpoint
from strait.training.config import RunConfig
from strait.training.tracking import Metrics, Tracker


class Trainee(Protocol):
    """A part in training. Its steps are a function of their number and its tensors: nothing else is carried over."""

    def begin(self, step: int) -> None:
        """Get ready to take step ``step`` (from 0) next."""
        ...

    def step(self, step: int) -> Metrics:
        """Take one step; the metrics stay on their device."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Everything a resumed run needs."""
        ...

    def load_tensors(self, tensors: dict[str, Tensor]) -> None: ...

    def samples(self) -> Image.Image:
        """A picture of what has been learned so far."""
        ...


@dataclass
class Stop:
    """Whether, and why, training should end before its last step."""

    deadline: float | None = None
    signal_number: int | None = None

    def wanted(self) -> bool:
        return self.signal_number is not None or (self.deadline is not None and time.monotonic() >= self.deadline)


@contextmanager
def orderly_stop(minutes: float | None) -> Iterator[Stop]:
    """Ctrl-C and SIGTERM finish the step and save; a second Ctrl-C ends at once. ``minutes`` sets a deadline."""
    stop = Stop(deadline=None if minutes is None else time.monotonic() + 60 * minutes)

    def handle(number: int, frame: object) -> None:
        if stop.signal_number is not None:
            raise KeyboardInterrupt
        stop.signal_number = number
        print("\nfinishing this step, then saving ...", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(trainee: Trainee, title: str, folder: Path, steps: int, config: RunConfig, stop: Stop) -> bool:
    """Train a part to its last step, from its newest checkpoint if there is one.

    Args:
        trainee: the part.
        title: what the progress bar calls it.
        folder: its ``runs/PART``.
        steps: steps in all.
        config: logging and checkpoints.
        stop: asked after every step.

    Returns:
        True if the last step has been taken, False if ``stop`` came first; either way the state is saved.
    """
    done = 0
    notes: dict[str, object] = {}
    checkpoint = load_checkpoint(folder / "checkpoints")
    if checkpoint is not None:
        done, tensors, notes = checkpoint
        trainee.load_tensors(tensors)
    tracker = Tracker(folder, config.log_every, done, notes)
    if done >= steps:
        return True
    trainee.begin(done)
    saved_at, saved_step = time.monotonic(), done

    def save(step: int) -> None:
        save_checkpoint(folder / "checkpoints", step, trainee.tensors(), tracker.notes(), config.keep_checkpoints)

    with tqdm(total=steps, initial=done, desc=title, unit="step", dynamic_ncols=True) as bar:
        for step in range(done, steps):
            if tracker.add(step + 1, trainee.step(step), last=step + 1 == steps):
                shown = {name: f"{value:.3g}" for name, value in list(tracker.latest.items())[:4]}
                bar.set_postfix(shown, refresh=False)
            bar.update()
            last = step + 1 == steps or stop.wanted()
            if last or time.monotonic() - saved_at >= config.checkpoint_seconds:
                save(step + 1)
                saved_at, saved_step = time.monotonic(), step + 1
            if config.sample_every and ((step + 1) % config.sample_every == 0 or step + 1 == steps):
                target = folder / "samples" / f"step-{step + 1:08d}.png"
                target.parent.mkdir(exist_ok=True)
                trainee.samples().save(target)
            if last:
                break
    return saved_step >= steps
