"""How the cost of generation grows with batch size, steps, image size and model size, compared with a lower bound.

    python benchmarks/growth.py [--repeats 3] [--plot docs/images/growth.png] [--json]

Each axis is varied alone, starting from a batch of 8 images of the configuration `tiny-imagenet64-cpu`, with random
weights, packed, without guidance. The lower bound is the number of operations of the forward passes at the rate of
the matrix product of this machine, measured alternately with them. The plot needs `pip install ".[eval]"`.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from strait.config import config_path, read_config
from strait.decoding.config import DecodingConfig
from strait.model.config import ModelConfig
from strait.model.sharing import unfilled
from strait.model.strait import StraIT
from strait.runs.bench import Bench, Machine, fill_quickly

BATCH, STEPS = 8, (12, 6)
CLASSES = [str(index) for index in range(200)]


def wider(config: ModelConfig, times: int) -> ModelConfig:
    """The model with transformers ``times`` as wide, and heads of the same width."""

    def grown(part: Any) -> Any:
        return replace(part, width=times * part.width, mlp=times * part.mlp, heads=times * part.heads)

    return replace(config, top=grown(config.top), bottom=grown(config.bottom))


def points(base: ModelConfig) -> dict[str, list[tuple[str, ModelConfig, int, tuple[int, int]]]]:
    """Axis -> (position on the axis, model, batch, steps)."""
    return {
        "images in a batch": [(str(count), base, count, STEPS) for count in (1, 2, 4, 8, 16, 32)],
        "steps, top+bottom": [
            (f"{top}+{bottom}", base, BATCH, (top, bottom))
            for top, bottom in ((2, 1), (4, 2), (8, 4), (12, 6), (16, 8))
        ],
        "pixels a side": [(str(size), replace(base, image_size=size), BATCH, STEPS) for size in (32, 64, 128, 256)],
        "transformers' width": [(f"{times}x", wider(base, times), BATCH, STEPS) for times in (1, 2, 3, 4)],
    }


def measured(
    machine: Machine, config: ModelConfig, batch: int, steps: tuple[int, int], repeats: int
) -> dict[str, Any]:
    decoding = DecodingConfig(steps=steps, temperature=(3.0, 3.0))
    model = unfilled(StraIT, config, CLASSES, decoding, machine.dtype)
    fill_quickly(model)
    report = Bench(model.pack(), machine, batch, repeats, 1).run("generate", decoding)
    return {
        "seconds": report["seconds"],
        "seconds_forward_passes": report["seconds_forward_passes"],
        "floor": report["flops"] / report["ceiling_flops_per_s"],
        "peak_memory_bytes": report["peak_memory_bytes"],
    }


def plot(results: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(3.4 * len(results), 3.2), sharey=True, layout="constrained")
    for axis, (title, rows) in zip(axes, results.items(), strict=True):
        axis.plot(list(rows), [row["seconds"] for row in rows.values()], "o-", label="a batch, pixels included")
        axis.plot(list(rows), [row["floor"] for row in rows.values()], "k--", label="floor of its forward passes")
        axis.set(xlabel=title, yscale="log")
        axis.grid(alpha=0.3, which="both")
    axes[0].set_ylabel("seconds")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    machine = Machine(torch.device("cpu"), torch.float32)
    base = read_config(config_path("tiny-imagenet64-cpu")).model
    results = {
        axis: {name: measured(machine, *point, args.repeats) for name, *point in rows}
        for axis, rows in points(base).items()
    }
    if args.plot is not None:
        plot(results, args.plot)
    if args.json:
        print(json.dumps({**machine.describe(), "growth": results}))
        return
    for axis, rows in results.items():
        print(f"\n| {axis} | seconds | forward passes | floor | over the floor |\n|---|---|---|---|---|")
        for name, row in rows.items():
            over = row["seconds"] / row["floor"]
            columns = [f"{row[column]:.3f}" for column in ("seconds", "seconds_forward_passes", "floor")]
            print(f"| {name} | {' | '.join(columns)} | {over:.2f} |")


if __name__ == "__main__":
    main()
