"""What stands under a mask has no part in anything, for random weights, both norms and both transformers."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from strait.decoding.config import SCHEDULES, DecodingConfig
from strait.decoding.stratified import stratified_decode
from strait.randomness import image_seeds
from strait.transformer.config import TransformerConfig
from strait.types import NULL_LABEL, Canvas, Condition, Level
from test_masking import naive_num_masked
from test_transformer import (
    BOTTOM_GRID,
    CODES,
    CONTEXT_CODES,
    TOP_GRID,
    every_variant,
    lively,
    random_canvas,
    random_top_tokens,
    small_bottom,
    small_top,
)

LABELS = torch.tensor([0, 2, NULL_LABEL])
SEEDS = st.integers(0, 10**6)
EVERY = settings(max_examples=12)


def cases(config: TransformerConfig, seed: int, share: float) -> list[tuple[nn.Module, Canvas, Condition]]:
    """Either transformer with random weights, in eval mode, and what it is given."""
    return [
        (lively(small_top(config), seed), random_canvas(3, TOP_GRID, CONTEXT_CODES, seed, share), Condition(LABELS)),
        (
            lively(small_bottom(config), seed),
            random_canvas(3, BOTTOM_GRID, CODES, seed, share),
            Condition(LABELS, (random_top_tokens(3, seed),)),
        ),
    ]


def with_others_hidden(canvas: Canvas, seed: int, codes: int) -> Canvas:
    """The same canvas with other tokens under its masks: codes, then ids that no code has."""
    generator = torch.Generator().manual_seed(seed)
    others = (canvas.tokens + torch.randint(1, codes, canvas.tokens.shape, generator=generator)) % codes
    others[0] = -1
    others[1] = 10**9
    return dataclasses.replace(canvas, tokens=torch.where(canvas.masked, others, canvas.tokens))


@every_variant
@EVERY
@given(seed=SEEDS, share=st.floats(0.1, 1))
def test_a_hidden_token_changes_no_logit(config: TransformerConfig, seed: int, share: float):
    for network, canvas, condition in cases(config, seed, share):
        logits = network.bind(condition)(canvas)
        assert torch.equal(network.bind(condition)(with_others_hidden(canvas, seed, network.codebook_size)), logits)
        # While a known one does, wherever there is one: the masks hide, not the network.
        shown = dataclasses.replace(canvas, tokens=(canvas.tokens + 1) % network.codebook_size)
        changed = (network.bind(condition)(shown) != logits).flatten(1).any(1)
        assert changed.tolist() == (~canvas.masked).any(1).tolist()


@every_variant
def test_a_masked_token_is_masked_alone(config: TransformerConfig):
    """Masking one more position hides that token and no other."""
    for network, canvas, condition in cases(config, 3, 0.0):
        for place in range(canvas.tokens.shape[1]):
            masked = canvas.masked.clone()
            masked[:, place] = True
            one_hidden = dataclasses.replace(canvas, masked=masked)
            logits = network.bind(condition)(one_hidden)
            for other_place in range(canvas.tokens.shape[1]):
                tokens = canvas.tokens.clone()
                tokens[:, other_place] = (tokens[:, other_place] + 1) % network.codebook_size
                same = torch.equal(network.bind(condition)(dataclasses.replace(one_hidden, tokens=tokens)), logits)
                assert same == (other_place == place)


def levels(config: TransformerConfig, seed: int) -> list[Level]:
    (top, *_), (bottom, *_) = cases(config, seed, 0.5)
    return [
        Level("top", TOP_GRID, CONTEXT_CODES, top.bind),
        Level("bottom", BOTTOM_GRID, CODES, bottom.bind),
    ]


@every_variant
@EVERY
@given(seed=SEEDS, data=st.data())
def test_a_whole_decode_heeds_known_tokens_and_no_hidden_ones(
    config: TransformerConfig, seed: int, data: st.DataObject
):
    """Known tokens never change, each step leaves the prescribed count, and hidden tokens have no part in either."""
    decoding = DecodingConfig(
        steps=(data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5))),
        guidance=data.draw(st.sampled_from([0.0, 0.3])),
        schedule=data.draw(st.sampled_from(SCHEDULES)),
    )
    shares = data.draw(st.floats(0, 1)), data.draw(st.floats(0, 1))
    first = [
        random_canvas(3, TOP_GRID, CONTEXT_CODES, seed, shares[0]),
        random_canvas(3, BOTTOM_GRID, CODES, seed + 1, shares[1]),
    ]
    hidden = [with_others_hidden(canvas, seed, codes) for canvas, codes in zip(first, (5, 7), strict=True)]
    seeds, both = image_seeds(seed, torch.arange(3)), levels(config, seed)
    steps, hidden_steps = (list(stratified_decode(both, LABELS, seeds, decoding, start)) for start in (first, hidden))
    started = dict(zip(("top", "bottom"), first, strict=True))
    before = dict(started)
    for a, b in zip(steps, hidden_steps, strict=True):
        assert torch.equal(a.canvas.tokens, b.canvas.tokens)
        assert torch.equal(a.canvas.masked, b.canvas.masked)
        assert torch.equal(a.confidence, b.confidence)
        start, last = started[a.level], before[a.level]
        assert torch.equal(a.canvas.tokens[~start.masked], start.tokens[~start.masked])
        assert torch.equal(a.canvas.tokens[~last.masked], last.tokens[~last.masked])
        assert not (a.canvas.masked & ~last.masked).any()
        counts = zip(start.masked.sum(-1).tolist(), last.masked.sum(-1).tolist(), strict=True)
        asked = decoding.steps[a.level == "bottom"]
        assert a.canvas.masked.sum(-1).tolist() == [
            naive_num_masked(decoding.schedule, a.index, min(asked, max(1, begun)), begun, left) if left else 0
            for begun, left in counts
        ]
        before[a.level] = a.canvas
    assert not any(bool(canvas.masked.any()) for canvas in before.values())


@pytest.mark.parametrize("level", ["top", "bottom"])
@every_variant
def test_no_gradient_reaches_a_hidden_token(config: TransformerConfig, level: str):
    """A code that stands under masks alone is no input: its embedding learns as an output at most."""
    network, canvas, condition = cases(config, 4, 0.5)[level == "bottom"]
    network.requires_grad_()
    codes = network.codebook_size
    tokens = torch.where(canvas.masked, torch.tensor(codes - 1), canvas.tokens.remainder(codes - 1))
    logits: Tensor = network.bind(condition)(dataclasses.replace(canvas, tokens=tokens))
    # The head is tied to the same table: the logit of that code itself is left out.
    logits[..., : codes - 1].sum().backward()
    gradient = network.embedding.ids.weight.grad
    assert gradient is not None
    assert torch.equal(gradient[codes - 1], torch.zeros_like(gradient[0]))
    assert (gradient[codes].abs().max() > 0) == bool(canvas.masked.any())
