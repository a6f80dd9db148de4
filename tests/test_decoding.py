"""Iterative decoding against a naive one: one image, one token at a time, in plain Python from the definitions."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from strait.decoding.config import SCHEDULES, DecodingConfig
from strait.decoding.guidance import Guided
from strait.decoding.iterative import decode_level, decode_step
from strait.decoding.sampling import confidence_scores, draw, halton_scores, lowest
from strait.decoding.stratified import final_tokens, level_sampling, stratified_decode
from strait.nn.attention import CrossAttention
from strait.randomness import image_seeds
from strait.transformer.top import TopTransformer
from strait.types import NULL_LABEL, Canvas, Condition, DecodingStep, Grid, Level, LogitsFn, Sampling
from test_masking import naive_num_masked
from test_randomness import naive_gumbel, naive_key, naive_uniform, naive_uniform_id
from test_transformer import CLASSES, CODES, CONTEXT_CODES, SMALL, TOP_GRID, small_bottom, small_top

EVERY = settings(max_examples=60)
GRIDS: tuple[Grid, ...] = ((2, 2), (2, 3), (3, 4), (1, 5), (4, 4))
# Not 5 or 6 steps: of 10 or 12 tokens a linear schedule leaves a whole number then, and that is test_masking's.
NUM_STEPS = (1, 2, 3, 4, 7, 8)
KEEPS = ("confidence", "halton")


@dataclasses.dataclass
class NaiveStep:
    """One image after a step: lists over its positions."""

    tokens: list[int]
    masked: list[bool]
    log_p: list[float]


def naive_halton(grid: Grid) -> list[int]:
    """Positions as the Halton sequence (bases 2 and 3) first falls into them, in exact fractions."""

    def mirrored(index: int, base: int) -> Fraction:
        digits = []
        while index:
            digits.append(index % base)
            index //= base
        return sum((Fraction(digit, base ** (place + 1)) for place, digit in enumerate(digits)), Fraction(0))

    order: list[int] = []
    index = 1
    while len(order) < grid[0] * grid[1]:
        place = int(mirrored(index, 2) * grid[0]) * grid[1] + int(mirrored(index, 3) * grid[1])
        if place not in order:
            order.append(place)
        index += 1
    return order


def naive_decode_step(
    logits: list[list[float]],
    tokens: list[int],
    masked: list[bool],
    step: int,
    num_steps: int,
    temperature: float,
    seed: int,
    start: int,
    level: int,
    schedule: str,
    keep: str,
    grid: Grid,
) -> NaiveStep:
    """MaskGIT's step as the design words it: draw all unknown tokens, mask the least confident of them again."""
    drawn, log_p, scores = list(tokens), [0.0] * len(tokens), {}
    order = naive_halton(grid)
    for place, values in enumerate(logits):
        if not masked[place]:
            continue
        noise = naive_key(seed, level, 1, step, place)
        noisy = [value + naive_gumbel(naive_uniform_id(noise, index)) for index, value in enumerate(values)]
        drawn[place] = noisy.index(max(noisy))
        log_p[place] = values[drawn[place]] - math.log(sum(math.exp(value) for value in values))
        fading = temperature * (1 - (step + 1) / num_steps)
        choice = naive_gumbel(naive_uniform(naive_key(seed, level, 2, step, place)))
        scores[place] = -order.index(place) if keep == "halton" else log_p[place] + fading * choice
    count = naive_num_masked(schedule, step, num_steps, start, len(scores))
    again = sorted(scores, key=lambda place: scores[place])[:count]
    return NaiveStep(drawn, [place in again for place in range(len(tokens))], log_p)


@cache
def network_on(grid: Grid) -> TopTransformer:
    return small_top(grid=grid, codes=CODES)


def bound(grid: Grid, batch: int) -> LogitsFn:
    """A small real network, every row of the batch under the same class."""
    return network_on(grid).bind(Condition(torch.ones(batch, dtype=torch.int64)))


