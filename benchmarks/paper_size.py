"""Time and memory of a training step of each part, and of generating an image, with random weights.

    python benchmarks/paper_size.py --config imagenet256 --json paper-size.json

Each part is measured in its own process, whose peak memory (VmHWM) is reported. The data is random too, and LPIPS is
omitted, which would download VGG. ``--part top`` measures a single part, in this process. On a CPU.
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

from strait.config import Config, config_path, read_config
from strait.evaluation.provenance import versions_and_hardware
from strait.model.strait import random_model
from strait.runs.noise import random_trainee, tokenizer_networks
from strait.runs.run_folder import runnable
from strait.runtime.messages import aligned

CLASSES = 1000
CPU = torch.device("cpu")


def peak_gib() -> float:
    """The peak memory of this process, in GiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (kibibytes,) = [int(line.split()[1]) for line in lines if line.startswith("VmHWM:")]
    return kibibytes / 2**20


def timed(run: Callable[[int], object], times: int) -> list[float]:
    """The seconds of each call; the first includes one-time setup."""
    seconds = []
    for number in range(times):
        start = time.perf_counter()
        run(number)
        seconds.append(time.perf_counter() - start)
    return seconds


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
        training = dataclasses.replace(config.tokenizer_training, steps=10**6, perceptual="none")
        config = dataclasses.replace(config, tokenizer_training=training)
        # Late in training, when all losses are active.
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
    reports = []
    for part in ("image", *config.model.parts):
        command = [sys.executable, __file__, "--config", args.config, "--part", part]
        command += ["--batch", str(args.batch), "--times", str(args.times)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        reports.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{part}: done", file=sys.stderr)
    rows = [("", "batch", "seconds", "first call", "peak GiB", "precision")]
    for report in reports:
        what = "one generation" if report["part"] == "image" else f"{report['part']}, a training step"
        seconds = report["seconds"]
        figures = f"{seconds[-1]:.2f}", f"{seconds[0]:.2f}", f"{report['peak_gib']:.2f}"
        rows.append((what, str(report["batch"]), *figures, report["precision"]))
    print(aligned(rows, right=range(1, 5)))
    about = {"config": args.config, **versions_and_hardware(CPU)}
    print(json.dumps(about))
    if args.json is not None:
        args.json.write_text(json.dumps({"parts": reports, **about}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
