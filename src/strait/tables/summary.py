"""The rows of a table without measuring: model, costs and settings of decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from strait.config import Config
from strait.decoding.config import DecodingConfig
from strait.evaluation.cost import describe
from strait.model.config import ModelConfig
from strait.runtime.messages import aligned
from strait.tables.table import PAPERS_SAMPLES, Table, starting_point

PAPERS_COSTS = ("parameters", "multiply_adds")
PAPERS_SIZE = ("imagenet256", "imagenet256-stratified", "imagenet512")
"""Configurations whose rows have the paper's size."""

NEAR = {"parameters": 0.01, "multiply_adds": 0.02}
"""Largest relative deviation from the paper's figures without an explanation."""


def costs(config: ModelConfig, num_classes: int, levels: int | None = None) -> dict[str, Any]:
    """The costs of a row's model.

    Args:
        config: of the model.
        num_classes: of the model.
        levels: number of levels that are generated; None for a tokenizer without transformers.

    Returns:
        ``parameters`` of the model, or of the tokenizer only; its ``parts``, each with ``parameters`` and
        ``multiply_adds`` of a pass; ``multiply_adds`` of a pass through each transformer in use, or through the
        tokenizer (encode and decode).
    """
    parts = _described(config, num_classes)
    transformers = [part for part in config.parts if part != "tokenizer"]
    if levels is None:
        run = ["tokenizer"]
    elif levels <= config.tokenizer.num_levels:
        run = transformers[:levels]
    else:
        run = transformers
    names = ["tokenizer"] if levels is None else config.parts
    return {
        "parameters": sum(parts[part]["parameters"] for part in names),
        "multiply_adds": sum(parts[part]["multiply_adds"] for part in run),
        "parts": {part: parts[part] for part in names},
    }


@cache
def _described(config: ModelConfig, num_classes: int) -> dict[str, dict[str, int]]:
    parts = describe(config, num_classes)["parts"]
    return {name: {key: part[key] for key in ("parameters", "multiply_adds")} for name, part in parts.items()}


def summaries(
    table: Table,
    base: Config | None,
    model: tuple[ModelConfig, DecodingConfig] | None,
    name: str,
    num_classes: int,
    samples: int,
    search_steps: bool = False,
) -> list[dict[str, Any]]:
    """A summary of every row that is measured, in order; quoted rows are left out.

    Args:
        table: with the rows.
        base: the configuration that rows start from, or None to use ``model``.
        model: shape and settings of decoding of the model for all rows.
        name: of the configuration or model.
        num_classes: of the model.
        samples: number of images for each row.
        search_steps: whether steps that need not be the paper's are searched.
    """
    rows: list[dict[str, Any]] = []
    for row in table.rows:
        if not row.ours:
            continue
        config = None if base is None else row.config(base)
        if config is not None:
            shape, decoding = config.model, config.decoding
        else:
            assert model is not None
            shape, decoding = model
        start, fixed = starting_point(decoding, shape.grids, row, search_steps)
        levels = None if table.tokenizer_alone else len(start.steps)
        summary: dict[str, Any] = {
            "name": row.name,
            "configuration": row.configuration or name,
            "starts_from": name,
            "tokenizer": shape.tokenizer.kind,
            "grids": [list(grid) for grid in shape.grids],
            "codebook_sizes": list(shape.tokenizer.codebook_sizes),
        }
        if config is not None:
            summary["bottom_dropout"] = config.tokenizer_training.bottom_dropout
        summary |= costs(shape, num_classes, levels)
        if levels is not None:
            searched = ["steps"] if "steps" not in fixed and levels > 1 else []  # one level has no steps to share
            summary |= {
                "steps": list(start.steps),
                "schedule": start.schedule,
                "guidance": start.guidance,
                "searched": searched + (["temperature"] if "temperature" not in fixed else []),
            }
        paper = {key: row.paper[key] for key in PAPERS_COSTS if key in row.paper}
        rows.append(summary | {"samples": samples, "paper": paper, "departs": row.departs})
    return rows


def summary_table(table: Table, rows: Sequence[Mapping[str, Any]]) -> str:
    """The summaries as a text table, with notes below."""
    head = ["row", "configuration", "tokenizer", "parameters", "multiply-adds"]
    if not table.tokenizer_alone:
        head += ["steps", "schedule", "guidance"]
    lines = [[*head, "samples"]]
    notes = []
    for row in rows:
        cells = [row["name"], row["configuration"], row["tokenizer"]]
        cells += [f"{row['parameters'] / 1e6:.1f}M", f"{row['multiply_adds'] / 1e9:.1f}G"]
        if not table.tokenizer_alone:
            cells += ["+".join(map(str, row["steps"])), row["schedule"], f"{row['guidance']:g}"]
        lines.append([*cells, str(row["samples"])])
        notes += _departures(row)
    scale = rows[0]["starts_from"]
    if scale not in PAPERS_SIZE and any(row["configuration"] != scale for row in rows):
        notes.append(f"named configurations are scaled by the ratio of {scale} to imagenet256")
    searched = dict.fromkeys(setting for row in rows for setting in row.get("searched", ()))
    if searched:
        notes.append(f"searched for rows that do not fix them: {', '.join(searched)}")
    if table.tokenizer_alone:
        notes.append("multiply-adds of the tokenizer: encode and decode")
    else:
        notes.append("multiply-adds of a pass through each transformer in use")
    notes.append(f"the paper uses {PAPERS_SAMPLES:,} samples for each row: --samples {PAPERS_SAMPLES}")
    return "\n".join([aligned(lines, right=(3, 4, len(lines[0]) - 1)), "", *notes])


def _departures(row: Mapping[str, Any]) -> list[str]:
    """Deviations of a row's costs from the paper's, for configurations of the paper's size."""
    if row["starts_from"] not in PAPERS_SIZE:
        return []
    notes = []
    for key, papers in row["paper"].items():
        share = row[key] / papers - 1
        if abs(share) > NEAR[key]:
            reason = row["departs"] or "not explained"
            notes.append(f"{row['name']}: {100 * share:+.1f}% {key.replace('_', '-')} relative to the paper: {reason}")
    return notes
