"""Training steps of each part on noise, and the rate of matrix products, for ``scaling.py --measure`` and
``paper_size.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from strait.config import Config
from strait.runs.noise import random_trainee, tokenizer_networks
from strait.runtime.devices import usable_dtype
from strait.training.loop import Trainee

_LATE = 0.9  # share of the training after which all losses are active


@dataclass(frozen=True)
class StepTime:
    """A part's step: number of images, seconds, and multiply-adds."""

    images: int
    seconds: float
    multiply_adds: float

    @property
    def flops(self) -> float:
        """Floating-point operations per second, two for each multiply-add."""
        return 2 * self.multiply_adds / self.seconds


def step_time(
    config: Config, part: str, images: int, classes: int, multiply_adds: float, device: torch.device, steps: int
) -> StepTime:
    """Time real training steps of a part on noise, including the optimizer, the moving average and, in stage 1, the
    discriminator and the codebook care, but not the reading of images, perceptual networks, checkpoints and
    communication.

    Args:
        config: with the precision, compilation and recomputation to use.
        part: name of the part.
        images: of a step.
        classes: of the model.
        multiply_adds: of an image's forward and backward passes.
        device: to train on.
        steps: number of timed steps, after two of warm-up.
    """
    training = replace(config.tokenizer_training, perceptual="none")
    config = replace(config, run=replace(config.run, sample_every=0), tokenizer_training=training)
    if usable_dtype(torch.bfloat16, device) != torch.bfloat16:
        config = replace(config, run=replace(config.run, precision="float32"))
    first = int(_LATE * getattr(config, f"{part}_training").steps)
    seconds = 0.0
    for network in tokenizer_networks(config) if part == "tokenizer" else [None]:
        with random_trainee(config, part, images, classes, device, network) as trainee:
            seconds += _timed(trainee, first, steps, device)
    return StepTime(images, seconds, multiply_adds * images)


def _timed(trainee: Trainee, first: int, steps: int, device: torch.device) -> float:
    """Seconds per step, after two steps of warm-up."""
    trainee.begin(first)
    for step in range(2):
        trainee.step(first + step)
    start = _now(device)
    for step in range(steps):
        trainee.step(first + 2 + step)
    return (_now(device) - start) / steps


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product on a device, the best of five."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / min(_seconds(lambda: left @ right, device) for _ in range(5))


def _seconds(run: Callable[[], object], device: torch.device) -> float:
    start = _now(device)
    run()
    return _now(device) - start


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
