"""What a table of the paper is here: rows alike but for one thing, with the paper's figures beside ours.

Each table is declared in one file of ``tables/``; this file says what such a declaration consists of.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from strait.config import Config

NUMBERS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
"""The paper's tables of results; 11 and 12 are settings (``configs/imagenet256.yaml``)."""

EQUAL_COST = "equal-cost"
"""A table that is not the paper's: the methods of its Tables 2, 5 and 6 side by side."""

ORDERING = ("fid", "inception_score", "precision", "recall", "rfid", "psnr")
"""Scores by whose order the paper's rows and ours are compared."""

_PAPERS_STEPS = 24

Scores = Mapping[str, float]


def unchanged(config: Config) -> Config:
    """The row whose settings are the configuration's own."""
    return config


@dataclass(frozen=True)
class Row:
    """One row.

    Args:
        name: what it is called.
        paper: the paper's figures, by the names of our scores.
        change: what the row's configuration differs in.
        steps: of each level, in the paper's terms (``steps_here``); None searches them.
        decoding: further settings of decoding that the row holds fixed; temperatures are searched.
        levels: generate only so many levels, and decode those alone; None for all.
        ours: False for a method that is only quoted.
    """

    name: str
    paper: Scores = field(default_factory=dict)
    change: Callable[[Config], Config] = unchanged
    steps: tuple[int, ...] | None = None
    decoding: Mapping[str, Any] = field(default_factory=dict)
    levels: int | None = None
    ours: bool = True


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
        columns: scores shown, in order.
        tokenizer_alone: judge reconstructions, and train nothing else.
        ratios: further columns.
        claims: what else is to be held against the paper.
    """

    number: int | None
    title: str
    rows: tuple[Row, ...]
    columns: tuple[str, ...] = ("fid", "inception_score", "precision", "recall")
    tokenizer_alone: bool = False
    ratios: tuple[Ratio, ...] = ()
    claims: tuple[Claim, ...] = ()

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
        return any(row.change is not unchanged for row in self.rows)


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


def single_scale(config: Config, fine: bool = False) -> Config:
    """MaskGIT on one VQGAN: the configuration without its bottom, at the top's downsampling or at the bottom's."""
    multipliers = config.tokenizer.multipliers
    tokenizer = dataclasses.replace(
        config.tokenizer,
        kind="vqgan",
        bottom_codebook_size=None,
        multipliers=multipliers[:-1] if fine else multipliers,
    )
    # There is no bottom that could be dropped.
    training = dataclasses.replace(config.tokenizer_training, bottom_dropout=0.0)
    return dataclasses.replace(
        config,
        tokenizer=tokenizer,
        bottom=None,
        upsampler=None,
        decoding=config.decoding.first(1),
        tokenizer_training=training,
    )


def at_base_size(config: Config) -> Config:
    """The configuration without its upsampler: a comparison with models that have none is one of the base size."""
    levels = config.tokenizer.num_levels
    return dataclasses.replace(config, upsampler=None, decoding=config.decoding.first(levels))


def with_tokenizer(config: Config, **changes: Any) -> Config:
    """The configuration with other settings of its tokenizer."""
    return dataclasses.replace(config, tokenizer=dataclasses.replace(config.tokenizer, **changes))
