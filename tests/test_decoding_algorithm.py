"""Section 3.3, lines 1 to 8, against a naive algorithm: an image, a token at a time, on networks of plain Python.

Their logits are sines of what is known, so the naive algorithm shares neither network nor guidance nor the loops over
steps and levels with the package; the noise is the same, by formula.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from strait.decoding.config import SCHEDULES, DecodingConfig
from strait.decoding.guidance import Guided
from strait.decoding.iterative import decode_level
from strait.decoding.stratified import final_tokens, stratified_decode
from strait.randomness import image_seeds
from strait.types import NULL_LABEL, Bind, Canvas, Condition, Grid, Level, LogitsFn, Sampling
from test_decoding import KEEPS, NaiveStep, naive_decode_step
from test_masking import TABLE_10, naive_num_masked

EVERY = settings(max_examples=30)
TOP_CODES, BOTTOM_CODES = 4, 5
TOP_GRIDS: tuple[Grid, ...] = ((1, 1), (1, 2), (2, 2))

Scores = Callable[[list[int | None], int, list[int]], list[list[float]]]
"""What is known of one image's tokens, its label, the coarser tokens -> logits ``[length][codes]``."""


def sines(codes: int, salt: float) -> Scores:
    """Every known token, the label and every coarser token have their part in every logit."""

    def scores(seen: list[int | None], label: int, context: list[int]) -> list[list[float]]:
        total = sum((place + 1) * (token + 1) for place, token in enumerate(seen) if token is not None)
        phase = salt + 0.71 * total + 1.9 * label + sum(0.43 * (place + 1) * t for place, t in enumerate(context))
        return [
            [2 * math.sin(phase + 1.3 * place + 2.1 * code) for code in range(codes)] for place in range(len(seen))
        ]

    return scores


TOP, BOTTOM = sines(TOP_CODES, 0.2), sines(BOTTOM_CODES, 1.1)


def as_network(scores: Scores) -> Bind:
    """The same as what decoding runs on: a binding to batches of labels and coarser grids."""

    def bind(condition: Condition) -> LogitsFn:
        def logits(canvas: Canvas, positions: Tensor | None = None) -> Tensor:
            rows = []
            for row, label in enumerate(condition.labels.tolist()):
                pairs = zip(canvas.tokens[row].tolist(), canvas.masked[row].tolist(), strict=True)
                context = [token for grid in condition.context for token in grid[row].flatten().tolist()]
                rows.append(scores([None if hidden else token for token, hidden in pairs], label, context))
            every = torch.tensor(rows)
            return every if positions is None else every[torch.arange(len(rows))[:, None], positions]

        return logits

    return bind


@dataclasses.dataclass
class Row:
    """How one image is decoded on one level."""

    num_steps: int
    temperature: float
    guidance: float
    seed: int
    label: int


def naive_level(
    scores: Scores,
    tokens: list[int],
    masked: list[bool],
    context: list[int],
    row: Row,
    config: DecodingConfig,
    level: int,
    grid: Grid,
) -> list[NaiveStep]:
    """One image on one level, step after step; never more steps than it has unknown tokens."""
    steps, start = [], sum(masked)
    num_steps = min(row.num_steps, max(1, start))
    for index in range(num_steps):
        seen = [None if hidden else token for token, hidden in zip(tokens, masked, strict=True)]
        logits = scores(seen, row.label, context)
        if config.guidance:
            scale = row.guidance * ((index + 1) / num_steps if config.guidance_ramp == "linear" else 1)
            null = scores(seen, NULL_LABEL, context)
            logits = [
                [logit + scale * (logit - null_logit) for logit, null_logit in zip(*pair, strict=True)]
                for pair in zip(logits, null, strict=True)
            ]
        steps.append(
            naive_decode_step(
                logits,
                tokens,
                masked,
                index,
                num_steps,
                row.temperature,
                row.seed,
                start,
                level,
                config.schedule,
                config.keep,
                grid,
            )
        )
        tokens, masked = steps[-1].tokens, steps[-1].masked
    return steps


