"""The declaration of a table of the paper: its rows, columns and claims, and the paper's figures.

Each table is declared in a file of its own, ``table_N.py``.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from strait.config import Config
from strait.decoding.config import DecodingConfig
from strait.tables.methods import as_named

NUMBERS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
"""The paper's tables of results; 11 and 12 are settings (``configs/imagenet256.yaml``)."""

EQUAL_COST = "equal-cost"
"""A table that is not in the paper: the methods of its Tables 2, 5 and 6 side by side."""

ORDERING = ("fid", "inception_score", "precision", "recall", "rfid", "psnr")
"""Scores whose order of rows is compared with the paper's."""

_PAPERS_STEPS = 24

PAPERS_SAMPLES = 50_000
"""The paper's number of samples for each row; ours is 10,000 by default."""

Scores = Mapping[str, float]

Needs = Literal["vqgan2-r", "two levels", "upsampler"]
"""The requirement on the configuration that rows start from: StraIT's tokenizer, any tokenizer of two levels, or
StraIT's tokenizer and an upsampler."""


def unchanged(config: Config) -> Config:
    """No change: the row uses the configuration itself."""
    return config


@dataclass(frozen=True)
class Row:
    """A row of a table.

    Args:
        name: of the row.
        paper: the paper's figures, by the names of our scores.
        configuration: the row's packaged configuration at the paper's size; at another size it is scaled like the
            configuration that the table starts from. None uses that one itself.
        change: a further change of the configuration.
        steps: of each level, for the paper's grids (``steps_here``); None searches them.
        steps_open: whether a measurement may search the steps instead: the paper uses them only by default.
        decoding: further fixed settings of decoding; temperatures are searched.
        levels: generate and decode only the first levels; None for all.
        ours: False for a method that is only quoted.
        spread: the paper's ± of a figure.
        quoted: the paper's entries in columns of text, such as ``steps``.
        departs: why the row's size differs from the paper's, if it does.
    """

    name: str
    paper: Scores = field(default_factory=dict)
    configuration: str | None = None
    change: Callable[[Config], Config] = unchanged
    steps: tuple[int, ...] | None = None
    steps_open: bool = False
    decoding: Mapping[str, Any] = field(default_factory=dict)
    levels: int | None = None
    ours: bool = True
    spread: Scores = field(default_factory=dict)
    quoted: Mapping[str, str] = field(default_factory=dict)
    departs: str = ""

    def config(self, base: Config) -> Config:
        """The row's configuration, for a table that starts from ``base``."""
        return self.change(base if self.configuration is None else as_named(base, self.configuration))


@dataclass(frozen=True)
class Ratio:
    """A column with the ratio of a figure to that of another row.

    Args:
        name: of the column.
        figure: the score.
        base: the row with ratio 1.
        speed: use the inverse ratio, so that smaller figures give larger ratios.
    """

    name: str
    figure: str
    base: str
    speed: bool = False


@dataclass(frozen=True)
class Difference:
    """A column with the difference of a figure from that of another row.

    Args:
        name: of the column.
        figure: the score.
        bases: row -> the row to subtract.
    """

    name: str
    figure: str
    bases: Mapping[str, str]


@dataclass(frozen=True)
class Mean:
    """The mean of a score over seeds.

    Attributes:
        value: the mean.
        error: standard error of sampling and, with several seeds, of the seeds; None if neither is known.
    """

    value: float
    error: float | None


@dataclass(frozen=True)
class Claim:
    """A claim of the paper about a table, other than the order of rows.

    Args:
        text: the claim.
        difference: mean scores by row -> a number that is positive if the claim holds, and its error.
    """

    text: str
    difference: Callable[[Mapping[str, Mapping[str, Mean]]], Mean]


@dataclass(frozen=True)
class Table:
    """A table.

    Args:
        number: in the paper; None for ``EQUAL_COST``.
        title: of the table.
        rows: in the paper's order.
        columns: scores to show, in order; ``steps``, ``base_steps`` and ``upsampling_steps`` are text.
        tokenizer_alone: train only tokenizers and score their reconstructions.
        needs: requirement on the configuration that the rows start from.
        ratios: further columns.
        differences: further columns.
        claims: of the paper, to be checked.
        notes: lines below the table.
    """

    number: int | None
    title: str
    rows: tuple[Row, ...]
    columns: tuple[str, ...] = ("fid", "inception_score", "precision", "recall")
    tokenizer_alone: bool = False
    needs: Needs = "vqgan2-r"
    ratios: tuple[Ratio, ...] = ()
    differences: tuple[Difference, ...] = ()
    claims: tuple[Claim, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def slug(self) -> str:
        """The name of its files."""
        return EQUAL_COST if self.number is None else f"table-{self.number}"

    @property
    def heading(self) -> str:
        """The heading of its report."""
        return self.title.capitalize() if self.number is None else f"Table {self.number}: {self.title}"

    @property
    def trains(self) -> bool:
        """Whether rows need different models; otherwise one model is used for all."""
        return any(row.configuration is not None or row.change is not unchanged for row in self.rows)


def find_table(name: int | str) -> Table:
    """A table by its number in the paper, or ``EQUAL_COST``.

    Raises:
        ValueError: if there is no such table.
    """
    modules = {str(number): f"table_{number}" for number in NUMBERS} | {EQUAL_COST: "equal_cost"}
    if str(name) not in modules:
        raise ValueError(f"table: {name} is not one of {', '.join(modules)}")
    return importlib.import_module(f"strait.tables.{modules[str(name)]}").TABLE


def steps_here(steps: tuple[int, ...], grids: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    """The paper's steps, adapted to a model's grids.

    The paper's 24 steps fill 16x16 and 32x32 tokens. If the top has fewer than 24 tokens, the steps are reduced in
    proportion; and no level has more steps than tokens.
    """
    share = min(1.0, grids[0][0] * grids[0][1] / _PAPERS_STEPS)
    return tuple(
        max(1, min(round(count * share), height * width)) for count, (height, width) in zip(steps, grids, strict=False)
    )


def starting_point(
    start: DecodingConfig, grids: tuple[tuple[int, int], ...], row: Row, search_steps: bool = False
) -> tuple[DecodingConfig, set[str]]:
    """The settings that a row's search starts from, and the names of those that it may not change.

    Args:
        start: settings that the row does not set.
        grids: of the levels.
        row: to measure.
        search_steps: whether to search the steps of rows with ``steps_open``.
    """
    if row.levels is not None:
        start = start.first(row.levels)
    # The paper's protocol, whatever else a model does by default.
    papers = {"guidance_ramp": "constant", "guidance_start": 0.0, "quality": 1.0}
    papers |= {"revise": DecodingConfig.revise, "revise_share": 0.0, "revise_passes": 0}
    start = dataclasses.replace(start, **{**papers, **row.decoding})
    fixed = set(row.decoding)
    if row.steps is not None and not (row.steps_open and search_steps):
        steps = steps_here(row.steps, grids)
        # Rows with two levels stop before the upsampler, if the model has one.
        start = dataclasses.replace(start.first(len(steps)), steps=steps)
        fixed.add("steps")
    return start, fixed
