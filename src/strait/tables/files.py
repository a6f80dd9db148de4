"""A measured table as Markdown, JSON and a plot: OUTPUT/TABLE.md, .json, .png, rewritten after each row."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from strait.evaluation.provenance import photographs_in_words, provenance_lines
from strait.runs.run_folder import file_hash
from strait.runtime.files import write_bytes, write_text
from strait.tables.plots import table_plot
from strait.tables.report import markdown, means, verdicts
from strait.tables.rows import TableRun
from strait.tables.table import PAPERS_SAMPLES


@dataclass(frozen=True)
class Written:
    """A table as text and as plain values."""

    text: str
    content: dict[str, Any]


def write_table(
    run: TableRun, results: Sequence[Mapping[str, Any]], floor: Mapping[str, Any] | None = None
) -> Written:
    """Write the results measured so far."""
    table = run.table
    row_means = means(table, results)
    text = markdown(table, results, floor, _about(run, results, floor), run.network.name)
    content = {
        "table": table.number or table.slug,
        "rows": list(results),
        "paper": {row.name: dict(row.paper) for row in table.rows},
        "means": {
            name: {key: dataclasses.asdict(mean) for key, mean in scores.items()} for name, scores in row_means.items()
        },
        "verdicts": verdicts(table, row_means, run.network.name),
        "floor": floor,
        "measuring": dataclasses.asdict(run.measuring),
    }
    target = run.folder.parent / table.slug
    target.parent.mkdir(parents=True, exist_ok=True)
    write_text(target.with_suffix(".md"), text)
    write_text(target.with_suffix(".json"), json.dumps(content, indent=1))
    scores = [("psnr", "psnr")] if table.tokenizer_alone else [("fid_to_reconstructions", "fid"), ("fid", "fid")]
    picture = table_plot(table, row_means, scores, run.network.name)
    if picture is not None:
        write_bytes(target.with_suffix(".png"), picture)
    return Written(text, content)


def _about(run: TableRun, results: Sequence[Mapping[str, Any]], floor: Mapping[str, Any] | None) -> list[str]:
    measuring, trainer = run.measuring, run.trainer
    training = "one model, with different settings of decoding"
    if run.config is not None:
        steps = "the configuration's steps" if trainer.budget is None else f"{trainer.budget:g} minutes"
        training = f"each row trained for {steps}"
        if trainer.tokenizer_budget is not None:
            training = f"each row's transformers trained for {steps}, its tokenizer, shared by all seeds, for "
            training += f"{trainer.tokenizer_budget:g} minutes"
        if trainer.init_from is not None:
            digest = file_hash(trainer.init_from / "tokenizer.safetensors")[:12]
            training += f"; tokenizers start with those weights of another that fit them ({digest})"
    searched = ""
    if not run.table.tokenizer_alone and measuring.search_samples:
        by = "" if measuring.search_by == "fid" else " by the distance to reconstructions"
        searched = f"; open settings searched{by} on {measuring.search_samples} samples each"
        searched += ", temperatures also for the best score of the logits (IS)"
    papers = "" if measuring.samples == PAPERS_SAMPLES else f" (the paper: {PAPERS_SAMPLES})"
    lines = [f"{training}; {measuring.seeds} seed(s); {measuring.samples} images a row{papers}{searched}"]
    names = [f"{result['row']}, seed {result['seed']}:" for result in results]
    lines += provenance_lines([result["provenance"] for result in results], names)
    if floor is not None:
        lines.append(f"floor: {photographs_in_words(floor['provenance']['photographs'])}")
    return lines
