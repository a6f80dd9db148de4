"""The speed column of Table 7 only, on random weights: the time of an image does not depend on the weights."""

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
    """Time generation on random weights with each row's steps, alternating between rows; medians are reported.

    Args:
        table: with rows that differ in their steps.
        config: of the model.
        machine: device and dtype.
        batch: images at once.

    Returns:
        ``rows``, each with ``name``, ``steps``, ``seconds_per_image``, ``speedup`` (relative to the row that is 1 in
        the paper), ``speedup_by_multiply_adds``, ``multiply_adds_per_image`` and the ``paper``'s speedup; and a
        description of the machine.
    """
    model = model_to_time(config.model, config.decoding, machine)
    model.pack()
    bench = Bench(model, machine, batch, repeats=1, warm_up=0)
    allocations: dict[str, DecodingConfig] = {
        row.name: starting_point(config.decoding, config.model.grids, row)[0] for row in table.rows
    }
    bench.generate(next(iter(allocations.values())))  # warm-up
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in allocations}
    for _ in range(_ROUNDS):
        for name, decoding in allocations.items():
            measured[name].append(bench.generate(decoding))
    (base,) = [row.name for row in table.rows if row.paper["speedup"] == 1]
    seconds = {
        name: statistics.median(report["seconds"] for report in reports) / batch for name, reports in measured.items()
    }
    adds = {name: reports[0]["flops"] / 2 / batch for name, reports in measured.items()}
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
    """The rows as a text table."""
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
