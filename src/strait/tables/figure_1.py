"""Figure 1: scores of one's own models, as they were measured, beside those that the paper has of others.

strait figure 1 tables/table-7.json sweep/NAME.json --output figure-1.png

The paper's Figure 1 shows methods of its Table 2, none of them with guidance or a classifier. It times StraIT alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strait.runtime.files import read_json
from strait.runtime.messages import aligned, figure
from strait.tables.report import distance_title
from strait.tables.table import find_table

SECONDS = {"StraIT on a V100": 0.39, "StraIT on a TPUv3": 0.18}
"""An image of the paper's own model. Source: appendix D, inference efficiency."""


@dataclass(frozen=True)
class Published:
    """A score that the paper states.

    Attributes:
        name: of the method.
        steps: passes through a network for one image, as the paper counts them; None where only the time is known.
        seconds: an image; None where the paper does not say.
        fid: on ImageNet at 256x256, without guidance.
        source: where in the paper.
    """

    name: str
    steps: int | None
    seconds: float | None
    fid: float
    source: str


@dataclass(frozen=True)
class Point:
    """A score that was measured here.

    Attributes:
        name: of the row, or the settings of a sweep.
        steps: of all levels together: each is a pass through one of the transformers.
        seconds: an image.
        fid: the Fréchet distance to photographs.
        error: its standard error; None where it is not known.
        network: whose features were compared.
    """

    name: str
    steps: int
    seconds: float
    fid: float
    error: float | None
    network: str


def published() -> list[Published]:
    """What the paper says of others and of itself."""
    table = find_table(2)
    stated = [
        Published(row.name, int(re.findall(r"\d+", row.quoted["steps"])[0]), None, row.paper["fid"], "Table 2")
        for row in table.rows
    ]
    strait_fid = table.rows[-1].paper["fid"]
    timed = [Published(name, None, seconds, strait_fid, "Table 2 and appendix D") for name, seconds in SECONDS.items()]
    return stated + timed


def measured(path: Path) -> list[Point]:
    """The points of a file that ``strait table``, ``evaluate generation`` or ``sweep`` has written.

    Raises:
        ValueError: naming the file, if it is none of these or has no score of generated images.
    """
    content = read_json(path, None)
    if content is None:
        raise ValueError(f"results: there is no file {path}")
    points = [_point(name, entry) for name, entry in _entries(path, content)]
    kept = [point for point in points if point is not None]
    if not kept:
        raise ValueError(
            f"results: {path} holds no score of generated images; give what strait table, sweep or evaluate "
            "generation --json has written"
        )
    return kept


def one_network(points: Sequence[Point]) -> str:
    """The network by whose features all points were judged.

    Raises:
        ValueError: if there are several.
    """
    names = sorted({point.network for point in points})
    if len(names) > 1:
        raise ValueError(f"results: judged by the features of {' and '.join(names)}, which cannot be compared")
    return names[0]


def figure_1_table(points: Sequence[Point], network: str) -> str:
    """The same for people: the measured points, then the published ones with their sources."""
    head = ("", "steps", "seconds an image", distance_title(network), "source")
    lines: list[tuple[str, ...]] = [head]
    for point in points:
        distance = figure(point.fid, 2) + ("" if point.error is None else f" ± {figure(point.error, 2)}")
        lines.append((point.name, str(point.steps), figure(point.seconds, 4), distance, "measured"))
    for entry in published():
        steps = "-" if entry.steps is None else str(entry.steps)
        lines.append((entry.name, steps, figure(entry.seconds, 2), figure(entry.fid, 2), f"paper, {entry.source}"))
    return aligned(lines, right=(1, 2, 3))


def _entries(path: Path, content: Any) -> list[tuple[str, Mapping[str, Any]]]:
    """What stands in a file, each with scores and what they depend on, by name."""
    if not isinstance(content, dict):
        return []
    if isinstance(content.get("front"), list):  # of a sweep
        about = content.get("front_provenance", {})
        return [
            (
                "+".join(map(str, trial["decoding"]["steps"])),
                {"scores": trial["scores"], "provenance": {**about, "samples": {"decoding": trial["decoding"]}}},
            )
            for trial in content["front"]
        ]
    if isinstance(content.get("rows"), list):  # of a table
        several = len({row.get("seed") for row in content["rows"]}) > 1
        return [
            (f"{row['row']}, seed {row['seed']}" if several else row["row"], row)
            for row in content["rows"]
            if "row" in row
        ]
    return [(content.get("row", path.stem), {"scores": content.get("scores", content), **_about(content)})]


def _about(content: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"provenance": content.get("provenance", {})}


def _point(name: str, entry: Mapping[str, Any]) -> Point | None:
    scores, about = entry.get("scores") or {}, entry.get("provenance") or {}
    decoding = (about.get("samples") or {}).get("decoding")
    if decoding is None or not {"fid", "seconds_per_image"} <= scores.keys():
        return None
    steps, network = sum(decoding["steps"]), about["features"]["network"]
    return Point(name, steps, scores["seconds_per_image"], scores["fid"], scores.get("fid_error"), network)