@st.composite
def canvases(draw: st.DrawFn, batch: int, grid: Grid, codes: int) -> Canvas:
    """Each row with any number of masked tokens, none and all included, at any places."""
    length = grid[0] * grid[1]
    tokens, masked = [], []
    for _ in range(batch):
        tokens.append([draw(st.integers(0, codes - 1)) for _ in range(length)])
        hidden = draw(st.permutations(range(length)))[: draw(st.integers(0, length))]
        masked.append([place in hidden for place in range(length)])
    return Canvas(torch.tensor(tokens), torch.tensor(masked), grid)


@EVERY
@given(data=st.data())
def test_the_whole_algorithm_equals_naive(data: st.DataObject):
    """Both levels from partly known canvases, rows under settings of their own, more steps than tokens among them."""
    top_grid = data.draw(st.sampled_from(TOP_GRIDS))
    grids = (top_grid, (2 * top_grid[0], 2 * top_grid[1]))
    batch = data.draw(st.integers(1, 3))
    shared = DecodingConfig(
        guidance_ramp=data.draw(st.sampled_from(["constant", "linear"])),
        schedule=data.draw(st.sampled_from(SCHEDULES)),
        keep=data.draw(st.sampled_from(KEEPS)),
    )
    configs = [
        dataclasses.replace(
            shared,
            steps=(data.draw(st.integers(1, 7)), data.draw(st.integers(1, 9))),
            temperature=(data.draw(st.floats(0, 9)), data.draw(st.floats(0, 9))),
            guidance=data.draw(st.sampled_from([0.0, 0.2, 1.5])),
        )
        for _ in range(batch)
    ]
    labels = [data.draw(st.integers(NULL_LABEL, 3)) for _ in range(batch)]
    seeds = image_seeds(data.draw(st.integers(0, 2**40)), torch.arange(batch))
    networks, codes = (TOP, BOTTOM), (TOP_CODES, BOTTOM_CODES)
    levels = [
        Level(name, grid, count, as_network(scores))
        for name, grid, count, scores in zip(("top", "bottom"), grids, codes, networks, strict=True)
    ]
    first = [data.draw(canvases(batch, grid, count)) for grid, count in zip(grids, codes, strict=True)]
    steps = list(stratified_decode(levels, torch.tensor(labels), seeds, configs, first))
    for index, (label, config) in enumerate(zip(labels, configs, strict=True)):
        context: list[int] = []
        expected: list[NaiveStep] = []
        for level, (scores, canvas) in enumerate(zip(networks, first, strict=True)):
            tokens, masked = canvas.tokens[index].tolist(), canvas.masked[index].tolist()
            row = Row(config.steps[level], config.temperature[level], config.guidance, int(seeds[index]), label)
            of_level = naive_level(scores, tokens, masked, context, row, config, level, canvas.grid)
            context = of_level[-1].tokens
            # Where others of the batch have more to find, a row that has ended stays as it is.
            waiting = sum(step.level == ("top", "bottom")[level] for step in steps) - len(of_level)
            still = NaiveStep(context, [False] * len(context), [0.0] * len(context))
            expected += of_level + [still] * waiting
        for step, naive in zip(steps, expected, strict=True):
            assert step.drawn[index].tolist() == step.canvas.tokens[index].tolist() == naive.tokens
            assert step.canvas.masked[index].tolist() == naive.masked
            assert step.confidence[index].tolist() == pytest.approx(naive.log_p, abs=1e-4)