def logits_of_one(tokens: list[int], masked: list[bool], grid: Grid) -> list[list[float]]:
    """[length][codes] of one image, computed alone."""
    return bound(grid, 1)(Canvas(torch.tensor([tokens]), torch.tensor([masked]), grid))[0].tolist()


def settings_of_rows(
    step: list[int], num_steps: list[int], temperature: list[float], seed: int | list[int]
) -> Sampling:
    seeds = image_seeds(seed, torch.arange(len(step))) if isinstance(seed, int) else torch.tensor(seed)
    return Sampling(
        torch.tensor(step), torch.tensor(num_steps), torch.tensor(temperature), torch.zeros(len(step)), seeds
    )


@st.composite
def canvases(draw: st.DrawFn) -> Canvas:
    grid = draw(st.sampled_from(GRIDS))
    batch, length = draw(st.integers(1, 4)), grid[0] * grid[1]
    rows = st.lists(st.integers(0, CODES - 1), min_size=length, max_size=length)
    masks = st.lists(st.booleans(), min_size=length, max_size=length)
    return Canvas(
        torch.tensor([draw(rows) for _ in range(batch)]), torch.tensor([draw(masks) for _ in range(batch)]), grid
    )


# One step


@EVERY
@given(
    canvas=canvases(),
    schedule=st.sampled_from(SCHEDULES),
    keep=st.sampled_from(KEEPS),
    level=st.integers(0, 3),
    seed=st.integers(0, 2**40),
    data=st.data(),
)
def test_step_equals_naive(canvas: Canvas, schedule: str, keep: str, level: int, seed: int, data: st.DataObject):
    batch, length = canvas.tokens.shape
    num_steps = [data.draw(st.sampled_from(NUM_STEPS)) for _ in range(batch)]
    step = [data.draw(st.integers(0, count - 1)) for count in num_steps]
    temperature = [data.draw(st.sampled_from([0.0, 0.5, 4.5])) for _ in range(batch)]
    start = [data.draw(st.integers(unknown, length)) for unknown in canvas.masked.sum(-1).tolist()]
    sampling = settings_of_rows(step, num_steps, temperature, seed)
    after, drawn, log_p = decode_step(
        bound(canvas.grid, batch),
        canvas,
        sampling,
        torch.tensor(start),
        level,
        DecodingConfig(schedule=schedule, keep=keep),
    )
    for row in range(batch):
        tokens, masked = canvas.tokens[row].tolist(), canvas.masked[row].tolist()
        naive = naive_decode_step(
            logits_of_one(tokens, masked, canvas.grid),
            tokens,
            masked,
            step[row],
            num_steps[row],
            temperature[row],
            int(sampling.seed[row]),
            start[row],
            level,
            schedule,
            keep,
            canvas.grid,
        )
        assert drawn[row].tolist() == after.tokens[row].tolist() == naive.tokens
        assert after.masked[row].tolist() == naive.masked
        assert log_p[row].tolist() == pytest.approx(naive.log_p, abs=1e-4)
        # Known tokens never change, and stay known.
        known = ~canvas.masked[row]
        assert torch.equal(after.tokens[row][known], canvas.tokens[row][known])
        assert not (after.masked[row] & known).any()


def test_step_leaves_its_arguments_alone():
    canvas = Canvas(torch.tensor([[1, 2, 3, 0]]), torch.tensor([[True, False, True, True]]), (2, 2))
    before = (canvas.tokens.clone(), canvas.masked.clone())
    sampling = settings_of_rows([0], [3], [4.5], 0)
    decode_step(bound((2, 2), 1), canvas, sampling, torch.tensor([3]), 0, DecodingConfig())
    assert torch.equal(canvas.tokens, before[0])
    assert torch.equal(canvas.masked, before[1])


# A whole level


