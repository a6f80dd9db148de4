"""Is a training as fast as it should be? Its recorded time of a step, against the same step measured here."""

from __future__ import annotations

from pathlib import Path

import torch

from strait.config import PARTS, read_config
from strait.runs.bench import Bench, Machine, model_to_time
from strait.runs.doctor import Finding
from strait.training.pace import mean_seconds

SLOWER = 1.5
"""Times the measured step from which a recorded one is slow."""
REPEATS = 3


def examine_speed(folder: Path, device: torch.device) -> list[Finding]:
    """Compare the steps recorded in ``runs/PART/pace.jsonl`` with steps on noise, measured now.

    Only where the training ran on this machine, in one process and with as many threads, does the comparison mean
    something. Parts without a record, which is written when a run ends, are left out.

    Args:
        folder: of the model.
        device: to measure on.

    Raises:
        ValueError: if no part has both a record and settings to measure by.
    """
    path = folder / "runs" / "config.yaml"
    recorded = {part: seconds for part in PARTS if (seconds := mean_seconds(folder / "runs" / part)) is not None}
    if not path.exists() or not recorded:
        raise ValueError(f"--speed: {folder}/runs has no config.yaml or no PART/pace.jsonl, written when a run ends")
    config = read_config(path)
    machine = Machine(device, torch.bfloat16 if config.run.precision == "bfloat16" else torch.float32)
    model = model_to_time(config.model, config.decoding, machine)
    findings: list[Finding] = []
    for part, seconds in recorded.items():
        if part == "tokenizer" and config.tokenizer.kind == "cascade":
            continue  # two trainings, one after the other
        training = getattr(config, f"{part}_training")
        batch = training.batch_size // training.accumulate
        bench = Bench(model, machine, batch, REPEATS, warm_up=1, compiled=config.run.compile, config=config)
        report = bench.run(f"train-{part}")
        findings.append(_speed(part, seconds, report["seconds"] * training.accumulate, report["fraction_of_ceiling"]))
    return findings


def _speed(part: str, recorded: float, measured: float, fraction: float) -> Finding:
    """``recorded``, ``measured``: seconds of a step; ``fraction``: the measured one's, of the machine's ceiling."""
    message = (
        f"{recorded:.3g} s a step were recorded; without photographs it takes {measured:.3g} s here and now, "
        f"{fraction:.2f} of the speed of a matrix product"
    )
    if recorded <= SLOWER * measured:
        return Finding(part, "speed", True, message)
    advice = "close other programs, or raise data.workers if photographs are large"
    return Finding(part, "speed", False, message, advice)
