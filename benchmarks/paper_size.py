"""One training step of each part and one generated image of a configuration, with random weights: seconds and memory.

    python benchmarks/paper_size.py --config imagenet256 --json paper-size.json

Each part is measured in a process of its own, whose peak memory is that part's (VmHWM). The data are random too, and
LPIPS is left out: it would download VGG. ``--part top`` measures one part alone, in this process. On a CPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from step_times import random_trainee, tokenizer_networks

from strait.config import Config, config_path, read_config
from strait.evaluation.provenance import versions_and_hardware
from strait.model.strait import random_model
from strait.runs.run_folder import runnable
from strait.runtime.messages import aligned

CLASSES = 1000
CPU = torch.device("cpu")


def peak_gib() -> float:
    """The most memory that this process has held, in GiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (found,) = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return found / 2**20


def timed(run: Callable[[int], object], times: int) -> list[float]:
    """Seconds of each of some calls; the first one sets things up."""
    found = []
    for number in range(times):
        start = time.perf_counter()
        run(number)
        found.append(time.perf_counter() - start)
    return found


def measure(config: Config, part: str, batch: int, times: int) -> dict[str, Any]:
    """Seconds and peak memory of one part; ``image`` is generation."""
    settings: dict[str, Any] = {"precision": "float32"}
    if part == "image":
        model = random_model(config.model, [str(number) for number in range(CLASSES)])
        names = [str(number) for number in range(batch)]
        seconds = timed(lambda number: model.generate(names, seed=number, decoding=config.decoding), times)
        settings["decoding"] = dataclasses.asdict(config.decoding)
    else:
        run = dataclasses.replace(config.run, compile=False, sample_every=0)
        config = runnable(dataclasses.replace(config, run=run), CPU)
        training = dataclasses.replace(config.tokenizer_training, steps=10**6)
        config = dataclasses.replace(config, tokenizer_training=training)
        # Where losses that begin later have begun.
        first = 9 * 10**5 if part == "tokenizer" else 0
        network = tokenizer_networks(config)[0] if part == "tokenizer" else None
        with random_trainee(config, part, batch, CLASSES, CPU, network) as trainee:
            trainee.begin(first)
            seconds = timed(lambda number: trainee.step(first + number), times)
        settings["precision"] = config.run.precision
    return {"part": part, "batch": batch, "seconds": seconds, "peak_gib": peak_gib(), **settings}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="imagenet256")
    parser.add_argument("--part", help="image, tokenizer, top, bottom ...; all, a process each, by default")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--times", type=int, default=2, help="calls; the last one's seconds are reported")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    args = parser.parse_args()
    config = read_config(config_path(args.config))
    if args.part is not None:
        print(json.dumps(measure(config, args.part, args.batch, args.times)))
        return
    found = []
    for part in ("image", *config.model.parts):
        words = [sys.executable, __file__, "--config", args.config, "--part", part]
        words += ["--batch", str(args.batch), "--times", str(args.times)]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{part}: done", file=sys.stderr)
    rows = [("", "batch", "seconds", "first call", "peak GiB", "precision")]
    for one in found:
        what = "one generation" if one["part"] == "image" else f"{one['part']}, a training step"
        seconds = one["seconds"]
        figures = f"{seconds[-1]:.2f}", f"{seconds[0]:.2f}", f"{one['peak_gib']:.2f}"
        rows.append((what, str(one["batch"]), *figures, one["precision"]))
    print(aligned(rows, right=range(1, 5)))
    about = {"config": args.config, **versions_and_hardware(CPU)}
    print(json.dumps(about))
    if args.json is not None:
        args.json.write_text(json.dumps({"parts": found, **about}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