def every_count_masked(grid: Grid) -> Canvas:
    """Row k has k masked tokens, at random places; 0 to all of them."""
    length = grid[0] * grid[1]
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(CODES, (length + 1, length), generator=generator)
    ranks = torch.rand(length + 1, length, generator=generator).argsort(-1)
    return Canvas(tokens, ranks < torch.arange(length + 1)[:, None], grid)


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_level_equals_naive(schedule: str, keep: str):
    """Infilling with every count of masked tokens, each row with its own number of steps and temperature."""
    grid, level = (3, 4), 1
    first = every_count_masked(grid)
    batch = len(first.tokens)
    num_steps = [NUM_STEPS[1:][row % 5] if row < batch - 1 else 8 for row in range(batch)]
    temperature = [(0.0, 1.0, 4.5)[row % 3] for row in range(batch)]
    sampling = settings_of_rows([0] * batch, num_steps, temperature, 3)
    config = DecodingConfig(steps=(1, 8), schedule=schedule, keep=keep)
    network = Guided(network_on(grid).bind, Condition(torch.ones(batch, dtype=torch.int64)), guided=False)
    steps = list(decode_level(network, first, sampling, "bottom", level, config))
    assert [(step.level, step.index, step.num_steps) for step in steps] == [("bottom", i, 8) for i in range(8)]
    for row in range(batch):
        tokens, masked = first.tokens[row].tolist(), first.masked[row].tolist()
        taken = min(num_steps[row], max(1, row))
        for step in steps:
            if step.index < taken:
                naive = naive_decode_step(
                    logits_of_one(tokens, masked, grid),
                    tokens,
                    masked,
                    step.index,
                    taken,
                    temperature[row],
                    int(sampling.seed[row]),
                    row,
                    level,
                    schedule,
                    keep,
                    grid,
                )
                assert step.confidence[row].tolist() == pytest.approx(naive.log_p, abs=1e-4)
                tokens, masked = naive.tokens, naive.masked
            # A row that has taken all its steps stays as it is.
            assert step.canvas.tokens[row].tolist() == step.drawn[row].tolist() == tokens
            assert step.canvas.masked[row].tolist() == masked
        assert not any(masked)


def levels_of(top_bind: Callable | None = None, bottom_bind: Callable | None = None) -> list[Level]:
    return [
        Level("top", TOP_GRID, CONTEXT_CODES, top_bind or real_top().bind),
        Level("bottom", (4, 6), CODES, bottom_bind or real_bottom().bind),
    ]


real_top, real_bottom = cache(small_top), cache(small_bottom)
LABELS = torch.tensor([0, 2, NULL_LABEL, 1, 1, 0])
SEEDS = image_seeds(9, torch.arange(6))
CONFIG = DecodingConfig(steps=(4, 3), temperature=(4.5, 2.0))


def partly_known(batch: int, seed: int = 1) -> list[Canvas]:
    generator = torch.Generator().manual_seed(seed)
    known_canvases = []
    for grid, codes in ((TOP_GRID, CONTEXT_CODES), ((4, 6), CODES)):
        shape = (batch, grid[0] * grid[1])
        tokens = torch.randint(codes, shape, generator=generator)
        known_canvases.append(Canvas(tokens, torch.rand(shape, generator=generator) < 0.6, grid))
    return known_canvases


