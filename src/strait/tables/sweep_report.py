"""The report of a sweep: its front as a table and a plot, with everything that the figures depend on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from strait.evaluation.generation import Judge, SampleSet
from strait.evaluation.provenance import provenance_lines
from strait.runtime.files import write_bytes, write_text
from strait.runtime.messages import figure
from strait.tables.files import Written
from strait.tables.plots import front_plot
from strait.tables.report import distance_title, markdown_row


def sweep_name(judge: Judge, samples: SampleSet) -> str:
    """The name of a sweep's files: the hash of the model, and of everything else that a trial depends on.

    Trials include timings, so the hash includes machine and versions.
    """
    about = json.dumps(judge.provenance(samples), sort_keys=True)
    return f"{judge.weights}-{hashlib.sha256(about.encode()).hexdigest()[:8]}"


def write_sweep(
    output: Path,
    judge: Judge,
    samples: SampleSet,
    trials: Sequence[dict[str, Any]],
    front: Sequence[dict[str, Any]],
) -> Written:
    """Write ``OUTPUT/NAME.md``, ``.json`` and ``.png`` of a model's trials.

    Args:
        output: folder.
        judge: of the trials.
        samples: of each trial.
        trials: at least one.
        front: the Pareto-optimal trials, scored again (``scored_again``).
    """
    about = judge.provenance(samples)
    best = front[-1]
    finished = all(trial["scores"] is not None for trial in front)
    text = f"""# Score against time: model {judge.weights}

{front_table(front, distance_title(judge.network.name))}

{len(trials)} settings tried on {samples.samples} images each; the front scored again on as many others, with seed \
{samples.seed + 1}{"" if finished else " (not finished: rerun the command to resume)"}; the smallest distance of the \
search: `{label(best["decoding"])}`

{chr(10).join(f"- {line}" for line in provenance_lines([about]))}
"""
    content = {
        "trials": list(trials),
        "front": list(front),
        "best": best,
        "provenance": about,
        "front_provenance": judge.provenance(dataclasses.replace(samples, seed=samples.seed + 1)),
    }
    name = sweep_name(judge, samples)
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / f"{name}.md", text)
    write_text(output / f"{name}.json", json.dumps(content, indent=1))
    shown = [trial if trial["scores"] is not None else {**trial, "scores": trial["searched"]} for trial in front]
    title = f"{len(trials)} settings, {samples.samples} images each; the front on others" if finished else "unfinished"
    write_bytes(output / f"{name}.png", front_plot(_points(trials), _points(shown), title))
    return Written(text, content)


def front_table(front: Sequence[dict[str, Any]], distance: str) -> str:
    """The front as Markdown, by increasing time: scores on new samples beside those of the search."""
    head = ["seconds an image", distance, f"{distance}, in the search", "IS", "precision", "recall", "settings"]
    lines = [markdown_row(head), "|" + "---|" * len(head)]
    for trial in front:
        scores = trial["scores"] or {}
        lines.append(
            markdown_row(
                [
                    figure(scores.get("seconds_per_image"), 4),
                    _with_error(scores),
                    _with_error(trial["searched"]),
                    *(figure(scores.get(name)) for name in ("inception_score", "precision", "recall")),
                    f"`{label(trial['decoding'])}`",
                ]
            )
        )
    return "\n".join(lines)


def _with_error(scores: dict[str, Any]) -> str:
    return f"{figure(scores['fid'], 2)} ± {figure(scores['fid_error'], 2)}" if scores else "-"


def label(decoding: dict[str, Any]) -> str:
    """Settings as options of the command line."""
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
