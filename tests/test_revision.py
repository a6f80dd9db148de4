"""Revision, adaptive steps and guidance ramps against naive ones: an image, a token at a time, in plain Python.

The networks are those of ``test_decoding_algorithm``: sines of what is known.
"""

from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from strait.decoding.adaptive import PassCount
from strait.decoding.config import DecodingConfig
from strait.decoding.guidance import ramped
from strait.decoding.iterative import decode_step
from strait.decoding.revision import partition
from strait.decoding.sampling import draw_rows
from strait.decoding.stratified import final_tokens, level_sampling, stratified_decode
from strait.editing.config import EditConfig
from strait.editing.extension import extend_tokens
from strait.editing.infilling import infill_canvases
from strait.editing.transfer import random_kept, transfer_canvases
from strait.model.strait import StraIT, random_model
from strait.randomness import image_seeds
from strait.types import NULL_LABEL, Canvas, Condition, DecodingStep, Grid, Level, LogitsFn, Tokens
from test_decoding import KEEPS, naive_halton
from test_decoding_algorithm import BOTTOM, BOTTOM_CODES, TOP, TOP_CODES, Scores, as_network, canvases
from test_masking import naive_num_masked
from test_model_folder import CLASSES, CONFIG
from test_randomness import naive_gumbel, naive_key, naive_uniform, naive_uniform_id

EVERY = settings(max_examples=60)
REVISIONS: tuple[dict[str, Any], ...] = (
    {},
    {"revise": "remask", "revise_share": 0.3},
    {"revise": "remask", "revise_share": 1.0},
    {"revise": "confidence", "revise_share": 0.5},
    {"revise": "redraw", "revise_passes": 3},
)
VARIANTS = (
    *REVISIONS[1:],
    {"quality": 0.7},
    {"quality": 0.4, "revise": "confidence", "revise_share": 0.5},
    {"quality": 0.7, "revise": "redraw", "revise_passes": 2},
    {"guidance_ramp": "power_cosine", "guidance_start": 0.3, "guidance": 1.5, "revise": "remask", "revise_share": 0.4},
)


# Naive


def naive_scale(row: DecodingConfig, step: int, num_steps: int) -> float:
    progress = (step + 1) / num_steps
    if Fraction(step + 1, num_steps) <= Fraction(str(row.guidance_start)):
        return 0.0
    shape = {
        "constant": 1.0,
        "linear": progress,
        "power_cosine": 0.5 - 0.5 * math.cos(math.pi * progress * progress * progress),
    }
    return row.guidance * shape[row.guidance_ramp]


