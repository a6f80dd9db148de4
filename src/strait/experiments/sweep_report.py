"""What a sweep found: the front as a table and as a plot, with everything the figures depend on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from strait.evaluation.generation import Judge, SampleSet
from strait.evaluation.report import figure
from strait.experiments.plots import front_plot
from strait.experiments.sweep import front
from strait.experiments.table_files import Written
from strait.files import write_text


def write_sweep(output: Path, judge: Judge, wanted: SampleSet, trials: Sequence[dict[str, Any]]) -> Written:
    """Write ``OUTPUT/HASH.md``, ``.json`` and ``.png`` of a model's trials, of which there is at least one."""
    best = min(trials, key=lambda trial: trial["scores"]["fid"])
    about = judge.provenance(wanted)
    features, reference, hardware = about["features"], about["reference"], about["hardware"]
    text = f"""# Score against time: model {judge.weights}

{front_table(trials)}

{len(trials)} settings tried on {wanted.samples} images each; the least Fréchet distance: `{label(best["decoding"])}`

features: {features["network"]} ({features["digest"]}); reference: {reference["images"]} {reference["split"]} \
photographs ({reference["fingerprint"]}); {hardware["device"]}, {hardware["threads"]} threads, batches of \
{wanted.batch_size}
"""
    content = {"trials": list(trials), "front": front(trials), "best": best, "provenance": about}
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / f"{judge.weights}.md", text)
    write_text(output / f"{judge.weights}.json", json.dumps(content, indent=1))
    title = f"{len(trials)} settings, {wanted.samples} images each"
    (output / f"{judge.weights}.png").write_bytes(front_plot(_points(trials), _points(front(trials)), title))
    return Written(text, content)


def front_table(trials: Sequence[dict[str, Any]]) -> str:
    """The front as Markdown, from fast to good."""
    lines = ["| seconds an image | FID | IS | precision | recall | settings |", "|---|---|---|---|---|---|"]
    for trial in front(trials):
        scores = trial["scores"]
        cells = [
            figure(scores["seconds_per_image"], 4),
            f"{figure(scores['fid'], 2)} ± {figure(scores['fid_error'], 2)}",
            *(figure(scores[name]) for name in ("inception_score", "precision", "recall")),
            f"`{label(trial['decoding'])}`",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def label(decoding: dict[str, Any]) -> str:
    """Settings in the words of the command line."""
    steps, temperature = "+".join(map(str, decoding["steps"])), "+".join(f"{t:g}" for t in decoding["temperature"])
    return f"--steps {steps} --temperature {temperature} --guidance {decoding['guidance']:g}"


def _points(trials: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {
            "seconds": trial["scores"]["seconds_per_image"],
            "fid": trial["scores"]["fid"],
            "label": "+".join(map(str, trial["decoding"]["steps"])),
        }
        for trial in trials
    ]
