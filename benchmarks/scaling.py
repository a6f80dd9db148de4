"""The requirements of training on many GPUs: memory and communication per process, and a plan derived from them.

    python benchmarks/scaling.py --config imagenet256 --gpus 8 64 512
    python benchmarks/scaling.py --config imagenet256 --measure --measure-images 16     # on one GPU of the same type

Parameters, multiply-adds and the activations that autograd stores for one image are counted on the meta device.
``--measure`` times real training steps of each part, and matrix products, on this device; on a GPU these times replace
``--peak`` and ``--efficiency`` in the table; on a CPU a second table transfers each part's share of the matrix
products' rate to the GPU. Everything else (bandwidths, overlap, usable memory) is an assumption with its own option:
nothing here was measured on a cluster.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from step_times import matrix_rate, step_time
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from strait.config import Config, config_path, read_config
from strait.model.parts import level_networks
from strait.model.strait import StraIT
from strait.runtime.devices import usable_dtype
from strait.tokenizer.discriminator import Discriminator
from strait.types import Canvas, Condition

FLOAT32, BFLOAT16 = 4, 2
# Weights, gradients and both moments of Adam; the moving average, if used.
STATE, AVERAGE = 4 * FLOAT32, FLOAT32
# Forward and backward passes of the discriminator per step: 2 for the tokenizer's loss (forward, and backward to its
# input), 3 each for photographs and reconstructions in its own loss, 6 for R1 (a gradient of a gradient).
DISCRIMINATOR_PASSES = 14


@dataclass(frozen=True)
class Part:
    """A part in training: parameters, multiply-adds of an image's forward and backward passes, activations of an image
    in bytes, and the parameters of its largest FSDP unit."""

    name: str
    parameters: int
    multiply_adds: float
    activations: int
    unit: int
    average: bool
    batch_size: int


def kept_bytes(run: Callable[[], object], attention: bool) -> int:
    """Bytes that autograd stores for the backward pass, in bfloat16, without parameters and, with ``attention``,
    without attention matrices, which fused kernels do not store."""
    seen: dict[int, int] = {}
    tensors: list[Tensor] = []  # kept alive, so that no id is reused

    def pack(value: Tensor) -> Tensor:
        base = value if value._base is None else value._base
        matrix = attention and base.ndim == 4 and base.shape[-2] >= 256 and base.shape[-1] >= 256
        if not isinstance(base, nn.Parameter) and not matrix:
            tensors.append(base)
            seen[id(base)] = base.numel() * (1 if base.dtype == torch.bool else BFLOAT16)
        return value

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        run()
    return sum(seen.values())


def counted(run: Callable[[], object], attention: bool) -> tuple[int, int]:
    """Multiply-adds of a pass, and the bytes stored for its backward pass."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() // 2, kept_bytes(run, attention)


def parts_of(config: Config, classes: int) -> list[Part]:
    """The tokenizer with its discriminator, and each transformer."""
    with torch.device("meta"):
        model = StraIT(config.model, [str(number) for number in range(classes)])
        images = torch.zeros(1, 3, config.image_size, config.image_size)
        labels = torch.zeros(1, dtype=torch.int64)
        tokens = [torch.zeros(1, *grid, dtype=torch.int64) for grid in config.model.grids]
        adversary = config.tokenizer_training.adversarial
        discriminator = Discriminator(
            config.image_size, adversary.channels, adversary.max_channels, adversary.normalize
        )
    parts = []
    for name in config.model.parts:
        module = model.part(name).requires_grad_(True).train()
        training = getattr(config, f"{name}_training")
        if name == "tokenizer":
            adds, kept = counted(partial(module, images), attention=False)
            judged, judged_kept = counted(partial(discriminator, images), attention=False)
            # The discriminator's own step processes photographs and reconstructions together, and R1 adds a graph.
            total, kept = 3 * adds + DISCRIMINATOR_PASSES * judged, max(kept + judged_kept, 4 * judged_kept)
            parameters = size_of(module) + size_of(discriminator)
            unit = parameters
        else:
            networks = level_networks(module)

            def run(networks: Any = networks) -> None:
                for level, network in networks.items():
                    network.bind(Condition(labels, tuple(tokens[:level])))(Canvas.blank(1, network.grid, "meta"))

            adds, kept = counted(run, attention=True)
            total, parameters = 3.0 * adds, size_of(module)
            layers = [size_of(layer) for network in networks.values() for layer in network.layers]
            unit = max(*layers, parameters - sum(layers))
        parts.append(Part(name, parameters, total, kept, unit, training.ema_decay > 0, training.batch_size))
    return parts