@pytest.mark.parametrize("keep", KEEPS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_known_tokens_stay_and_each_step_leaves_the_prescribed_count(schedule: str, keep: str):
    config = DecodingConfig(steps=(8, 7), schedule=schedule, keep=keep)
    first = partly_known(6)
    before = {level.name: canvas for level, canvas in zip(levels_of(), first, strict=True)}
    starts = {name: canvas.masked.sum(-1).tolist() for name, canvas in before.items()}
    known = {name: ~canvas.masked for name, canvas in before.items()}
    originals = dict(before)
    for step in stratified_decode(levels_of(), LABELS, SEEDS, config, first):
        unknown = before[step.level].masked.sum(-1).tolist()
        assert step.canvas.masked.sum(-1).tolist() == [
            naive_num_masked(schedule, step.index, min(step.num_steps, max(1, start)), start, left) if left else 0
            for start, left in zip(starts[step.level], unknown, strict=True)
        ]
        # What was found earlier stays found, and as it was; so does what was known from the start.
        assert not (step.canvas.masked & ~before[step.level].masked).any()
        settled = ~before[step.level].masked
        assert torch.equal(step.canvas.tokens[settled], before[step.level].tokens[settled])
        assert torch.equal(step.canvas.tokens[known[step.level]], originals[step.level].tokens[known[step.level]])
        assert (step.confidence[settled] == 0).all()
        assert (step.confidence[~settled] < 0).all()
        before[step.level] = step.canvas
    assert not before["top"].masked.any()
    assert not before["bottom"].masked.any()


def test_confidence_is_the_log_probability_of_what_was_drawn():
    first = partly_known(6)
    before = first[0]
    network = real_top().bind(Condition(LABELS))
    for step in stratified_decode(levels_of()[:1], LABELS, SEEDS, DecodingConfig((4,), (4.5,)), first[:1]):
        log_probabilities = network(before).log_softmax(-1)
        expected = log_probabilities.gather(-1, step.drawn[..., None])[..., 0].where(before.masked, torch.tensor(0.0))
        torch.testing.assert_close(step.confidence, expected)
        before = step.canvas


@pytest.mark.parametrize("guidance", [0.0, 0.5])
def test_what_stands_under_the_mask_never_matters(guidance: float):
    first = partly_known(6)
    hidden = [dataclasses.replace(canvas, tokens=torch.where(canvas.masked, 10**6, canvas.tokens)) for canvas in first]
    config = dataclasses.replace(CONFIG, guidance=guidance)
    steps, hidden_steps = (
        list(stratified_decode(levels_of(), LABELS, SEEDS, config, start)) for start in (first, hidden)
    )
    for a, b in zip(steps, hidden_steps, strict=True):
        assert torch.equal(a.canvas.tokens, b.canvas.tokens)
        assert torch.equal(a.canvas.masked, b.canvas.masked)
        assert torch.equal(a.confidence, b.confidence)


# Batches


@pytest.mark.parametrize("guidance", [0.0, 0.7])
@pytest.mark.parametrize("known", [False, True])
def test_image_of_a_seed_does_not_depend_on_the_batch(guidance: float, known: bool):
    config = dataclasses.replace(CONFIG, guidance=guidance, guidance_ramp="linear")
    first = partly_known(6) if known else None

    def decoded(rows: list[int]) -> tuple[Tensor, ...]:
        start = None if first is None else [Canvas(c.tokens[rows], c.masked[rows], c.grid) for c in first]
        seeds = image_seeds(9, torch.tensor(rows))
        return final_tokens(stratified_decode(levels_of(), LABELS[rows], seeds, config, start)).levels

    together = decoded([0, 1, 2, 3, 4, 5])
    for rows in ([0], [3], [5], [2, 3], [5, 4, 3, 2, 1, 0], [4, 4, 0], [1, 3, 5, 0]):
        for alone, all_rows in zip(decoded(rows), together, strict=True):
            assert torch.equal(alone, all_rows[rows]), rows


def test_seeds_and_labels_make_different_images():
    everything = torch.cat([grid.flatten(1) for grid in decode(torch.ones(6, dtype=torch.int64), SEEDS)], dim=1)
    assert everything.unique(dim=0).shape[0] == 6
    # A class moves these small networks' logits by a tenth: in forty images some token tells.
    seeds = image_seeds(1, torch.arange(40))
    by_class = [decode(torch.full((40,), label), seeds) for label in (*range(CLASSES), NULL_LABEL)]
    for level in range(2):
        for index, tokens in enumerate(by_class):
            assert not any(torch.equal(tokens[level], later_tokens[level]) for later_tokens in by_class[index + 1 :])


def decode(labels: Tensor, seeds: Tensor, config: DecodingConfig = CONFIG) -> tuple[Tensor, ...]:
    return final_tokens(stratified_decode(levels_of(), labels, seeds, config)).levels


# Drawing and choosing


def test_draws_follow_the_softmax_whatever_the_temperature():
    count, logits = 20_000, torch.tensor([1.5, 0.0, -1.0, 2.0])
    sampling = settings_of_rows([0], [4], [100.0], 5)
    ids, log_p = draw(logits.expand(1, count, 4), sampling, 0)
    probabilities = logits.double().softmax(-1)
    expected = count * probabilities
    observed = torch.bincount(ids[0], minlength=4)
    assert float(((observed - expected) ** 2 / expected).sum()) < 31  # chi-square, 3 degrees, one in a million
    torch.testing.assert_close(log_p[0].double(), probabilities.log()[ids[0]], atol=1e-5, rtol=0)
    cold, _ = draw(logits.expand(1, count, 4), dataclasses.replace(sampling, temperature=torch.zeros(1)), 0)
    assert torch.equal(cold, ids)


def test_draws_differ_by_level_and_step_and_from_the_choice():
    logits, sampling = torch.zeros(1, 64, 50), settings_of_rows([0], [4], [1.0], 5)
    later = dataclasses.replace(sampling, step=torch.tensor([1]))
    drawn = [draw(logits, *of)[0] for of in ((sampling, 0), (sampling, 1), (later, 0), (later, 1))]
    for index, ids in enumerate(drawn):
        for later_ids in drawn[index + 1 :]:
            assert (ids == later_ids).float().mean() < 0.15  # 1 in 50 by chance


def test_noise_of_the_choice_fades_to_nothing():
    log_p = torch.linspace(-3, -1, 400).expand(4, 400)
    sampling = settings_of_rows([0, 1, 2, 3], [4] * 4, [2.0] * 4, [7] * 4)
    noise = confidence_scores(log_p, sampling, 0) - log_p
    for row, scale in enumerate([1.5, 1.0, 0.5, 0.0]):
        # Gumbel noise of that scale: pi / sqrt(6) is its standard deviation.
        assert float(noise[row].std()) == pytest.approx(scale * math.pi / math.sqrt(6), rel=0.2, abs=1e-6)
    cold = dataclasses.replace(sampling, temperature=torch.zeros(4))
    torch.testing.assert_close(confidence_scores(log_p, cold, 0), log_p)


@EVERY
@given(
    rows=st.lists(
        st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=6, max_size=6), min_size=1, max_size=4
    ),
    data=st.data(),
)
def test_lowest_takes_the_lowest_masked_and_the_first_of_equals(
    rows: list[list[tuple[int, bool]]], data: st.DataObject
):
    scores = torch.tensor([[float(score) for score, _ in row] for row in rows])
    masked = torch.tensor([[hidden for _, hidden in row] for row in rows])
    counts = [data.draw(st.integers(0, sum(hidden for _, hidden in row))) for row in rows]
    selection = lowest(scores, masked, torch.tensor(counts))
    for index, (row, count) in enumerate(zip(rows, counts, strict=True)):
        places = sorted((score, place) for place, (score, hidden) in enumerate(row) if hidden)[:count]
        assert selection[index].nonzero().flatten().tolist() == sorted(place for _, place in places)


