"""The speed column of Table 7 by itself: how long an image takes does not depend on what the weights are."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from strait.config import Config
from strait.decoding.config import DecodingConfig
from strait.runs.bench import Bench, Machine, model_to_time
from strait.runtime.messages import aligned
from strait.tables.table import Table, starting_point

_ROUNDS = 3


def speed_rows(table: Table, config: Config, machine: Machine, batch: int) -> dict[str, Any]:
    """Generate with each row's steps, on random weights, in turns; medians count.

    Args:
        table: whose rows differ in their steps.
        config: the model.
        machine: where, and in which dtype.
        batch: images at once.

    Returns:
        ``rows``, each with ``name``, ``steps``, ``seconds_per_image``, ``speedup`` (against the row that the paper has
        at 1), ``speedup_by_multiply_adds``, ``multiply_adds_per_image`` and the ``paper``'s speedup; what they were
        measured on.
    """
    model = model_to_time(config.model, config.decoding, machine)
    model.pack()
    bench = Bench(model, machine, batch, repeats=1, warm_up=0)
    allocations: dict[str, DecodingConfig] = {
        row.name: starting_point(config.decoding, config.model.grids, row)[0] for row in table.rows
    }
    bench.generate(next(iter(allocations.values())))  # the first calls set themselves up
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in allocations}
    for _ in range(_ROUNDS):
        for name, decoding in allocations.items():
            measured[name].append(bench.generate(decoding))
    (base,) = [row.name for row in table.rows if row.paper["speedup"] == 1]
    seconds = {name: statistics.median(one["seconds"] for one in all_) / batch for name, all_ in measured.items()}
    adds = {name: all_[0]["flops"] / 2 / batch for name, all_ in measured.items()}
    rows = [
        {
            "name": row.name,
            "steps": measured[row.name][0]["steps"],
            "seconds_per_image": seconds[row.name],
            "multiply_adds_per_image": adds[row.name],
            "speedup": seconds[base] / seconds[row.name],
            "speedup_by_multiply_adds": adds[base] / adds[row.name],
            "paper": {"speedup": row.paper["speedup"]},
        }
        for row in table.rows
    ]
    return {"table": table.number, "rows": rows, "batch": batch, "rounds": _ROUNDS, **machine.describe()}


def speed_table(report: Mapping[str, Any]) -> str:
    """The rows for people."""
    lines = [("steps", "seconds an image", "multiply-adds an image", "speedup", "by multiply-adds", "paper")]
    for row in report["rows"]:
        lines.append(
            (
                "+".join(map(str, row["steps"])),
                f"{row['seconds_per_image']:.4g}",
                f"{row['multiply_adds_per_image'] / 1e9:.1f}G",
                f"{row['speedup']:.2f}",
                f"{row['speedup_by_multiply_adds']:.2f}",
                f"{row['paper']['speedup']:g}",
            )
        )
    where = (
        f"{report['device']}, {report['threads']} threads, {report['dtype']}, batch {report['batch']}, torch "
        f"{report['torch']}; random weights; medians of {report['rounds']} rounds. The paper's: TPUv3"
    )
    return f"{aligned(lines, right=range(1, 6))}\n{where}"
