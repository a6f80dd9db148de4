"""Plots of measured tables and sweeps."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from strait.evaluation.features import INCEPTION
from strait.runtime.messages import library_needed
from strait.tables.figure_1 import Point, Published
from strait.tables.report import column_title, distance_title
from strait.tables.table import Mean, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_OURS, _PAPERS = "#1f77b4", "#b0b0b0"


class PlotError(ValueError):
    """The library for plots is missing."""


def check_plots() -> None:
    """Check early that plots can be drawn.

    Raises:
        PlotError: saying what to install, if the library is missing.
    """
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise PlotError(f"plots need {library_needed(error, 'eval')}") from error


def _figure(panels: int) -> tuple[Figure, Sequence[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * panels, 3.8), layout="constrained")
    return figure, [figure.add_subplot(1, panels, place + 1) for place in range(panels)]


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def table_plot(
    table: Table,
    row_means: Mapping[str, Mapping[str, Mean]],
    scores: Sequence[tuple[str, str]],
    network: str = INCEPTION,
) -> bytes | None:
    """A panel for each score: ours with error bars on the left axis, the paper's on the right; None without scores.

    Args:
        table: with the rows.
        row_means: means by row and score.
        scores: pairs of one of our scores and the paper's to compare with.
        network: name of the feature network.
    """
    shown = [pair for pair in scores if any(pair[0] in row for row in row_means.values())]
    if not shown:
        return None
    figure, axes = _figure(len(shown))
    for axis, (ours, papers) in zip(axes, shown, strict=True):
        rows = [row for row in table.rows if ours in row_means.get(row.name, {})]
        places = range(len(rows))
        values = [row_means[row.name][ours] for row in rows]
        paper_axis = axis.twinx()
        quoted = [(place, row.paper[papers]) for place, row in enumerate(rows) if papers in row.paper]
        paper_axis.plot(*zip(*quoted, strict=True), "s--", color=_PAPERS) if quoted else None
        paper_axis.set_ylabel(f"{column_title(papers)} in the paper", color="#808080")
        axis.errorbar(
            places,
            [mean.value for mean in values],
            yerr=[2 * (mean.error or 0.0) for mean in values],
            fmt="o-",
            color=_OURS,
            capsize=3,
        )
        axis.set_zorder(paper_axis.get_zorder() + 1)
        axis.set_frame_on(False)
        axis.set_xticks(list(places), [row.name for row in rows], rotation=30, ha="right")
        title = column_title(ours, network).partition(" (")[0]
        axis.set_ylabel(f"{title},\nours (two standard errors)", color=_OURS)
    return _png(figure)


def front_plot(points: Sequence[Mapping[str, Any]], front: Sequence[Mapping[str, Any]], title: str) -> bytes:
    """Fréchet distance over seconds an image, with a line through the front.

    Args:
        points: each with ``seconds``, ``fid`` and ``label``.
        front: the Pareto-optimal points.
        title: of the plot.
    """
    figure, (axis,) = _figure(1)
    axis.plot([p["seconds"] for p in points], [p["fid"] for p in points], "o", color=_PAPERS, markersize=4)
    axis.plot([p["seconds"] for p in front], [p["fid"] for p in front], "o-", color=_OURS)
    for point in front:
        _name(axis, (point["seconds"], point["fid"]), point["label"], "black")
    axis.set_xlabel("seconds an image")
    axis.set_ylabel("Fréchet distance")
    axis.set_title(title, fontsize=9)
    return _png(figure)


def figure_1_plot(points: Sequence[Point], published: Sequence[Published], network: str) -> bytes:
    """Fréchet distance against steps and against seconds an image: ours blue, the paper's grey.

    Args:
        points: measured here.
        published: stated by the paper.
        network: by whose features ours were judged. Other features than the paper's have an axis of their own.
    """
    figure, (by_steps, by_seconds) = _figure(2)
    for axis, name, label in (
        (by_steps, "steps", "steps an image"),
        (by_seconds, "seconds", "seconds an image"),
    ):
        papers = axis if network == INCEPTION else axis.twinx()
        stated = [entry for entry in published if getattr(entry, name) is not None]
        papers.plot([getattr(entry, name) for entry in stated], [entry.fid for entry in stated], "s", color=_PAPERS)
        for entry in stated:
            _name(papers, (getattr(entry, name), entry.fid), entry.name, "#808080")
        if papers is not axis:
            papers.set_ylabel("FID in the paper (ImageNet, 256x256)", color="#808080")
        axis.errorbar(
            [getattr(point, name) for point in points],
            [point.fid for point in points],
            yerr=[2 * (point.error or 0.0) for point in points],
            fmt="o",
            color=_OURS,
            capsize=3,
        )
        for point in points:
            _name(axis, (getattr(point, name), point.fid), point.name, _OURS)
        axis.set_xscale("log")
        axis.margins(x=0.2)
        axis.set_ylim(bottom=0)
        papers.set_ylim(bottom=0)
        axis.set_xlabel(label)
        axis.set_ylabel(f"{distance_title(network)}, measured (two standard errors)", color=_OURS)
    by_steps.set_title("grey: published (Table 2 of the paper)", fontsize=9)
    by_seconds.set_title("grey: published (appendix D of the paper)", fontsize=9)
    return _png(figure)


def _name(axis: Any, place: tuple[float, float], text: str, colour: str) -> None:
    axis.annotate(text, place, fontsize=7, color=colour, xytext=(4, 4), textcoords="offset points")