@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (5, 1), (2, 3), (4, 4), (4, 6), (8, 8), (16, 16), (9, 9), (6, 18)])
def test_halton_scores_are_the_order_of_the_sequence(grid: Grid):
    scores = halton_scores(grid, torch.device("cpu"))
    length = grid[0] * grid[1]
    order = scores.argsort(descending=True).tolist()
    assert sorted(order) == list(range(length))
    assert scores.unique().numel() == length
    assert order == naive_halton(grid)


def test_halton_finds_tokens_in_its_order():
    order = naive_halton(TOP_GRID)
    config = DecodingConfig(steps=(4,), temperature=(4.5,), schedule="cosine", keep="halton")
    counts = []
    for step in stratified_decode(levels_of()[:1], LABELS, SEEDS, config):
        places = [set((~row).nonzero().flatten().tolist()) for row in step.canvas.masked]
        counts.append(len(places[0]))
        assert places == [set(order[: counts[-1]])] * 6
    assert counts == [1, 2, 4, 6]  # 6 less 6 cos(pi r / 2), rounded down, at 1/4, 1/2, 3/4 and 1


# The levels


def test_bottom_is_guided_by_the_finished_top():
    conditions: list[Condition] = []

    def recorded(condition: Condition) -> LogitsFn:
        conditions.append(condition)
        return real_bottom().bind(condition)

    steps = list(stratified_decode(levels_of(bottom_bind=recorded), LABELS, SEEDS, CONFIG))
    assert [(step.level, step.index, step.num_steps) for step in steps] == [
        *(("top", index, 4) for index in range(4)),
        *(("bottom", index, 3) for index in range(3)),
    ]
    top, bottom = steps[3].canvas, steps[-1].canvas
    (condition,) = conditions
    assert torch.equal(condition.labels, LABELS)
    assert len(condition.context) == 1
    assert torch.equal(condition.context[0], top.as_grid())
    # The bottom alone, under that top.
    alone = decode_level(
        Guided(real_bottom().bind, Condition(LABELS, (top.as_grid(),)), False),
        Canvas.blank(6, (4, 6)),
        level_sampling(SEEDS, CONFIG, 1),
        "bottom",
        1,
        CONFIG,
    )
    assert torch.equal(list(alone)[-1].canvas.tokens, bottom.tokens)
    # And not under another.
    flipped_steps = decode_level(
        Guided(real_bottom().bind, Condition(LABELS, (top.as_grid().flip(0),)), False),
        Canvas.blank(6, (4, 6)),
        level_sampling(SEEDS, CONFIG, 1),
        "bottom",
        1,
        CONFIG,
    )
    assert not torch.equal(list(flipped_steps)[-1].canvas.tokens, bottom.tokens)


