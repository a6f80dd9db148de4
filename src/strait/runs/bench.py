"""Speed relative to a ceiling of this machine, measured in the same run.

The ceiling is the product of two 2048 x 2048 matrices in the same dtype. Its measurements alternate with those of the
model, so that a slowdown of the machine affects both. Multiply-adds are those of ``strait describe``.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from strait import __version__
from strait.config import Config
from strait.decoding.config import DecodingConfig
from strait.decoding.stratified import final_tokens, stratified_decode
from strait.evaluation.cost import describe
from strait.model.config import ModelConfig
from strait.model.parts import level_networks
from strait.model.sharing import unfilled
from strait.model.strait import StraIT
from strait.randomness import image_seeds
from strait.runs.noise import random_trainee, tokenizer_networks
from strait.runtime.devices import keep_freed_memory, usable_dtype
from strait.training.loop import Trainee
from strait.training.transformer_loop import TransformerTrainee
from strait.types import Canvas, Condition, Level, LogitsFn

PARTS = (
    *("tokenizer", "top", "bottom", "upsampler", "generate"),
    *("train-tokenizer", "train-top", "train-bottom", "train-upsampler"),
)
_SIDE = 2048
_LATE = 0.9
"""Share of a training after which all its losses are active."""


class Machine:
    """A device and its ceilings.

    Args:
        device: to measure.
        dtype: of the matrices and of the transformers.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, usable_dtype(dtype, device)
        self._matrices = [torch.randn(_SIDE, _SIDE, device=device).to(self.dtype) for _ in range(2)]

    def seconds(self, call: Callable[[], object]) -> float:
        """Seconds of a call, including its work on the device."""
        self.wait()
        start = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - start

    def wait(self) -> None:
        """Wait until the device has finished all queued work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def product(self) -> float:
        """Floating-point operations a second of one matrix product."""
        return 2 * _SIDE**3 / self.seconds(lambda: self._matrices[0] @ self._matrices[1])

    def copy(self) -> float:
        """Bytes a second of a copy in memory, read and written."""
        # The buffers are not kept, since the model's memory is measured too.
        source = torch.ones(2**27, dtype=torch.uint8, device=self.device)
        target = torch.empty_like(source)
        return 2 * target.numel() / statistics.median(self.seconds(lambda: target.copy_(source)) for _ in range(5))

    def describe(self) -> dict[str, Any]:
        """What a measurement depends on besides the model: hardware, threads, dtype, versions."""
        cuda = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if cuda else _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "capability": torch.backends.cpu.get_cpu_capability(),
            "dtype": str(self.dtype).removeprefix("torch."),
            "torch": torch.__version__,
            "strait": __version__,
        }

    def peak_bytes(self) -> int:
        """Peak memory: of the GPU since ``reset_peak``, otherwise of the process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        try:
            lines = Path("/proc/self/status").read_text().splitlines()
            return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
        except (OSError, StopIteration):
            unit = 1 if sys.platform == "darwin" else 1024
            return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    def reset_peak(self) -> None:
        """Reset ``peak_bytes``, if the system can."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        with suppress(OSError):  # otherwise the peak is that of the process from its start
            Path("/proc/self/clear_refs").write_text("5")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def measure(machine: Machine, call: Callable[[], object], flops: float, repeats: int, warm_up: int) -> dict[str, Any]:
    """Time a call, alternating with the ceiling.

    Args:
        machine: to measure on.
        call: to time.
        flops: floating-point operations of the call, two for a multiply-add.
        repeats: number of measurements of each; medians are reported.
        warm_up: number of calls before.

    Returns:
        Medians and extremes of ``seconds`` and of the ceiling (floating-point operations a second), the fraction of
        the ceiling reached, and ``peak_memory_bytes``.
    """
    for _ in range(warm_up):
        call()
        machine.product()
    machine.reset_peak()
    seconds, ceilings = [], []
    for _ in range(repeats):
        ceilings.append(machine.product())
        seconds.append(machine.seconds(call))
        ceilings.append(machine.product())
    median, ceiling = statistics.median(seconds), statistics.median(ceilings)
    return {
        "seconds": median,
        "seconds_least": min(seconds),
        "seconds_most": max(seconds),
        "repeats": repeats,
        "warm_up": warm_up,
        "flops": flops,
        "flops_per_s": flops / median,
        "ceiling_flops_per_s": ceiling,
        "ceiling_least": min(ceilings),
        "ceiling_most": max(ceilings),
        "fraction_of_ceiling": flops / median / ceiling,
        "peak_memory_bytes": machine.peak_bytes(),
    }


class Bench:
    """Benchmarks of one model.

    Args:
        model: with random or trained weights.
        machine: device and dtype.
        batch: number of images at once.
        repeats: number of measurements.
        warm_up: number of calls before.
        compiled: whether to compile the networks for training.
        config: of the training that ``train-...`` measures.
    """

    def __init__(
        self,
        model: StraIT,
        machine: Machine,
        batch: int,
        repeats: int,
        warm_up: int,
        compiled: bool = False,
        config: Config | None = None,
    ) -> None:
        self.config = config
        self.model, self.machine, self.batch = model, machine, batch
        self.compiled, self._measure = compiled, partial(measure, machine, repeats=repeats, warm_up=warm_up)
        self._cost = describe(model.config, len(model.classes))["parts"]

    def run(self, part: str, decoding: DecodingConfig | None = None) -> dict[str, Any]:
        """Run a benchmark, by its name in ``PARTS``."""
        report = {"part": part, "batch": self.batch, **self.machine.describe(), "compiled": self.compiled}
        if part == "generate":
            report |= self.generate(decoding or self.model.default_decoding())
        elif part.startswith("train-"):
            report |= self.train(part.removeprefix("train-"))
        else:
            report |= self.forward(part)
        return report | {"copy_bytes_per_s": self.machine.copy()}

    @torch.no_grad()
    def forward(self, part: str) -> dict[str, Any]:
        """One forward pass: of the tokenizer (encode and decode), of a transformer on a blank canvas, or of both
        networks of the upsampler."""
        if part not in self.model.config.parts:
            raise ValueError(f"--part: this model has no {part}; it has {', '.join(self.model.config.parts)}")
        flops = 2 * self.batch * self._cost[part]["multiply_adds"]
        if part == "tokenizer":
            side = self.model.config.image_size
            images = torch.rand(self.batch, 3, side, side, device=self.machine.device) * 2 - 1
            return self._measure(lambda: self.model.tokenizer(images), flops)
        passes = [
            partial(network.bind(self._condition(level)), Canvas.blank(self.batch, network.grid, self.machine.device))
            for level, network in level_networks(self.model.part(part)).items()
        ]
        return self._measure(lambda: [forward() for forward in passes], flops)

    def _condition(self, level: int) -> Condition:
        device = self.machine.device
        context = [
            torch.zeros(self.batch, *grid, dtype=torch.int64, device=device) for grid in self.model.config.grids
        ]
        return Condition(torch.zeros(self.batch, dtype=torch.int64, device=device), tuple(context[:level]))

    @torch.no_grad()
    def generate(self, decoding: DecodingConfig) -> dict[str, Any]:
        """Generate a batch of images; also reports the time of its forward passes."""
        model, inside = self.model, [0.0]
        passes = 2 if decoding.guidance else 1
        if decoding.quality < 1:
            raise ValueError(f"decoding.quality: {decoding.quality} has no fixed number of passes; bench needs 1")
        steps = [
            min(count, h * w) + decoding.revise_passes
            for count, (h, w) in zip(decoding.steps, model.config.grids, strict=False)
        ]
        level_adds = [adds for part in model.config.parts[1:] for adds in self._cost[part]["level_multiply_adds"]]
        total_adds = sum(count * passes * adds for count, adds in zip(steps, level_adds, strict=False))
        levels = [replace(level, bind=self._timed(level, inside)) for level in model.levels()[: len(steps)]]
        labels = torch.zeros(self.batch, dtype=torch.int64, device=self.machine.device)
        seeds = image_seeds(0, torch.arange(self.batch, device=self.machine.device))
        spent: list[float] = []

        def once() -> None:
            inside[0] = 0.0
            model.decode(final_tokens(stratified_decode(levels, labels, seeds, decoding)))
            spent.append(inside[0])

        report = self._measure(once, 2 * self.batch * total_adds)
        forward = statistics.median(spent[-report["repeats"] :])
        return report | {
            "steps": list(decoding.steps),
            "guidance": decoding.guidance,
            "images_per_second": self.batch / report["seconds"],
            "seconds_forward_passes": forward,
            "over_forward_passes": report["seconds"] / forward,
            "weights_bytes": sum(value.numel() * value.element_size() for value in model.state_dict().values()),
        }

    def _timed(self, level: Level, inside: list[float]):
        def bind(condition: Condition) -> LogitsFn:
            network = level.bind(condition)

            def logits(canvas: Canvas, positions: Tensor | None = None) -> Tensor:
                outputs: list[Tensor] = []
                inside[0] += self.machine.seconds(lambda: outputs.append(network(canvas, positions)))
                return outputs[0]

            return logits

        return bind

    def train(self, part: str) -> dict[str, Any]:
        """A training step of a part on noise, with everything in it but the reading of photographs.

        Operations: of a transformer three times those of a forward pass; of a tokenizer those that torch counts, of
        all networks that take part.
        """
        if self.config is None:
            raise ValueError(f"--part train-{part}: give the training's --config")
        keep_freed_memory()  # as strait train does
        precision = "bfloat16" if self.machine.dtype == torch.bfloat16 else "float32"
        run = replace(self.config.run, precision=precision, compile=self.compiled, sample_every=0)
        config = replace(self.config, run=run)
        if part == "tokenizer":
            return self._tokenizer_step(config)
        if part not in config.model.parts:
            raise ValueError(f"--part train-{part}: this configuration has no {part}")
        with random_trainee(config, part, self.batch, len(self.model.classes), self.machine.device) as trainee:
            assert isinstance(trainee, TransformerTrainee)
            waits: list[float] = []
            read = trainee.read

            def timed_read(positions: Tensor):
                start = time.perf_counter()
                samples = read(positions)
                waits.append(time.perf_counter() - start)
                return samples

            trainee.read = timed_read  # type: ignore[method-assign]
            flops = 6 * self.batch * self._cost[part]["multiply_adds"]
            report = self._measure(steps_of(trainee, getattr(config, f"{part}_training").steps), flops)
        waited = statistics.median(waits[-report["repeats"] :])
        return report | {"seconds_loader": waited, "fraction_loader": waited / report["seconds"]}

    def _tokenizer_step(self, config: Config) -> dict[str, Any]:
        if config.tokenizer.kind == "cascade":
            raise ValueError("--part train-tokenizer: a cascade trains two networks, one after the other")
        device, steps = self.machine.device, config.tokenizer_training.steps
        eager = replace(config, run=replace(config.run, compile=False))  # torch counts nothing inside compiled code
        with random_trainee(eager, "tokenizer", self.batch, 0, device, *tokenizer_networks(eager)) as trainee:
            step = steps_of(trainee, steps)
            step()  # starts the codes
            with _Operations() as operations:
                step()
        with random_trainee(config, "tokenizer", self.batch, 0, device, *tokenizer_networks(config)) as trainee:
            return self._measure(steps_of(trainee, steps), operations.count)


class _Operations(TorchDispatchMode):
    """Counts floating-point operations by torch's formulas. ``FlopCounterMode`` does so, too, but follows modules by
    hooks that do not permit the gradient of a gradient, which R1 needs."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        formula = flop_registry.get(function._overloadpacket)
        if formula is not None:
            self.count += formula(*args, **(kwargs or {}), out_val=result)
        return result


def steps_of(trainee: Trainee, steps: int) -> Callable[[], None]:
    """A function that takes one step of a training of ``steps`` steps, late enough for all losses to be active."""
    step = int(_LATE * steps)
    trainee.begin(step)

    def take() -> None:
        nonlocal step
        trainee.step(step)
        step += 1

    return take


def model_to_time(config: ModelConfig, decoding: DecodingConfig, machine: Machine) -> StraIT:
    """A model of a thousand classes with random weights, created quickly."""
    model = unfilled(StraIT, config, [str(index) for index in range(1000)], decoding, machine.dtype)
    fill_quickly(model)
    return model.to(machine.device)


def fill_quickly(module: nn.Module) -> None:
    """Fill with random weights for timing: proper initialisation takes minutes at the paper's size."""
    generator = np.random.default_rng(0)
    block = torch.from_numpy(generator.uniform(-0.03, 0.03, 2**16).astype(np.float32))
    with torch.no_grad():
        for name, value in module.named_parameters():
            if name.endswith("weight") and "norm" in name:
                value.fill_(1.0)
            else:
                flat = value.view(-1)
                for start in range(0, len(flat), len(block)):
                    flat[start : start + len(block)] = block[: len(flat) - start]
