"""How the cost of generation and of reading tokens grows, compared with a lower bound.

    python benchmarks/growth.py [--repeats 3] [--plot docs/images/growth.png] [--json]
    python benchmarks/growth.py --data
    python benchmarks/growth.py --processes [--repeats 3]

Each axis of generation is varied alone, starting from a batch of 8 images of the configuration `nature128-cpu`, with
random weights, packed, without guidance. The lower bound is the number of operations of the forward passes at the
rate of the matrix product of this machine, measured alternately with them. The plot needs `pip install ".[eval]"`.

`--data` simulates the input of stage 2: token caches of 10 thousand to 10 million images of a thousand classes, as
sparse files. It measures opening a cache (whose hashes are verified), the order of an epoch, and reading a batch.

`--processes` trains top and bottom of `nature128-cpu` on pictures of noise with `strait train`, in one process of one
thread, one of two threads, and two of one thread that share a batch, in turns.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from strait.config import config_path, read_config
from strait.data.balance import epoch_order
from strait.data.token_cache import TokenCache, array_hash
from strait.decoding.config import DecodingConfig
from strait.model.config import ModelConfig
from strait.model.sharing import unfilled
from strait.model.strait import StraIT
from strait.runs.bench import Bench, Machine, fill_quickly
from strait.training.pace import mean_seconds

BATCH, STEPS, CLASSES = 8, (18, 6), 30
READ, BALANCE = 128, 0.5
TRAINED = 20
"""Steps of each training; the first few are not timed."""

Point = tuple[str, ModelConfig, int, int, tuple[int, int]]
"""Position on an axis, model, classes, batch, steps."""


def wider(config: ModelConfig, times: int) -> ModelConfig:
    """The model with transformers ``times`` as wide, and heads of the same width."""

    def grown(part: Any) -> Any:
        return replace(part, width=times * part.width, mlp=times * part.mlp, heads=times * part.heads)

    return replace(config, top=grown(config.top), bottom=grown(config.bottom))


def points(base: ModelConfig) -> dict[str, list[Point]]:
    """Each axis and its points."""

    def codes(count: int) -> ModelConfig:
        return replace(base, tokenizer=replace(base.tokenizer, codebook_size=count))

    steps = ((4, 2), (9, 3), (18, 6), (36, 12))
    return {
        "images in a batch": [(str(count), base, CLASSES, count, STEPS) for count in (1, 2, 4, 8, 16, 32)],
        "steps, top+bottom": [(f"{top}+{bottom}", base, CLASSES, BATCH, (top, bottom)) for top, bottom in steps],
        "pixels a side": [
            (str(size), replace(base, image_size=size), CLASSES, BATCH, STEPS) for size in (64, 128, 192, 256)
        ],
        "transformers' width": [(f"{times}x", wider(base, times), CLASSES, BATCH, STEPS) for times in (1, 2, 3, 4)],
        "classes": [(f"{count:,}", base, count, BATCH, STEPS) for count in (30, 1000, 10_000)],
        "codes": [(f"{count:,}", codes(count), CLASSES, BATCH, STEPS) for count in (1024, 2048, 4096, 8192, 16_384)],
    }


def measured(
    machine: Machine, config: ModelConfig, classes: int, batch: int, steps: tuple[int, int], repeats: int
) -> dict[str, Any]:
    decoding = DecodingConfig(steps=steps, temperature=(3.0, 3.0))
    model = unfilled(StraIT, config, [str(index) for index in range(classes)], decoding, machine.dtype)
    fill_quickly(model)
    report = Bench(model.pack(), machine, batch, repeats, 1).run("generate", decoding)
    return {
        "seconds": report["seconds"],
        "seconds_forward_passes": report["seconds_forward_passes"],
        "floor": report["flops"] / report["ceiling_flops_per_s"],
        "peak_memory_bytes": report["peak_memory_bytes"],
    }


def sparse_cache(folder: Path, images: int, classes: int) -> None:
    """Write a token cache of zeros for 4x4 and 8x8 tokens, whose files take hardly any space, with true labels."""
    folder.mkdir()
    shapes = {"top": (1, images, 16), "bottom": (1, images, 64)}
    for name, shape in shapes.items():
        np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.uint16, shape=shape).flush()
    np.save(folder / "labels.npy", np.random.default_rng(0).integers(0, classes, images))
    about = {
        "levels": list(shapes),
        "grids": [[4, 4], [8, 8]],
        "shapes": [list(shape) for shape in shapes.values()],
        "sha256": {name: array_hash(folder, name) for name in (*shapes, "labels")},
    }
    (folder / "cache.json").write_text(json.dumps(about))


def data(classes: int = 1000) -> str:
    """A table of the time that the input of stage 2 takes, by the number of images."""

    def timed(call: Callable[[], Any]) -> tuple[float, Any]:
        start = time.perf_counter()
        result = call()
        return time.perf_counter() - start, result

    rows = ["| images | opening the cache, s | order of an epoch, s | a batch of 128, ms |", "|---|---|---|---|"]
    draw = np.random.default_rng(0)
    for images in (10_000, 100_000, 1_000_000, 10_000_000):
        with TemporaryDirectory() as parent:
            folder = Path(parent) / "tokens"
            sparse_cache(folder, images, classes)
            opening, cache = timed(partial(TokenCache, folder))
            ordering, order = timed(partial(epoch_order, len(cache), cache.labels.numpy(), BALANCE, 0, 0))
            batches = [order[draw.integers(0, images, READ)].numpy() for _ in range(50)]
            reads = [timed(partial(cache.read, np.zeros_like(batch), batch))[0] for batch in batches]
            rows.append(f"| {images:,} | {opening:.2f} | {ordering:.3f} | {1000 * statistics.median(reads):.2f} |")
    return "\n".join(rows)


def training_seconds(part: str, processes: int, threads: int, data: Path, folder: Path) -> float:
    """Mean seconds of a training step of a part in as many processes of as many threads."""
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "-m", "strait.cli"]
    options = ["--config", "nature128-cpu", "--init-from", "shipped", "--keep-tokenizer"]
    options += ["--data.cache_variants", "1", f"--{part}_training.steps", str(TRAINED), "--run.sample_every", "0"]
    command = [sys.executable, *launch, "train", part, "--data", str(data), "--model", str(folder), *options]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = mean_seconds(folder / "runs" / part)
    assert seconds is not None
    return seconds


def processes(repeats: int) -> str:
    """A table of training steps in one process and in two."""
    shapes = ((1, 1), (1, 2), (2, 1))
    rows = ["| part | processes | threads of each | seconds a step | times the first row |", "|---|---|---|---|---|"]
    draw = np.random.default_rng(0)
    with TemporaryDirectory() as name:
        data = Path(name) / "data"
        for index in range(32):
            path = data / "noise" / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw.integers(0, 256, (128, 128, 3), dtype=np.uint8)).save(path)
        for part in ("top", "bottom"):
            seconds: dict[tuple[int, int], list[float]] = {shape: [] for shape in shapes}
            for repeat in range(repeats):
                for shape in shapes:
                    folder = Path(name) / f"{part}-{repeat}-{shape[0]}-{shape[1]}"
                    seconds[shape].append(training_seconds(part, *shape, data, folder))
            medians = {shape: statistics.median(values) for shape, values in seconds.items()}
            for shape, median in medians.items():
                ends = f"{median:.2f} ({min(seconds[shape]):.2f} to {max(seconds[shape]):.2f})"
                rows.append(f"| {part} | {shape[0]} | {shape[1]} | {ends} | {medians[shapes[0]] / median:.2f} |")
    return "\n".join(rows)


def plot(results: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    columns = -(-len(results) // 2)
    figure, grid = plt.subplots(2, columns, figsize=(3.4 * columns, 6.4), sharey=True, layout="constrained")
    axes = grid.flatten()
    for axis, (title, rows) in zip(axes, results.items(), strict=True):
        axis.plot(list(rows), [row["seconds"] for row in rows.values()], "o-", label="a batch, pixels included")
        axis.plot(list(rows), [row["floor"] for row in rows.values()], "k--", label="floor of its forward passes")
        axis.set(xlabel=title, yscale="log")
        axis.grid(alpha=0.3, which="both")
    for axis in grid[:, 0]:
        axis.set_ylabel("seconds")
    axes[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--json", action="store_true")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--data", action="store_true", help="measure the input of stage 2 instead")
    what.add_argument("--processes", action="store_true", help="measure training in one process and two instead")
    args = parser.parse_args()
    if args.processes:
        print(processes(args.repeats))
        return
    if args.data:
        print(data())
        return
    machine = Machine(torch.device("cpu"), torch.float32)
    base = read_config(config_path("nature128-cpu")).model
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
        print(f"\n| {axis} | seconds | forward passes | floor | over the floor | peak memory, MB |")
        print("|---|---|---|---|---|---|")
        for name, row in rows.items():
            over = row["seconds"] / row["floor"]
            columns = [f"{row[column]:.3f}" for column in ("seconds", "seconds_forward_passes", "floor")]
            print(f"| {name} | {' | '.join(columns)} | {over:.2f} | {row['peak_memory_bytes'] / 1e6:.0f} |")


if __name__ == "__main__":
    main()