def size_of(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def plan(part: Part, gpus: int, how: argparse.Namespace, reached: dict[str, float]) -> list[str]:
    """A row of the table; ``reached`` has measured operations per second, by part, instead of assumed ones."""
    batch = part.batch_size
    while batch < gpus * how.least_images:
        batch *= 2
    each = batch // gpus
    state = part.parameters * (STATE + (AVERAGE if part.average else 0))
    memory = how.memory * 1e9 * how.usable
    whole_fits = state + part.activations <= memory
    # Two units are gathered at a time, the current and the next, with their gradients.
    in_shards = state / gpus + 2 * part.unit * 2 * FLOAT32
    resident = state if whole_fits else in_shards
    room = max(memory - resident, part.activations)
    pieces = 1
    while each // pieces > max(1, room // part.activations) or each % pieces:
        pieces += 1
    rate = reached.get(part.name, how.peak * 1e12 * how.efficiency)
    compute = 2 * part.multiply_adds * each / rate
    share = (gpus - 1) / gpus
    # A ring sends each byte of the gradients twice; FSDP gathers shards for both passes and scatters gradients.
    sent = (2 if whole_fits else 2 * pieces + pieces) * share * part.parameters * FLOAT32
    bandwidth = (how.inside if gpus <= how.node else how.between) * 1e9
    transfer = sent / bandwidth
    hidden = 0.0 if part.name == "tokenizer" else how.overlap
    step = compute + max(transfer - hidden * compute * 2 / 3, 0.0)
    return [
        part.name,
        str(gpus),
        "DDP" if whole_fits else "FSDP2",
        f"{batch:,} = {gpus} x {pieces} x {each // pieces}",
        f"{resident / 1e9:.1f} + {part.activations * (each // pieces) / 1e9:.1f} GB",
        f"{in_shards / 1e9:.1f} GB",
        f"{sent / 1e9:.2f} GB",
        f"{1000 * compute:.0f} + {1000 * (step - compute):.0f} ms",
        f"{compute / step:.0%}",
        f"{how.steps[part.name] * part.batch_size / batch * step / 3600:,.0f} h",
    ]


HEADER = [
    "part",
    "GPUs",
    "plan",
    "batch = GPUs x pieces x images",
    "memory: state + activations",
    "state under FSDP2",
    "sent a step",
    "step: computing + waiting",
    "computing",
    "whole training",
]


def measure(config: Config, parts: list[Part], how: argparse.Namespace) -> dict[str, float]:
    """Time the steps of each part on this device, and compare them with its matrix products.

    Returns:
        The operations per second of a GPU: on a GPU, as measured; on a CPU, the measured share of its matrix products
        times the GPU's peak.
    """
    device = torch.device(how.device)
    dtype = usable_dtype(torch.bfloat16, device)
    rate = matrix_rate(device, dtype)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} thread(s)"
    print(f"Measured on {name}: a matrix product reaches {rate / 1e12:.3g} TFLOP/s in {str(dtype)[6:]}\n")
    rates, rows = {}, [MEASURED, ["---"] * len(MEASURED)]
    for part in parts:
        images = min(how.measure_images, part.batch_size)
        took = step_time(config, part.name, images, how.classes, part.multiply_adds, device, how.measure_steps)
        rates[part.name] = took.flops if device.type == "cuda" else took.flops / rate * how.peak * 1e12
        rows.append(
            [
                part.name,
                str(images),
                f"{took.seconds:.4g} s",
                f"{part.multiply_adds / 1e9:,.4g} G",
                f"{took.flops / 1e12:.3g} TFLOP/s",
                f"{took.flops / rate:.0%}",
            ]
        )
    print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    return rates


MEASURED = [
    "part",
    "images",
    "step",
    "multiply-adds an image, forward and backward",
    "reached",
    "of the matrix product's rate",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="imagenet256")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 64, 512])
    parser.add_argument("--peak", type=float, default=989, help="TFLOP/s of one GPU in bfloat16 (H100 data sheet)")
    parser.add_argument("--efficiency", type=float, default=0.35, help="share of the peak that training reaches")
    parser.add_argument("--memory", type=float, default=80, help="GB of one GPU")
    parser.add_argument("--usable", type=float, default=0.85, help="share of it, less buffers and fragments")
    parser.add_argument("--node", type=int, default=8, help="GPUs of one machine")
    parser.add_argument("--inside", type=float, default=300, help="GB/s a GPU sends within a machine")
    parser.add_argument("--between", type=float, default=40, help="GB/s a GPU sends between machines")
    parser.add_argument("--overlap", type=float, default=0.8, help="share of the backward pass that hides transfers")
    parser.add_argument("--least-images", type=int, default=1, help="images a GPU needs to be worth its step")
    parser.add_argument("--images", type=int, default=1_281_167, help="of the data set")
    parser.add_argument("--image-bytes", type=float, default=110e3, help="mean of one stored JPEG")
    parser.add_argument("--measure", action="store_true", help="time real training steps on this device first")
    parser.add_argument("--measure-images", type=int, default=16, help="images of a step that is timed")
    parser.add_argument("--measure-steps", type=int, default=5, help="steps that are timed, after two to warm up")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="where to measure")
    how = parser.parse_args()
    config = read_config(config_path(how.config))
    how.steps = {name: getattr(config, f"{name}_training").steps for name in config.model.parts}
    parts = parts_of(config, how.classes)
    measured = measure(config, parts, how) if how.measure else {}
    if measured and torch.device(how.device).type == "cuda":
        tables = [(measured, "The steps' computing is as measured; transfers and memory are assumed:")]
    else:
        assumed = f"Computing is assumed ({how.peak:g} TFLOP/s, of which training reaches {how.efficiency:.0%}):"
        near = f"If a GPU came as near to its {how.peak:g} TFLOP/s as this CPU's steps to its matrix products:"
        tables = [({}, assumed), *([(measured, near)] if measured else [])]
    for reached, title in tables:
        rows = [HEADER, ["---"] * len(HEADER)]
        for part in parts:
            rows += [plan(part, gpus, how, reached) for gpus in how.gpus]
        print(f"\n{title}\n")
        print("\n".join(f"| {' | '.join(row)} |" for row in rows))
    tokens = sum(height * width for height, width in config.model.grids)
    print(
        f"\n{how.images:,} images: {how.images * how.image_bytes / 1e9:.0f} GB as JPEG, "
        f"{how.images * config.image_size**2 * 3 / 1e9:.0f} GB as pixels of {config.image_size}x{config.image_size}, "
        f"{how.images * tokens * 2 / 1e9:.2f} GB as {tokens} tokens of two bytes, for each variant"
    )


if __name__ == "__main__":
    main()