@EVERY
@given(data=st.data(), schedule=st.sampled_from(TABLE_10))
def test_rows_of_different_settings_equal_naive(data: st.DataObject, schedule: str):
    """Rows with their own number of steps, temperature, guidance, label and seed on one level."""
    grid, batch, level = (2, 3), data.draw(st.integers(1, 4)), data.draw(st.integers(0, 3))
    rows = [
        Row(
            num_steps=data.draw(st.integers(1, 10)),
            temperature=data.draw(st.floats(0, 9)),
            guidance=data.draw(st.floats(-1, 3)),
            seed=data.draw(st.integers(-(2**63), 2**63 - 1)),
            label=data.draw(st.integers(NULL_LABEL, 3)),
        )
        for _ in range(batch)
    ]
    config = DecodingConfig(
        steps=(10,) * 4,
        temperature=(1.0,) * 4,
        guidance=1.0,
        guidance_ramp=data.draw(st.sampled_from(["constant", "linear"])),
        schedule=schedule,
        keep=data.draw(st.sampled_from(KEEPS)),
    )
    first = data.draw(canvases(batch, grid, BOTTOM_CODES))
    sampling = Sampling(
        step=torch.zeros(batch, dtype=torch.int64),
        num_steps=torch.tensor([row.num_steps for row in rows]),
        temperature=torch.tensor([row.temperature for row in rows]),
        guidance=torch.tensor([row.guidance for row in rows]),
        seed=torch.tensor([row.seed for row in rows]),
    )
    condition = Condition(torch.tensor([row.label for row in rows]))
    network = Guided(as_network(BOTTOM), condition, guided=True)
    steps = list(decode_level(network, first, sampling, "level", level, config))
    unknown = first.masked.sum(-1).tolist()
    assert len(steps) == max(min(row.num_steps, max(1, start)) for row, start in zip(rows, unknown, strict=True))
    for index, row in enumerate(rows):
        tokens, masked = first.tokens[index].tolist(), first.masked[index].tolist()
        expected = naive_level(BOTTOM, tokens, masked, [], row, config, level, grid)
        # A row that has taken all its steps stays as it is while others go on.
        for step, naive in zip(steps, expected + expected[-1:] * (len(steps) - len(expected)), strict=True):
            assert step.canvas.tokens[index].tolist() == naive.tokens
            assert step.canvas.masked[index].tolist() == naive.masked


@pytest.mark.parametrize("schedule", TABLE_10)
def test_more_steps_than_unknown_tokens_end_early(schedule: str):
    """Asked for 40 steps, a row takes as many as it has unknown tokens, and no more."""
    length, num_steps = 16, 40
    masked = torch.arange(length)[None] < torch.arange(length + 1)[:, None]
    tokens = torch.arange(length).remainder(BOTTOM_CODES).repeat(length + 1, 1)
    batch = length + 1
    config = DecodingConfig(steps=(num_steps,), temperature=(4.5,), schedule=schedule)
    level = Level("level", (4, 4), BOTTOM_CODES, as_network(BOTTOM))
    labels, seeds = torch.zeros(batch, dtype=torch.int64), image_seeds(0, torch.arange(batch))
    steps = list(stratified_decode([level], labels, seeds, config, [Canvas(tokens, masked, (4, 4))]))
    assert [(step.index, step.num_steps) for step in steps] == [(index, length) for index in range(length)]
    left = list(range(batch))
    for step in steps:
        expected = [
            naive_num_masked(schedule, step.index, max(1, start), start, unknown) if unknown else 0
            for start, unknown in enumerate(left)
        ]
        assert step.canvas.masked.sum(-1).tolist() == expected
        # A convex schedule may have found all but one before its last step; a concave one finds one at each.
        assert all(now < before or before <= 1 for now, before in zip(expected, left, strict=True))
        left = expected
    assert left == [0] * batch
    assert torch.equal(steps[-1].canvas.tokens[~masked], tokens[~masked])
    assert torch.equal(final_tokens(iter(steps)).levels[0].flatten(1), steps[-1].drawn)


def test_a_level_that_is_known_is_one_step_and_asks_no_network():
    def never(condition: Condition) -> LogitsFn:
        def logits(canvas: Canvas, positions: Tensor | None = None) -> Tensor:
            raise AssertionError("there is nothing to predict")

        return logits

    tokens = torch.arange(4).remainder(BOTTOM_CODES).view(1, 2, 2)
    config = DecodingConfig(steps=(7,), temperature=(1.0,))
    level = Level("level", (2, 2), BOTTOM_CODES, never)
    (step,) = stratified_decode([level], torch.tensor([0]), torch.tensor([5]), config, [Canvas.known(tokens)])
    assert torch.equal(step.canvas.as_grid(), tokens)
    assert not step.canvas.masked.any()
    assert step.confidence.tolist() == [[0.0] * 4]
