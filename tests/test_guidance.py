"""Classifier-free guidance is conditional + scale * (conditional - unconditional), proven by two separate passes."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from strait.decoding.config import DecodingConfig
from strait.decoding.guidance import Guided, ramped
from strait.decoding.iterative import decode_level, decode_step
from strait.decoding.stratified import final_tokens, level_sampling, stratified_decode
from strait.export import generate as numpy_side
from strait.randomness import image_seeds
from strait.transformer.bottom import BottomTransformer
from strait.transformer.top import TopTransformer
from strait.types import NULL_LABEL, Canvas, Condition, Level, LogitsFn
from test_transformer import (
    BOTTOM_GRID,
    CODES,
    CONTEXT_CODES,
    TOP_GRID,
    random_canvas,
    random_top_tokens,
    small_bottom,
    small_top,
)

LABELS = torch.tensor([0, 2, 1, NULL_LABEL])
SEEDS = image_seeds(4, torch.arange(4))
TOP, BOTTOM = small_top(), small_bottom()
CASES = [
    (TOP, random_canvas(4, TOP_GRID, CONTEXT_CODES), Condition(LABELS)),
    (BOTTOM, random_canvas(4, BOTTOM_GRID, CODES), Condition(LABELS, (random_top_tokens(4),))),
]
either = pytest.mark.parametrize(("network", "canvas", "condition"), CASES, ids=["top", "bottom"])
Network = TopTransformer | BottomTransformer


def two_passes(
    network: Network, condition: Condition, canvas: Canvas, scale: list[float], positions: Tensor | None = None
) -> Tensor:
    """Row by row, each half bound on its own."""
    conditional = network.bind(condition)(canvas, positions)
    null = Condition(torch.full_like(condition.labels, -1), condition.context)
    unconditional = network.bind(null)(canvas, positions)
    rows = zip(scale, conditional, unconditional, strict=True)
    return torch.stack([with_class + s * (with_class - without) for s, with_class, without in rows])


@either
@pytest.mark.parametrize("scale", [[0.2] * 4, [0.0, 0.2, 3.0, 1.0], [-1.0, 0.5, 0.0, 7.0]])
def test_guided_logits_equal_two_passes(network: Network, canvas: Canvas, condition: Condition, scale: list[float]):
    guided = Guided(network.bind, condition, guided=True)
    torch.testing.assert_close(
        guided.at(torch.tensor(scale))(canvas),
        two_passes(network, condition, canvas, scale),
        atol=1e-4,
        rtol=1e-4,
    )


@either
def test_one_binding_serves_every_scale_and_canvas(network: Network, canvas: Canvas, condition: Condition):
    guided = Guided(network.bind, condition, guided=True)
    for number, scale in enumerate((0.0, 0.5, 2.0)):
        other_canvas = random_canvas(4, canvas.grid, network.codebook_size, seed=number)
        torch.testing.assert_close(
            guided.at(torch.full((4,), scale))(other_canvas),
            two_passes(network, condition, other_canvas, [scale] * 4),
            atol=1e-4,
            rtol=1e-4,
        )


@either
def test_guided_logits_at_positions(network: Network, canvas: Canvas, condition: Condition):
    positions = torch.tensor([[0, 3], [5, 5], [2, 1], [4, 0]])
    scale = [0.2, 1.0, 0.0, 2.0]
    torch.testing.assert_close(
        Guided(network.bind, condition, guided=True).at(torch.tensor(scale))(canvas, positions),
        two_passes(network, condition, canvas, scale, positions),
        atol=1e-4,
        rtol=1e-4,
    )


@either
def test_guidance_moves_all_rows_but_those_without_a_class(network: Network, canvas: Canvas, condition: Condition):
    guided = Guided(network.bind, condition, guided=True).at(torch.ones(4))(canvas)
    plain = network.bind(condition)(canvas)
    for row in range(3):
        assert not torch.allclose(guided[row], plain[row], atol=1e-2)
    torch.testing.assert_close(guided[3], plain[3], atol=1e-4, rtol=1e-4)


@either
def test_scale_zero_equals_no_guidance(network: Network, canvas: Canvas, condition: Condition):
    zero = Guided(network.bind, condition, guided=True).at(torch.zeros(4))(canvas)
    none = Guided(network.bind, condition, guided=False).at(torch.zeros(4))(canvas)
    torch.testing.assert_close(zero, none)
    assert torch.equal(none, network.bind(condition)(canvas))


def test_scale_minus_one_is_the_null_class():
    for network, canvas, condition in CASES:
        guided = Guided(network.bind, condition, guided=True).at(-torch.ones(4))(canvas)
        torch.testing.assert_close(guided, network.bind(condition.without_label())(canvas), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("guidance", "rows"), [(0.0, 4), (0.3, 8)])
def test_only_guidance_pays_for_the_doubled_batch(guidance: float, rows: int):
    bound: list[int] = []
    passed: list[int] = []

    def recorded(condition: Condition) -> LogitsFn:
        network = TOP.bind(condition)
        bound.append(len(condition.labels))

        def logits(canvas: Canvas, positions: Tensor | None = None) -> Tensor:
            passed.append(len(canvas.tokens))
            return network(canvas, positions)

        return logits

    config = DecodingConfig(steps=(3,), temperature=(1.0,), guidance=guidance)
    list(stratified_decode([Level("top", TOP_GRID, CONTEXT_CODES, recorded)], LABELS, SEEDS, config))
    assert bound == [rows]
    assert passed == [rows] * 3


# Ramps


def test_ramps():
    scale, step, num_steps = torch.tensor([0.5, 2.0, 0.0, 3.0]), torch.tensor([0, 1, 2, 5]), torch.tensor([4, 4, 4, 6])
    assert ramped(scale, step, num_steps, "constant").tolist() == [0.5, 2.0, 0.0, 3.0]
    assert ramped(scale, step, num_steps, "linear").tolist() == [0.125, 1.0, 0.0, 3.0]


@pytest.mark.parametrize("num_steps", [1, 3, 6, 18])
def test_linear_ramp_grows_evenly_to_the_full_scale(num_steps: int):
    steps = torch.arange(num_steps)
    scales = ramped(torch.full((num_steps,), 0.7), steps, torch.full_like(steps, num_steps), "linear")
    assert scales[-1] == torch.tensor(0.7)
    assert scales.tolist() == pytest.approx([0.7 * (index + 1) / num_steps for index in range(num_steps)])


@either
@pytest.mark.parametrize("ramp", ["constant", "linear"])
def test_decoding_under_guidance_equals_two_passes_a_step(
    network: Network, canvas: Canvas, condition: Condition, ramp: str
):
    """Rows under different scales; each step replayed with the scale the ramp prescribes."""
    config = DecodingConfig(steps=(4,), temperature=(2.0,), guidance=1.0, guidance_ramp=ramp)
    scale = torch.tensor([0.0, 0.5, 1.5, 4.0])
    sampling = dataclasses.replace(level_sampling(SEEDS, config, 0), guidance=scale)
    guided = Guided(network.bind, condition, guided=True)
    start, before = canvas.masked.sum(-1), canvas
    own_steps = [min(4, max(1, unknown)) for unknown in start.tolist()]
    for step in decode_level(guided, canvas, sampling, "level", 0, config):
        shares = [1.0 if ramp == "constant" else (step.index + 1) / count for count in own_steps]

        def separate(seen: Canvas, positions: Tensor | None = None, shares: list[float] = shares) -> Tensor:
            scales = [float(s) * share for s, share in zip(scale, shares, strict=True)]
            return two_passes(network, condition, seen, scales, positions)

        now = dataclasses.replace(sampling, step=torch.full((4,), step.index), num_steps=torch.tensor(own_steps))
        after, drawn, log_p = decode_step(separate, before, now, start, 0, config)
        assert torch.equal(step.drawn, drawn)
        assert torch.equal(step.canvas.masked, after.masked)
        torch.testing.assert_close(step.confidence, log_p, atol=1e-4, rtol=1e-4)
        before = step.canvas
    assert not before.masked.any()


def decoded(guidance: float, ramp: str = "constant") -> tuple[Tensor, ...]:
    levels = [Level("top", TOP_GRID, CONTEXT_CODES, TOP.bind), Level("bottom", BOTTOM_GRID, CODES, BOTTOM.bind)]
    config = DecodingConfig(steps=(4, 3), guidance=guidance, guidance_ramp=ramp)
    return final_tokens(stratified_decode(levels, LABELS, SEEDS, config)).levels


def test_stratified_decoding_heeds_scale_and_ramp():
    plain, tiny, strong, growing = decoded(0.0), decoded(1e-6), decoded(5.0), decoded(5.0, "linear")
    for level in range(2):
        assert torch.equal(plain[level], tiny[level])
        assert not torch.equal(plain[level], strong[level])
        assert not torch.equal(strong[level], growing[level])
        # The row without a class has nothing to be guided by.
        assert torch.equal(plain[level][3], strong[level][3])


@pytest.mark.parametrize("num_steps", [10, 18, 24, 50, 64])
def test_guidance_starts_after_its_share_of_the_steps_in_both_programs(num_steps: int) -> None:
    """Against fractions, which are exact; 0.58 of 50 steps are 29, and less than that in floating point."""
    for hundredths in range(100):
        late = [Fraction(index + 1, num_steps) > Fraction(hundredths, 100) for index in range(num_steps)]
        steps, start = torch.arange(num_steps), hundredths / 100
        ours = ramped(torch.ones(num_steps), steps, torch.full_like(steps, num_steps), "constant", start)
        assert ours.bool().tolist() == late
        decoding = {"guidance_ramp": "constant", "guidance_start": start}
        assert [bool(numpy_side.ramp(decoding, index, num_steps)) for index in range(num_steps)] == late
