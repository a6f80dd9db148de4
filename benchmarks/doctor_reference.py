"""Write the reference curves of ``strait doctor`` from logs of ``nature128-cpu``, trained from random weights.

    python benchmarks/doctor_reference.py RUNS > src/strait/runs/doctor_reference.json

RUNS is a model folder's ``runs``, trained with ``--run.log_every 10``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from strait.runs.doctor import ACCURACIES
from strait.training.curves import read_curves

CURVES = {"tokenizer": ("pixel", "perceptual"), "top": ("accuracy", *ACCURACIES), "bottom": ("accuracy", *ACCURACIES)}
EVERY = 10
LAST = {"tokenizer": 400, "top": 200, "bottom": 200}
"""The last step of each curve."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    runs = parser.parse_args().runs
    reference: dict[str, object] = {"config": "nature128-cpu"}
    for part, names in CURVES.items():
        curves = read_curves(runs / part / "log.jsonl")
        chosen = {name: [point for point in curves[name] if point[0] <= LAST[part]] for name in names}
        assert all(step % EVERY == 0 for curve in chosen.values() for step, _ in curve)
        reference[part] = {"every": EVERY, **chosen}
    print(json.dumps(reference))


if __name__ == "__main__":
    main()
