"""What a table of the paper is here: rows alike but for one thing, with the paper's figures beside ours.

Each table is declared in one file of ``tables/``; this file says what such a declaration consists of.
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
"""A table that is not the paper's: the methods of its Tables 2, 5 and 6 side by side."""

ORDERING = ("fid", "inception_score", "precision", "recall", "rfid", "psnr")
"""Scores by whose order the paper's rows and ours are compared."""

_PAPERS_STEPS = 24

PAPERS_SAMPLES = 50_000
"""The images that the paper judges a row by; ours are 10,000 unless told otherwise."""

Scores = Mapping[str, float]

Needs = Literal["vqgan2-r", "two levels", "upsampler"]
"""What a table asks of the configuration that its rows start from: StraIT's own tokenizer, whatever tokenizer of two
levels, or StraIT's with an upsampler."""


def unchanged(config: Config) -> Config:
    """The row whose settings are the configuration's own."""
    return config


@dataclass(frozen=True)
class Row:
    """One row.

    Args:
        name: what it is called.
        paper: the paper's figures, by the names of our scores.
        configuration: the packaged configuration that the row is at the paper's size; at another size the row is that
            configuration at the scale of the one it starts from. None for the one it starts from itself.
        change: what the row's configuration differs in besides.
        steps: of each level, in the paper's terms (``steps_here``); None searches them.
        steps_open: the steps are only the paper's usual ones: a measurement may be told to search them instead.
        decoding: further settings of decoding that the row holds fixed; temperatures are searched.
        levels: generate only so many levels, and decode those alone; None for all.
        ours: False for a method that is only quoted.
        spread: the paper's plus-minus of a figure.
        quoted: what the paper prints in columns of words, such as ``steps``.
        departs: why the row's size is not the paper's, where it is not.
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
    """A column that is the ratio of a measured figure to that of another row.

    Args:
        name: of the column.
        figure: whose ratio.
        base: the row that is 1.
        speed: how many times less, instead of how many times more.
    """

    name: str
    figure: str
    base: str
    speed: bool = False


@dataclass(frozen=True)
class Difference:
    """A column that is a measured figure less that of another row.

    Args:
        name: of the column.
        figure: whose difference.
        bases: row -> the row that it is compared with.
    """

    name: str
    figure: str
    bases: Mapping[str, str]


@dataclass(frozen=True)
class Mean:
    """A score over seeds.

    Attributes:
        value: the mean.
        error: its standard error: that of sampling, and of the seeds where there are several; None where neither
            is known.
    """

    value: float
    error: float | None


@dataclass(frozen=True)
class Claim:
    """Something the paper says of a table that is not an order of its rows.

    Args:
        text: the claim.
        difference: rows' mean scores, by row -> a number that is above 0 if the claim holds, and its error.
    """

    text: str
    difference: Callable[[Mapping[str, Mapping[str, Mean]]], Mean]


@dataclass(frozen=True)
class Table:
    """One table of the paper.

    Args:
        number: the paper's; None for the one of our own, ``EQUAL_COST``.
        title: what is compared.
        rows: in the paper's order.
        columns: scores shown, in order; ``steps``, ``base_steps`` and ``upsampling_steps`` are words.
        tokenizer_alone: judge reconstructions, and train nothing else.
        needs: what the configuration must have that the rows start from.
        ratios: further columns.
        differences: further columns.
        claims: what else is to be held against the paper.
        notes: lines below the table that explain it.
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
        """What its files are called."""
        return EQUAL_COST if self.number is None else f"table-{self.number}"

    @property
    def heading(self) -> str:
        """What stands above it."""
        return self.title.capitalize() if self.number is None else f"Table {self.number}: {self.title}"

    @property
    def trains(self) -> bool:
        """Whether rows need models of their own; otherwise one model serves them all."""
        return any(row.configuration is not None or row.change is not unchanged for row in self.rows)


def find_table(name: int | str) -> Table:
    """A table by its number in the paper, or ``EQUAL_COST``.

    Raises:
        ValueError: if it is none of those.
    """
    modules = {str(number): f"table_{number}" for number in NUMBERS} | {EQUAL_COST: "equal_cost"}
    if str(name) not in modules:
        raise ValueError(f"table: {name} is not one of {', '.join(modules)}")
    return importlib.import_module(f"strait.tables.{modules[str(name)]}").TABLE


def steps_here(steps: tuple[int, ...], grids: tuple[tuple[int, int], ...]) -> tuple[int, ...]:
    """The paper's steps for the grids at hand.

    The paper's 24 steps fill 16x16 and 32x32 tokens. Where the top has fewer than 24, they shrink in proportion, since
    a step without a token to fill is none; and no level takes more steps than it has tokens.
    """
    share = min(1.0, grids[0][0] * grids[0][1] / _PAPERS_STEPS)
    return tuple(
        max(1, min(round(count * share), height * width)) for count, (height, width) in zip(steps, grids, strict=False)
    )


def starting_point(
    start: DecodingConfig, grids: tuple[tuple[int, int], ...], row: Row, search_steps: bool = False
) -> tuple[DecodingConfig, set[str]]:
    """The settings that a row's search begins with, and the names of those that the row holds fixed.

    Args:
        start: where the row says nothing.
        grids: of the levels.
        row: which.
        search_steps: whether steps that the row need not hold (``steps_open``) are left to the search.
    """
    if row.levels is not None:
        start = start.first(row.levels)
    start = dataclasses.replace(start, guidance_ramp="constant", **row.decoding)
    fixed = set(row.decoding)
    if row.steps is not None and not (row.steps_open and search_steps):
        steps = steps_here(row.steps, grids)
        # The rows of two levels stop before an upsampler, where a model has one.
        start = dataclasses.replace(start.first(len(steps)), steps=steps)
        fixed.add("steps")
    return start, fixed