def test_a_third_level_is_guided_by_all_before_it():
    contexts: list[tuple[Tensor, ...]] = []

    def recorded(condition: Condition) -> LogitsFn:
        contexts.append(condition.context)
        return real_bottom().bind(Condition(condition.labels, condition.context[:1]))

    levels = [*levels_of(), Level("fine", (4, 6), CODES, recorded)]
    config = DecodingConfig(steps=(2, 2, 2), temperature=(1.0, 1.0, 1.0))
    tokens = final_tokens(stratified_decode(levels, LABELS, SEEDS, config)).levels
    assert len(tokens) == 3
    assert [torch.equal(grid, token) for grid, token in zip(contexts[0], tokens, strict=False)] == [True, True]
    # The same network on another level draws with other noise.
    assert not torch.equal(tokens[1], tokens[2])


def test_a_known_top_is_handed_on_as_it_is():
    top = torch.randint(CONTEXT_CODES, (6, *TOP_GRID), generator=torch.Generator().manual_seed(2))
    canvases = [Canvas.known(top), Canvas.blank(6, (4, 6))]
    grids = final_tokens(stratified_decode(levels_of(), LABELS, SEEDS, CONFIG, canvases)).levels
    assert torch.equal(grids[0], top)
    alone = decode_level(
        Guided(real_bottom().bind, Condition(LABELS, (top,)), False),
        canvases[1],
        level_sampling(SEEDS, CONFIG, 1),
        "bottom",
        1,
        CONFIG,
    )
    assert torch.equal(list(alone)[-1].canvas.as_grid(), grids[1])


