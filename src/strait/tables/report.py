"""The report of a table: means with errors beside the paper's figures, and whether the paper's order holds."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from strait.evaluation.features import INCEPTION
from strait.evaluation.provenance import decoding_in_words
from strait.runtime.messages import figure
from strait.tables.table import ORDERING, Mean, Row, Table

_SIGNIFICANT = 2.0  # standard errors from which a difference counts

_TITLES = {
    "fid": "FID",
    "fid_to_reconstructions": "FID to reconstructions",
    "reconstruction_fid": "FID of reconstructions",
    "inception_score": "IS",
    "inception_score_at_best_fid": "IS at the best FID",
    "difference": "Δ FID",
    "recognised_top_alone": "recognised, top alone",
    "reconstructions_recognised": "reconstructions recognised",
    "steps": "steps",
    "base_steps": "T_base",
    "upsampling_steps": "T_upsample",
    "rfid": "rFID",
    "psnr": "PSNR",
    "psnr_top_alone": "PSNR, top alone",
    "psnr_bottom_shuffled": "PSNR, bottom exchanged",
    "psnr_top_shuffled": "PSNR, top exchanged",
    "perplexity_batch_tokens": "perplexity of a batch",
    "perplexity_batch_top": "perplexity of a batch, top",
    "perplexity_batch_bottom": "perplexity of a batch, bottom",
    "perplexity_tokens": "perplexity",
    "perplexity_top": "perplexity, top",
    "perplexity_bottom": "perplexity, bottom",
    "multiply_adds": "multiply-adds",
    "multiply_adds_per_image": "multiply-adds an image",
    "seconds_per_image": "seconds an image",
    "seconds_per_training_step": "seconds a training step",
    "training_cost": "training cost of a step",
    "speedup_by_multiply_adds": "speedup by multiply-adds",
}


WORDS = {"steps": (0, None), "base_steps": (0, 2), "upsampling_steps": (2, 4)}
"""Columns of text, and the range of levels whose steps they show."""

_OTHER_NETWORK_TITLES = {
    "fid": "Fréchet distance (paper: FID)",
    "fid_to_reconstructions": "Fréchet distance to reconstructions",
    "reconstruction_fid": "Fréchet distance of reconstructions",
    "inception_score": "score of the logits (paper: IS)",
    "inception_score_at_best_fid": "score of the logits at the best Fréchet distance",
    "difference": "Δ Fréchet distance (paper: Δ FID)",
    "rfid": "Fréchet distance of reconstructions (paper: rFID)",
}
"""Titles of these columns for feature networks other than Inception."""


def distance_title(network: str) -> str:
    """The title of a Fréchet distance: FID only on Inception's features."""
    return column_title("fid", network).partition(" (")[0]


def column_title(name: str, network: str = INCEPTION) -> str:
    """The title of a score's column, on the features of a network."""
    title = _TITLES.get(name, name.replace("_", " "))
    return title if network == INCEPTION else _OTHER_NETWORK_TITLES.get(name, title)


def means(table: Table, results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Mean]]:
    """Mean scores by row and score, with the table's ratios and differences."""
    row_means: dict[str, dict[str, Mean]] = {}
    for row in table.rows:
        scores = [result["scores"] for result in results if result["row"] == row.name]
        if scores:
            names = [name for name in scores[0] if _is_score(name, scores[0][name])]
            row_means[row.name] = {name: mean for name in names if (mean := _mean(name, scores)) is not None}
    for ratio in table.ratios:
        base = row_means.get(ratio.base, {}).get(ratio.figure)
        for scores in row_means.values():
            mean = scores.get(ratio.figure)
            if base is not None and mean is not None:
                value = base.value / mean.value if ratio.speed else mean.value / base.value
                scores[ratio.name] = Mean(value, None)
    for difference in table.differences:
        for name, base_name in difference.bases.items():
            mean, base = (row_means.get(row, {}).get(difference.figure) for row in (name, base_name))
            if mean is not None and base is not None:
                known = mean.error is not None and base.error is not None
                error = math.hypot(mean.error or 0.0, base.error or 0.0) if known else None
                row_means[name][difference.name] = Mean(mean.value - base.value, error)
    return row_means


