"""The time and the memory of all four scores and their errors, on random features.

    python benchmarks/scores.py --images 10000 --width 2048

The memory is the peak of the process (VmHWM) minus its memory with the features loaded.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from strait.evaluation.features import Features
from strait.evaluation.fidelity import Summary, fidelity, frechet_error
from strait.evaluation.provenance import versions_and_hardware


def memory_gib(name: str) -> float:
    """A figure of this process from the kernel: VmHWM, the peak; VmRSS, the current memory."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (kibibytes,) = [int(line.split()[1]) for line in lines if line.startswith(f"{name}:")]
    return kibibytes / 2**20


def features(images: int, width: int, classes: int, seed: int) -> Features:
    """Features with different variances, like those of a network, and logits."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(images, width, generator=draw).mul_(torch.linspace(0.05, 1, width))
    return Features(values, torch.randn(images, classes, generator=draw).mul_(3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--classes", type=int, default=1008)
    args = parser.parse_args()
    real, samples = (features(args.images, args.width, args.classes, seed) for seed in (0, 1))
    before = memory_gib("VmRSS")
    start, worked = time.perf_counter(), time.process_time()
    reference, generated = Summary(real), Summary(samples)
    scores = fidelity(reference, generated)
    middle = time.perf_counter()
    error = frechet_error(generated, reference)
    end = time.perf_counter()
    report = {
        "seconds": round(middle - start, 2),
        "seconds_with_error": round(end - start, 2),
        "processor_seconds_with_error": round(
            time.process_time() - worked, 2
        ),  # of all threads, on a busy machine too
        "gib_beyond_the_features": round(memory_gib("VmHWM") - before, 3),
        "scores": scores,
        "fid_error": error,
        **versions_and_hardware(torch.device("cpu")),
    }
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