def test_final_tokens_are_each_levels_last_canvas_coarse_to_fine():
    steps = list(stratified_decode(levels_of(), LABELS, SEEDS, CONFIG))
    tokens = final_tokens(iter(steps))
    assert torch.equal(tokens.levels[0], steps[3].canvas.as_grid())
    assert torch.equal(tokens.levels[1], steps[6].canvas.as_grid())
    assert all(int(grid.min()) >= 0 for grid in tokens.levels)
    assert int(tokens.levels[0].max()) < CONTEXT_CODES
    assert int(tokens.levels[1].max()) < CODES


@pytest.mark.parametrize("guidance", [0.0, 0.2])
def test_keys_and_values_are_computed_once_for_all_steps(guidance: float, monkeypatch: pytest.MonkeyPatch):
    batches: list[int] = []
    original = CrossAttention.keys_values

    def counted(self: CrossAttention, context: Tensor) -> tuple[Tensor, Tensor]:
        batches.append(len(context))
        return original(self, context)

    monkeypatch.setattr(CrossAttention, "keys_values", counted)
    config = DecodingConfig(steps=(3, 8), guidance=guidance)
    final_tokens(stratified_decode(levels_of(), LABELS, SEEDS, config))
    assert batches == [12 if guidance else 6] * SMALL.layers


def test_steps_come_one_by_one():
    calls: list[int] = []

    def counted(condition: Condition) -> LogitsFn:
        network = real_top().bind(condition)

        def logits(canvas: Canvas, positions: Tensor | None = None) -> Tensor:
            calls.append(1)
            return network(canvas, positions)

        return logits

    steps: Iterator[DecodingStep] = stratified_decode(levels_of(top_bind=counted), LABELS, SEEDS, CONFIG)
    for count in range(1, 5):
        next(steps)
        assert len(calls) == count


def test_settings_of_a_level_are_the_same_for_every_row():
    config = DecodingConfig(steps=(4, 3), temperature=(4.5, 2.0), guidance=0.2)
    for level in range(2):
        sampling = level_sampling(SEEDS, config, level)
        assert sampling.step.tolist() == [0] * 6
        assert sampling.num_steps.tolist() == [config.steps[level]] * 6
        assert sampling.temperature.tolist() == [config.temperature[level]] * 6
        assert torch.equal(sampling.guidance, torch.full((6,), 0.2))
        assert torch.equal(sampling.seed, SEEDS)


# What is refused


def test_wrong_number_of_steps_is_refused():
    for steps in ((4,), (4, 3, 2)):
        config = DecodingConfig(steps=steps, temperature=(1.0,) * len(steps))
        with pytest.raises(ValueError, match=rf"decoding.steps: .*{len(steps)} levels, the model has 2"):
            next(stratified_decode(levels_of(), LABELS, SEEDS, config))


def test_wrong_canvases_are_refused():
    top, bottom = Canvas.blank(6, TOP_GRID), Canvas.blank(6, (4, 6))
    for wrong in ([top], [top, bottom, bottom], [bottom, top], [top, Canvas.blank(6, (6, 4))], []):
        with pytest.raises(ValueError, match="canvases: "):
            next(stratified_decode(levels_of(), LABELS, SEEDS, CONFIG, wrong))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"steps": (0, 6)}, "steps"),
        ({"steps": (), "temperature": ()}, "steps"),
        ({"steps": (18,)}, "temperature"),
        ({"temperature": (4.5, -1.0)}, "temperature"),
        ({"schedule": "sinus"}, "schedule"),
        ({"keep": "luck"}, "keep"),
        ({"guidance_ramp": "steep"}, "guidance_ramp"),
    ],
)
def test_config_refuses_what_cannot_be_decoded(settings: dict[str, object], named: str):
    with pytest.raises(ValueError, match=f"decoding.{named}: "):
        DecodingConfig(**settings)