def _is_score(name: str, value: Any) -> bool:
    return not name.endswith(("_error", "_std")) and not isinstance(value, Mapping)


def _mean(name: str, scores: Sequence[Mapping[str, Any]]) -> Mean | None:
    values = [score[name] for score in scores if score.get(name) is not None]
    if not values:
        return None
    mean, squares = sum(values) / len(values), []
    sampling = [_sampling_error(name, score) for score in scores]
    if all(error is not None for error in sampling):
        squares.append(sum(error**2 for error in sampling if error is not None) / len(values) ** 2)
    if len(values) > 1:
        squares.append(statistics.variance(values, mean) / len(values))
    return Mean(mean, math.sqrt(sum(squares)) if squares else None)


def _sampling_error(name: str, score: Mapping[str, Any]) -> float | None:
    if name in ("inception_score", "inception_score_at_best_fid"):
        spread = score.get(f"{name}_std")
        return None if spread is None else spread / math.sqrt(10)  # a deviation over ten splits of the samples
    if name in ("precision", "recall") and score.get(name) is not None:
        return math.sqrt(max(score[name] * (1 - score[name]), 0.0) / score["samples"])
    return score.get(f"{name}_error")


def verdicts(table: Table, row_means: Mapping[str, Mapping[str, Mean]], network: str = INCEPTION) -> list[str]:
    """One line for each score that orders the paper's rows and for each further claim: whether it holds here."""
    lines = []
    for score in ORDERING:
        rows = [row for row in table.rows if score in row.paper and score in row_means.get(row.name, {})]
        if len(rows) > 1:
            title = column_title(score, network).partition(" (")[0]
            lines.append(f"{title}: {_order(rows, score, score, row_means)}")
            if score == "fid":
                title = column_title("fid_to_reconstructions", network)
                lines.append(f"{title}: {_order(rows, score, 'fid_to_reconstructions', row_means)}")
    for claim in table.claims:
        try:
            lines.append(f"{claim.text}: {_holds(claim.difference(row_means))}")
        except KeyError:
            continue
    return lines


def _holds(difference: Mean) -> str:
    verdict = "holds" if difference.value > 0 else "does not hold"
    if difference.error is None:
        return f"{verdict} (error unknown)"
    if abs(difference.value) <= _SIGNIFICANT * difference.error:
        return "lies within the error"
    return verdict


def _order(rows: Sequence[Row], score: str, ours: str, row_means: Mapping[str, Mapping[str, Mean]]) -> str:
    holding, within, unknown, reversed_ = 0, 0, 0, []
    for first, second in itertools.combinations(rows, 2):
        papers = first.paper[score] - second.paper[score]
        if papers == 0:
            continue
        a, b = row_means[first.name][ours], row_means[second.name][ours]
        difference = a.value - b.value
        if a.error is None or b.error is None:
            unknown += 1
        elif abs(difference) <= _SIGNIFICANT * math.hypot(a.error, b.error) or difference == 0:
            within += 1
        elif difference * papers > 0:
            holding += 1
        else:
            reversed_.append(f"{first.name} against {second.name}")
    pairs = holding + within + unknown + len(reversed_)
    if holding == pairs:
        return f"the paper's order holds for all {pairs} pairs of rows"
    parts = [f"holds for {holding} of {pairs} pairs of rows", f"lies within the error for {within}"]
    parts.append(f"is reversed for {len(reversed_)}" + (f" ({'; '.join(reversed_)})" if reversed_ else ""))
    if unknown:
        parts.append(f"is undecided for {unknown} (error unknown)")
    return "the paper's order " + ", ".join(parts)


