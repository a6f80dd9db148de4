"""`strait bench` of this version and of another one, in turns: is anything slower than before?

    python benchmarks/versions.py --against OTHER/src [--config tiny-imagenet64-cpu] [--rounds 3] [--repeats 5]
        [--parts tokenizer top bottom generate train-top:train]

Each measurement is a process of its own. `NEW:OLD` names a part that the other version calls differently. The ceilings
of both are printed, since they must agree for the seconds to be comparable.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from strait.runtime.messages import aligned

HERE = Path(__file__).resolve().parents[1] / "src"


def measured(source: Path, part: str, args: argparse.Namespace) -> dict[str, Any]:
    """The report of ``strait bench`` of the package in ``source``."""
    command = [sys.executable, "-m", "strait.cli", "bench", "--config", args.config, "--part", part, "--json"]
    command += ["--repeats", str(args.repeats), "--batch", str(args.batch)]
    environment = {**os.environ, "PYTHONPATH": str(source)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{source}: bench --part {part} failed: {done.stderr.strip().splitlines()[-1]}")
    report = json.loads(done.stdout)
    return report if isinstance(report, dict) else report[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, required=True, help="the folder src of the other version")
    parser.add_argument("--config", default="tiny-imagenet64-cpu")
    parser.add_argument("--parts", nargs="+", default=["tokenizer", "top", "bottom", "generate", "train-top"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    lines = [["part", "this version, s", "the other, s", "ratio", "of each round", "ceilings, GFLOP/s"]]
    for named in args.parts:
        part, _, other = named.partition(":")
        ours: list[dict[str, Any]] = []
        theirs: list[dict[str, Any]] = []
        for _ in range(args.rounds):
            ours.append(measured(HERE, part, args))
            theirs.append(measured(args.against.resolve(), other or part, args))
        seconds = [[report["seconds"] for report in reports] for reports in (ours, theirs)]
        ratios = [mine / old for mine, old in zip(*seconds, strict=True)]
        ceilings = [
            statistics.median(report["ceiling_flops_per_s"] for report in reports) for reports in (ours, theirs)
        ]
        lines.append(
            [
                part,
                *(f"{statistics.median(of_version):.4f}" for of_version in seconds),
                f"{statistics.median(ratios):.2f}",
                " ".join(f"{ratio:.2f}" for ratio in ratios),
                " ".join(f"{ceiling / 1e9:.0f}" for ceiling in ceilings),
            ]
        )
        print(lines[-1], file=sys.stderr, flush=True)
    print(aligned(lines, right=range(1, 6)))


if __name__ == "__main__":
    main()