class NaiveImage:
    """One image at one level."""

    def __init__(
        self, scores: Scores, canvas: Canvas, index: int, label: int, context: list[int], seed: int, level: int
    ) -> None:
        self.scores, self.label, self.context, self.seed, self.level = scores, label, context, seed, level
        self.tokens, self.masked = canvas.tokens[index].tolist(), canvas.masked[index].tolist()
        known = [not hidden for hidden in self.masked]
        self.given = known if canvas.given is None else canvas.given[index].tolist()
        self.grid: Grid = canvas.grid
        self.passes = 0
        self.snapshots: list[tuple[list[int], list[bool]]] = []

    def look(self, scale: float) -> list[list[float]]:
        """Guided log-probabilities at every position."""
        self.passes += any(self.masked)
        seen = [None if hidden else token for token, hidden in zip(self.tokens, self.masked, strict=True)]
        with_class = self.scores(seen, self.label, self.context)
        without = self.scores(seen, NULL_LABEL, self.context)
        rows = []
        for conditional, unconditional in zip(with_class, without, strict=True):
            logits = [a + scale * (a - b) for a, b in zip(conditional, unconditional, strict=True)]
            total = math.log(sum(math.exp(value) for value in logits))
            rows.append([value - total for value in logits])
        return rows

    def draw(self, log_p: list[list[float]], step: int) -> dict[int, float]:
        """Draw every masked token; the log-probability of each."""
        drawn = {}
        for place in [place for place, hidden in enumerate(self.masked) if hidden]:
            noise = naive_key(self.seed, self.level, 1, step, place)
            noisy = [value + naive_gumbel(naive_uniform_id(noise, code)) for code, value in enumerate(log_p[place])]
            self.tokens[place] = noisy.index(max(noisy))
            drawn[place] = log_p[place][self.tokens[place]]
        return drawn

    def step(self, row: DecodingConfig, temperature: float, step: int, num_steps: int, start: int) -> None:
        log_p = self.look(naive_scale(row, step, num_steps))
        kept = {place: log_p[place][self.tokens[place]] for place in range(len(log_p)) if self.is_kept(place)}
        drawn = self.draw(log_p, step)
        order = naive_halton(self.grid)
        fading = temperature * (1 - (step + 1) / num_steps)
        scores = {}
        for place, sure in drawn.items():
            choice = naive_gumbel(naive_uniform(naive_key(self.seed, self.level, 2, step, place)))
            scores[place] = -order.index(place) if row.keep == "halton" else sure + fading * choice
        left = naive_num_masked(row.schedule, step, num_steps, start, len(drawn)) if drawn else 0
        best_first = sorted(scores, key=lambda place: -scores[place])
        errors, allowed = 0.0, 0
        for place in best_first:
            errors += 1 - math.exp(drawn[place])
            if row.quality < 1 and errors <= (1 - row.quality) * start:
                allowed += 1
        left = min(left, len(drawn) - allowed)
        back = min(left, math.floor(Fraction(str(row.revise_share)) * len(kept)))
        if row.revise == "remask":
            kept = {place: naive_uniform(naive_key(self.seed, self.level, 3, step, place)) for place in kept}
        again = sorted(kept, key=lambda place: kept[place])[:back]
        again += best_first[len(best_first) - (left - back) :] if left > back else []
        self.masked = [place in again for place in range(len(self.masked))]
        self.snapshots.append((list(self.tokens), list(self.masked)))

    def is_kept(self, place: int) -> bool:
        return not self.masked[place] and not self.given[place]

    def redraw(self, row: DecodingConfig, num_steps: int) -> None:
        free = [place for place, fixed in enumerate(self.given) if not fixed]
        mixed = sorted(free, key=lambda place: naive_uniform(naive_key(self.seed, self.level, 4, place)))
        for number in range(row.revise_passes):
            part = [place for rank, place in enumerate(mixed) if rank * row.revise_passes // len(mixed) == number]
            self.masked = [place in part for place in range(len(self.masked))]
            self.draw(self.look(row.guidance), num_steps + number)
            self.masked = [False] * len(self.masked)
            self.snapshots.append((list(self.tokens), list(self.masked)))


@EVERY
@given(data=st.data(), revision=st.sampled_from(REVISIONS), quality=st.sampled_from([1.0, 0.85, 0.6, 0.25, 0.0]))
def test_every_rule_equals_naive(data: st.DataObject, revision: dict[str, Any], quality: float):
    top_grid = data.draw(st.sampled_from([(1, 2), (2, 2)]))
    grids, batch = (top_grid, (2 * top_grid[0], 2 * top_grid[1])), data.draw(st.integers(1, 3))
    shared = DecodingConfig(
        guidance_ramp=data.draw(st.sampled_from(["constant", "linear", "power_cosine"])),
        guidance_start=data.draw(st.sampled_from([0.0, 0.25, 0.5])),
        keep=data.draw(st.sampled_from(KEEPS)),
        quality=quality,
        **revision,
    )
    rows = [
        replace(
            shared,
            steps=(data.draw(st.integers(1, 5)), data.draw(st.integers(1, 9))),
            temperature=(data.draw(st.floats(0, 5)), data.draw(st.floats(0, 5))),
            guidance=data.draw(st.sampled_from([0.0, 0.4, 1.5])),
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
    if data.draw(st.booleans()):  # some known tokens are not given, as of an earlier draft
        first = [replace(canvas, given=~canvas.masked & (canvas.tokens != 1)) for canvas in first]
    count = PassCount()
    steps = list(stratified_decode(levels, torch.tensor(labels), seeds, rows, first))
    for step in steps:
        count(step)
    for index, (label, row) in enumerate(zip(labels, rows, strict=True)):
        context: list[int] = []
        for level, (name, scores, canvas) in enumerate(zip(("top", "bottom"), networks, first, strict=True)):
            image = NaiveImage(scores, canvas, index, label, context, int(seeds[index]), level)
            start = sum(image.masked)
            num_steps = min(row.steps[level], max(1, start))
            for step in range(num_steps):
                image.step(row, row.temperature[level], step, num_steps, start)
            its = [step for step in steps if step.level == name]
            redraws = row.revise_passes if (canvas.masked if canvas.given is None else ~canvas.given).any() else 0
            drafts = [step for step in its if step.index < its[0].num_steps - redraws]
            for number, step in enumerate(drafts):
                tokens, masked = image.snapshots[min(number, num_steps - 1)]
                assert step.canvas.tokens[index].tolist() == tokens
                assert step.canvas.masked[index].tolist() == masked
            assert not any(image.masked)
            if not all(image.given) and row.revise_passes:
                image.redraw(row, num_steps)
                for step, (tokens, _) in zip(its[len(drafts) :], image.snapshots[num_steps:], strict=True):
                    assert step.canvas.tokens[index].tolist() == tokens
            assert its[-1].canvas.tokens[index].tolist() == image.tokens
            assert int(count.levels[name][index]) == image.passes
            context = image.tokens


# Properties


@pytest.fixture(scope="module")
def model() -> StraIT:
    return random_model(CONFIG, CLASSES, seed=1)


def base(model: StraIT, **changes: Any) -> DecodingConfig:
    return replace(model.default_decoding(), steps=(6, 5), temperature=(3.0, 2.0), **changes)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
@pytest.mark.parametrize("seed", [0, 1, 2**40])
def test_given_tokens_never_change(model: StraIT, variant: dict[str, Any], seed: int):
    """Infilling, transfer and extension: at every step, at every level."""
    decoding, labels = base(model, **variant), torch.tensor([0, 1, 2])
    tokens = final_tokens(model.decoding_steps(labels, 99))
    seeds, side = image_seeds(seed, torch.arange(3)), model.config.image_size
    masks = torch.zeros(3, side, side, dtype=torch.bool)
    masks[:, : side // 2, side // 4 :] = True
    kept = random_kept(tokens.levels[0], 0.5, seeds)
    for first in (
        infill_canvases(tokens, masks, seeds, EditConfig()),
        transfer_canvases(tokens, kept),
        transfer_canvases(tokens, kept, keep_bottom=True),
    ):
        by_name = dict(zip(model.config.level_names, first, strict=True))
        changed = False
        for step in model.decoding_steps(labels, seed, None, decoding, first):
            known = ~by_name[step.level].masked
            assert torch.equal(step.canvas.tokens[known], by_name[step.level].tokens[known])
            assert not step.canvas.masked[known].any()
            assert not step.predicted[known].any()
            changed |= bool((step.canvas.tokens != by_name[step.level].tokens).any())
        assert changed
    height, width = model.config.grids[0]
    known = torch.ones(height, width + 2, dtype=torch.bool)
    known[:, width:] = False
    scale = model.config.grids[1][0] // height
    sides = zip(tokens.levels, (1, scale), strict=True)
    wide = Tokens(tuple(torch.nn.functional.pad(grid, (0, 2 * times)) for grid, times in sides))
    extended = extend_tokens(model, wide, known, labels, seed, None, decoding)
    for before, after in zip(tokens.levels, extended.levels, strict=True):
        assert torch.equal(after[..., : before.shape[2]], before)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_an_image_depends_only_on_its_seed(model: StraIT, variant: dict[str, Any]):
    labels, decoding = torch.tensor([0, 1, 2, 0, 1]), base(model, **variant)
    rows = [replace(decoding, steps=steps) for steps in ((6, 5), (2, 3), (9, 1), (6, 5), (4, 20))]
    counts = PassCount()
    together = final_tokens(model.decoding_steps(labels, 4, None, rows), counts)
    again = final_tokens(model.decoding_steps(labels, 4, None, rows))
    plain = final_tokens(model.decoding_steps(labels, 4, None, [replace(r, **NONE) for r in rows]))
    assert all(torch.equal(a, b) for a, b in zip(together.levels, again.levels, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(together.levels, plain.levels, strict=True))
    for index, row in enumerate(rows):
        count = PassCount()
        steps = model.decoding_steps(labels[index : index + 1], 4, torch.tensor([index]), row)
        alone = final_tokens(steps, count)
        assert all(torch.equal(a[0], b[index]) for a, b in zip(alone.levels, together.levels, strict=True))
        assert count.rows() == [counts.rows()[index]]
    reseeded_tokens = final_tokens(model.decoding_steps(labels, 5, None, rows))
    assert not all(torch.equal(a, b) for a, b in zip(together.levels, reseeded_tokens.levels, strict=True))


NONE = {"quality": 1.0, "revise": "none", "revise_share": 0.0, "revise_passes": 0, "guidance_start": 0.0}


def network_calls(model: StraIT, decoding: DecodingConfig, batch: int = 2) -> tuple[list[DecodingStep], list[int]]:
    """All steps, and the number of calls of each level's network."""
    calls = [0] * len(decoding.steps)

    def counted(level: Level, number: int) -> Level:
        def bind(condition: Condition) -> LogitsFn:
            network = level.bind(condition)

            def logits(canvas: Canvas, positions: Tensor | None = None) -> Tensor:
                calls[number] += 1
                return network(canvas, positions)

            return logits

        return replace(level, bind=bind)

    levels = [counted(level, number) for number, level in enumerate(model.levels())]
    with torch.no_grad():
        seeds = image_seeds(3, torch.arange(batch))
        steps = list(stratified_decode(levels, torch.zeros(batch, dtype=torch.int64), seeds, decoding))
    return steps, calls


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_forward_passes_are_counted(model: StraIT, variant: dict[str, Any]):
    decoding = base(model, **variant)
    steps, calls = network_calls(model, decoding)
    count = PassCount()
    for step in steps:
        count(step)
    assert calls == [int(passes.max()) for passes in count.levels.values()]
    if decoding.quality == 1:
        assert tuple(calls) == decoding.passes == tuple(n + decoding.revise_passes for n in decoding.steps)
        assert [step.num_steps for step in steps] == [n for n in decoding.passes for _ in range(n)]
    else:
        assert all(taken < most for taken, most in zip(calls, decoding.passes, strict=True))


@pytest.mark.parametrize("revise", ["remask", "confidence"])
def test_a_step_leaves_as_many_masked_as_without_revision(model: StraIT, revise: Any):
    """Only which tokens are masked changes, and tokens do come back."""
    revised, _ = network_calls(model, base(model, revise=revise, revise_share=0.3))
    plain, _ = network_calls(model, base(model))
    came_back = 0
    for number, (step, plain_step) in enumerate(zip(revised, plain, strict=True)):
        assert torch.equal(step.canvas.masked.sum(-1), plain_step.canvas.masked.sum(-1))
        if number and revised[number - 1].level == step.level:
            came_back += int((step.canvas.masked & ~revised[number - 1].canvas.masked).sum())
    assert came_back > 0


def test_redrawing_draws_every_free_token_once_more(model: StraIT):
    steps, _ = network_calls(model, base(model, revise="redraw", revise_passes=4))
    for name, draft in zip(model.config.level_names, (6, 5), strict=True):
        passes = [step for step in steps if step.level == name][draft:]
        assert len(passes) == 4
        times = torch.stack([step.predicted for step in passes]).sum(0)
        assert (times == 1).all()
        for step in passes:
            assert not step.canvas.masked.any()
            assert ((step.confidence < 0) == step.predicted).all()


@given(st.integers(1, 4), st.integers(1, 30), st.integers(2, 9), st.data())
def test_partition_is_of_the_free_tokens_in_even_parts(batch: int, length: int, parts: int, data: st.DataObject):
    rows = st.lists(st.booleans(), min_size=length, max_size=length)
    free = torch.tensor([data.draw(rows) for _ in range(batch)])
    numbers = partition(free, image_seeds(0, torch.arange(batch)), 1, parts)
    assert torch.equal(numbers >= 0, free)
    for row in numbers:
        sizes = [int((row == part).sum()) for part in range(parts)]
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) == int((row >= 0).sum())


def test_the_dial_goes_from_one_step_to_the_schedule(model: StraIT):
    taken = []
    for quality in (0.0, 0.3, 0.6, 0.8, 0.95, 1.0):
        _, calls = network_calls(model, base(model, quality=quality))
        taken.append(sum(calls))
    assert taken[0] == 2
    assert taken == sorted(taken)
    assert taken[-1] == 11
    assert len(set(taken)) > 3


def test_a_sure_network_needs_one_step_and_each_image_has_its_own_pace():
    """The network is sure of the first image's tokens, and knows nothing of the second's."""

    def bind(condition: Condition) -> LogitsFn:
        def logits(canvas: Canvas, positions: Tensor | None = None) -> Tensor:
            values = torch.zeros(2, 16, 5)
            values[0, :, 2] = 50
            return values if positions is None else values.gather(1, positions[..., None].expand(-1, -1, 5))

        return logits

    count, config = PassCount(), DecodingConfig(steps=(10,), temperature=(0.0,), quality=0.96)
    steps = stratified_decode([Level("top", (4, 4), 5, bind)], torch.tensor([0, 1]), torch.tensor([3, 4]), config)
    tokens = final_tokens(steps, count)
    assert (tokens.levels[0][0] == 2).all()
    assert count.rows() == [[1], [10]]


def test_known_tokens_that_are_not_given_can_be_polished(model: StraIT):
    """A finished draft without masked tokens: redrawing changes it, except what is given."""
    draft = final_tokens(model.decoding_steps(torch.tensor([0, 1]), 5))
    first = []
    for grid in draft.levels:
        canvas = Canvas.known(grid)
        given = torch.zeros_like(canvas.masked)
        given[:, ::3] = True
        first.append(replace(canvas, given=given))
    steps = list(
        model.decoding_steps(torch.tensor([0, 1]), 6, None, base(model, revise="redraw", revise_passes=2), first)
    )
    for name, canvas in zip(model.config.level_names, first, strict=True):
        last = [step for step in steps if step.level == name][-1].canvas
        assert canvas.given is not None
        assert torch.equal(last.tokens[canvas.given], canvas.tokens[canvas.given])
        assert (last.tokens != canvas.tokens).any()


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_compiled_drawer_is_used_everywhere(model: StraIT, variant: dict[str, Any]):
    """Every draw goes through the drawer of its level."""
    drawn = []

    def by(logits: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        drawn.append(len(keys))
        return draw_rows(logits, keys)

    decoding, seeds = base(model, **variant), image_seeds(3, torch.arange(2))
    labels = torch.zeros(2, dtype=torch.int64)
    with torch.no_grad():
        plain = list(stratified_decode(model.levels(), labels, seeds, decoding))
        levels = [replace(level, draw_rows=by) for level in model.levels()]
        steps = list(stratified_decode(levels, labels, seeds, decoding))
    assert len(drawn) == len(plain)
    assert all(torch.equal(a.canvas.tokens, b.canvas.tokens) for a, b in zip(plain, steps, strict=True))


def test_a_step_without_given_tokens_stated_takes_nothing_back():
    """Outside of a level's loop, a canvas that does not say which tokens are given gives all it knows."""
    canvas = Canvas(torch.arange(4)[None], torch.tensor([[True, True, False, False]]), (2, 2))
    config = DecodingConfig(steps=(4,), temperature=(1.0,), revise="remask", revise_share=1.0)
    sampling = level_sampling(torch.tensor([1]), config, 0)
    network = as_network(BOTTOM)(Condition(torch.tensor([0])))
    after, *_ = decode_step(network, canvas, sampling, torch.tensor([2]), 0, config)
    assert not after.masked[0, 2:].any()


# Ramps


def test_ramps_that_are_late():
    scale, steps, total = torch.full((8,), 2.0), torch.arange(8), torch.full((8,), 8)
    power = ramped(scale, steps, total, "power_cosine").tolist()
    assert power == pytest.approx([1 - math.cos(math.pi * ((k + 1) / 8) ** 3) for k in range(8)], abs=1e-6)
    assert power[-1] == pytest.approx(2.0)
    assert power == sorted(power)
    assert ramped(scale, steps, total, "constant", 0.5).tolist() == [0.0] * 4 + [2.0] * 4
    assert ramped(scale, steps, total, "linear", 0.25).tolist() == [0.0] * 2 + [2 * (k + 1) / 8 for k in range(2, 8)]


# Settings


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"revise": "regret"}, "revise"),
        ({"revise": "remask"}, "revise_share"),
        ({"revise": "confidence", "revise_share": 1.5}, "revise_share"),
        ({"revise_share": 0.1}, "revise_share"),
        ({"revise": "redraw", "revise_passes": 2, "revise_share": 0.1}, "revise_share"),
        ({"revise": "remask", "revise_share": float("nan")}, "revise_share"),
        ({"revise": "redraw"}, "revise_passes"),
        ({"revise": "redraw", "revise_passes": 1}, "revise_passes"),
        ({"revise": "remask", "revise_share": 0.1, "revise_passes": 2}, "revise_passes"),
        ({"revise_passes": 3}, "revise_passes"),
        ({"quality": 1.1}, "quality"),
        ({"quality": float("nan")}, "quality"),
        ({"guidance_start": 1.0}, "guidance_start"),
        ({"guidance_start": -0.1}, "guidance_start"),
        ({"guidance_ramp": "steep"}, "guidance_ramp"),
    ],
)
def test_settings_that_nothing_could_follow_are_refused(wrong: dict[str, Any], named: str):
    with pytest.raises(ValueError, match=f"^decoding.{named}: "):
        DecodingConfig(**wrong)


def test_another_revision_replaces_the_models_own():
    decoding = DecodingConfig(revise="redraw", revise_passes=4)
    assert decoding.chosen(2, revise="remask", revise_share=0.2) == DecodingConfig(revise="remask", revise_share=0.2)
    assert decoding.chosen(2, revise="none") == DecodingConfig()
    assert decoding.chosen(2, revise_passes=3).revise_passes == 3
    assert decoding.chosen(2, quality=0.5, revise=None) == replace(decoding, quality=0.5)
    assert decoding.passes == (22, 10)


def test_rows_of_one_batch_share_their_revision(model: StraIT):
    rows = [base(model), base(model, revise="remask", revise_share=0.2)]
    with pytest.raises(ValueError, match="rows of one batch may differ only in steps, temperature and guidance"):
        final_tokens(model.decoding_steps(torch.tensor([0, 1]), 0, None, rows))