def markdown(
    table: Table,
    results: Sequence[Mapping[str, Any]],
    floor: Mapping[str, Any] | None,
    about: Sequence[str],
    network: str = INCEPTION,
) -> str:
    """The table with the paper's figures beside ours, followed by the verdicts and how it was measured.

    Args:
        table: to report.
        results: of its rows and seeds.
        floor: scores of real photographs.
        about: lines on how it was measured.
        network: name of the feature network.
    """
    row_means = means(table, results)
    columns = [*table.columns, *(ratio.name for ratio in table.ratios)]
    if "fid" in columns:
        new = [difference.name for difference in table.differences]
        columns[columns.index("fid") + 1 : columns.index("fid") + 1] = [*new, "fid_to_reconstructions"]
    if "inception_score" in columns:
        columns.insert(columns.index("inception_score") + 1, "inception_score_at_best_fid")
    # Not in the paper: the shares that the network recognises, if it knows the classes.
    columns += ["recognised", "recognised_top_alone", "reconstructions_recognised"]
    columns = [
        name
        for name in columns
        if name in WORDS or any(name in row.paper or name in row_means.get(row.name, {}) for row in table.rows)
    ]
    head = ["", *(column_title(name, network) for name in columns)]
    searched = any("samples" in result.get("provenance", ()) for result in results)
    lines = [f"# {table.heading}", ""]
    lines += [markdown_row([*head, *(["decoded with"] if searched else [])])]
    lines += ["|" + "---|" * (len(head) + searched)]
    for row in table.rows:
        cells = [
            _words(row, name, results)
            if name in WORDS
            else _cell(row.paper.get(name), row_means.get(row.name, {}).get(name), row.spread.get(name))
            for name in columns
        ]
        settings = dict.fromkeys(_decoding(result) for result in results if result["row"] == row.name)
        lines.append(markdown_row([row.name, *cells, *(["; ".join(settings)] if searched else [])]))
    if floor is not None:
        cells = [
            _cell(None, None if floor.get(name) is None else _mean(name, [floor])) if name in floor else ""
            for name in columns
        ]
        lines.append(markdown_row(["real photographs (floor)", *cells, *([""] if searched else [])]))
    lines += ["", "Ours ± standard error (the paper's in brackets).", ""]
    if network != INCEPTION:
        lines[-2] += (
            f" Ours use the features of {network}, the paper's those of Inception: orders can be compared, values "
            "cannot."
        )
    notes = [*table.notes, *_fewer_steps(table, results)]
    lines += [f"- {line}" for line in [*notes, *verdicts(table, row_means, network), *about]]
    return "\n".join(lines) + "\n"


def markdown_row(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return "| " + " | ".join(cells) + " |"


def _cell(papers: float | None, ours: Mean | None, spread: float | None = None) -> str:
    shown = [] if ours is None else [_number(ours.value) + (f" ± {_number(ours.error)}" if ours.error else "")]
    if papers is not None:
        shown.append(f"({_number(papers)})" if spread is None else f"({_number(papers)} ± {_number(spread)})")
    return " ".join(shown)


def _words(row: Row, name: str, results: Sequence[Mapping[str, Any]]) -> str:
    """A cell of steps: ours and the paper's."""
    first, last = WORDS[name]
    allocations = dict.fromkeys(_steps(result)[first:last] for result in results if result["row"] == row.name)
    texts = ["; ".join("+".join(map(str, steps)) for steps in allocations if steps)]
    if name in row.quoted:
        texts.append(f"({row.quoted[name]})")
    return " ".join(filter(None, texts))


def _fewer_steps(table: Table, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Why rows were decoded with fewer steps than the paper's, which many are named after (``steps_here``)."""
    for row in table.rows:
        if row.steps is None or row.steps_open:
            continue
        for steps in {_steps(result) for result in results if result["row"] == row.name} - {(), row.steps}:
            papers, ours = ("+".join(map(str, numbers)) for numbers in (row.steps, steps))
            return [
                "steps: the paper's are for grids of 16x16 and 32x32 tokens; the top here has fewer tokens than the "
                f"paper takes steps, so all steps shrink in proportion: {papers} is decoded as {ours}"
            ]
    return []


def _steps(result: Mapping[str, Any]) -> tuple[int, ...]:
    samples = result.get("provenance", {}).get("samples")
    return () if samples is None else tuple(samples["decoding"]["steps"])


def _number(value: float) -> str:
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6)):
        if abs(value) >= size:
            return f"{value / size:.1f}{unit}"
    return figure(value, 0 if abs(value) >= 1000 else 1 if abs(value) >= 100 else 2 if abs(value) >= 1 else 3)


def _decoding(result: Mapping[str, Any]) -> str:
    samples = result.get("provenance", {}).get("samples")
    return "" if samples is None else decoding_in_words(samples["decoding"])
