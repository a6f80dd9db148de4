"""Equations 1, 3 and 4: the masked-token loss against values worked out by hand, its gradient against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from strait.transformer.loss import LossReduction, masked_token_loss

# Probabilities 1/2, 1/4, 1/4 at every position: a loss of ln 2 for id 0, of 2 ln 2 for the others.
HALF_AND_QUARTERS = torch.tensor([0.5, 0.25, 0.25]).log().expand(2, 3, 3)
TARGETS = torch.tensor([[0, 1, 2], [2, 0, 0]])
MASKED = torch.tensor([[True, True, False], [True, False, False]])
LN2 = math.log(2)


def loss_at_masked(
    logits: torch.Tensor, targets: torch.Tensor, masked: torch.Tensor, smoothing: float, reduction: LossReduction
) -> torch.Tensor:
    """From logits ``[batch, length, codes]`` of all positions."""
    return masked_token_loss(logits[masked], targets, masked, smoothing, reduction)


@pytest.mark.parametrize(
    ("reduction", "expected"),
    [
        ("mean", ((LN2 + 2 * LN2) / 2 + 2 * LN2) / 2),  # over each sample's masked tokens, then over the batch
        ("sum", ((LN2 + 2 * LN2) + 2 * LN2) / 2),  # summed over each sample's masked tokens
    ],
)
def test_hand_computed(reduction: LossReduction, expected: float):
    loss = loss_at_masked(HALF_AND_QUARTERS, TARGETS, MASKED, 0.0, reduction)
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(expected, rel=1e-6)


def test_hand_computed_with_label_smoothing():
    # Smoothed by 0.3 over three ids: the target has 0.8, the two others 0.1 each.
    first = 0.8 * LN2 + 0.2 * 2 * LN2
    other = 0.8 * 2 * LN2 + 0.1 * LN2 + 0.1 * 2 * LN2
    mean = loss_at_masked(HALF_AND_QUARTERS, TARGETS, MASKED, 0.3, "mean")
    assert float(mean) == pytest.approx(((first + other) / 2 + other) / 2, rel=1e-6)
    total = loss_at_masked(HALF_AND_QUARTERS, TARGETS, MASKED, 0.3, "sum")
    assert float(total) == pytest.approx((first + other + other) / 2, rel=1e-6)


def naive_loss(
    logits: torch.Tensor, targets: torch.Tensor, masked: torch.Tensor, smoothing: float, reduction: str
) -> float:
    batch, length, count = logits.shape
    total = 0.0
    for row in range(batch):
        losses = []
        for place in range(length):
            if not masked[row, place]:
                continue
            values = logits[row, place].tolist()
            log_sum = math.log(sum(math.exp(value) for value in values))
            loss = 0.0
            for index, value in enumerate(values):
                weight = smoothing / count + (1 - smoothing if index == int(targets[row, place]) else 0)
                loss -= weight * (value - log_sum)
            losses.append(loss)
        if losses:
            total += sum(losses) / (len(losses) if reduction == "mean" else 1)
    return total / batch


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 7)),
    smoothing=st.sampled_from([0.0, 0.1, 0.5]),
    reduction=st.sampled_from(["mean", "sum"]),
    seed=st.integers(0, 10**6),
)
def test_equals_naive(shape: tuple[int, int, int], smoothing: float, reduction: LossReduction, seed: int):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(shape, generator=generator)
    targets = torch.randint(shape[2], shape[:2], generator=generator)
    masked = torch.rand(shape[:2], generator=generator) < 0.5
    loss = loss_at_masked(logits, targets, masked, smoothing, reduction)
    assert float(loss) == pytest.approx(naive_loss(logits, targets, masked, smoothing, reduction), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_what_stands_at_unmasked_positions_counts_for_nothing(reduction: LossReduction):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 3, generator=generator)
    other_logits = torch.where(MASKED[..., None], logits, 10 * torch.randn(2, 3, 3, generator=generator))
    other_targets = torch.where(MASKED, TARGETS, (TARGETS + 1) % 3)
    loss = loss_at_masked(logits, TARGETS, MASKED, 0.1, reduction)
    assert torch.equal(loss_at_masked(other_logits, other_targets, MASKED, 0.1, reduction), loss)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradient_is_softmax_less_target_and_zero_where_unmasked(reduction: LossReduction):
    smoothing = 0.1
    logits = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(1)).requires_grad_()
    loss_at_masked(logits, TARGETS, MASKED, smoothing, reduction).backward()
    assert logits.grad is not None
    for row in range(2):
        shared = 2 * (int(MASKED[row].sum()) if reduction == "mean" else 1)
        for place in range(3):
            target = torch.full((3,), smoothing / 3)
            target[TARGETS[row, place]] += 1 - smoothing
            expected = (logits[row, place].detach().softmax(-1) - target) / shared
            if not MASKED[row, place]:
                expected = torch.zeros(3)
                assert torch.equal(logits.grad[row, place], expected)
            torch.testing.assert_close(logits.grad[row, place], expected)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_a_row_without_masked_tokens_adds_nothing(reduction: LossReduction):
    masked = torch.tensor([[False, False, False], [True, False, False]])
    loss = loss_at_masked(HALF_AND_QUARTERS, TARGETS, masked, 0.0, reduction)
    assert float(loss) == pytest.approx(2 * LN2 / 2, rel=1e-6)
    logits = HALF_AND_QUARTERS.clone().requires_grad_()
    nothing = loss_at_masked(logits, TARGETS, torch.zeros_like(masked), 0.0, reduction)
    nothing.backward()
    assert nothing.item() == 0
    assert logits.grad is not None
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_half_precision_logits_are_summed_in_single():
    logits = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    loss = loss_at_masked(logits, TARGETS, MASKED, 0.1, "mean")
    assert loss.dtype == torch.float32
    assert torch.equal(loss, loss_at_masked(logits.float(), TARGETS, MASKED, 0.1, "mean"))


def test_reductions_agree_with_one_masked_token_each():
    masked = torch.tensor([[False, True, False], [False, False, True]])
    logits = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(3))
    mean, total = (loss_at_masked(logits, TARGETS, masked, 0.1, reduction) for reduction in ("mean", "sum"))
    torch.testing.assert_close(mean, total)


# The paper's equations by name, with p written out token by token. Each is a negative log-likelihood of the masked
# positions (m_i = 1): summed in the paper, averaged over them in MaskGIT; the expectation is the mean over images.


def probabilities(rows: list[list[tuple[int, float]]], codes: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits under which each token has its probability, shares of the rest being equal; and the tokens."""
    tokens = torch.tensor([[token for token, _ in row] for row in rows])
    p = torch.stack(
        [torch.stack([torch.full((codes,), (1 - share) / (codes - 1)) for _, share in row]) for row in rows]
    )
    p.scatter_(-1, tokens[..., None], torch.tensor([[share for _, share in row] for row in rows])[..., None])
    return p.log() + 3.0, tokens  # a constant is lost in the softmax


def loss_of(rows: list[list[tuple[int, float]]], mask: list[list[int]], reduction: LossReduction) -> float:
    logits, tokens = probabilities(rows)
    return float(loss_at_masked(logits, tokens, torch.tensor(mask) == 1, 0.0, reduction))


# K = 3 tokens of two images; N = 4 of a 2x2 top; 4N = 16 of its 4x4 bottom. Tokens and their probabilities.
ANY_LEVEL = [[(0, 1 / 2), (4, 1 / 4), (2, 1 / 8)], [(1, 1 / 16), (3, 1 / 2), (3, 1 / 32)]]
TOP = [[(3, 1 / 2), (0, 1 / 4), (1, 1 / 8), (4, 1 / 16)], [(2, 1 / 32), (2, 1 / 2), (0, 1 / 4), (1, 1 / 2)]]
BOTTOM = [[(place % 5, 2.0 ** -(1 + place % 4)) for place in range(16)], [(1, 1 / 4)] * 15 + [(0, 1 / 128)]]
BOTTOM_MASK = [[1, 1, 0, 1, 0, 0, 0, 0, 1, 1, 1, 1, 0, 0, 0, 1], [0] * 15 + [1]]


def test_equation_1_as_the_papers_sum():
    # Masked are 1/2 and 1/8 of the first image, 1/16 of the second: 1 + 3 and 4 bits.
    assert loss_of(ANY_LEVEL, [[1, 0, 1], [1, 0, 0]], "sum") == pytest.approx((4 + 4) / 2 * LN2, rel=1e-6)
    assert loss_of(ANY_LEVEL, [[1, 1, 1], [1, 1, 1]], "sum") == pytest.approx((6 + 10) / 2 * LN2, rel=1e-6)


def test_equation_1_as_maskgits_mean():
    assert loss_of(ANY_LEVEL, [[1, 0, 1], [1, 0, 0]], "mean") == pytest.approx((4 / 2 + 4 / 1) / 2 * LN2, rel=1e-6)
    assert loss_of(ANY_LEVEL, [[1, 1, 1], [1, 1, 1]], "mean") == pytest.approx((6 / 3 + 10 / 3) / 2 * LN2, rel=1e-6)


def test_equation_3_as_the_papers_sum():
    # Bits: 2 + 3 + 4 of the first image, 5 + 1 of the second.
    assert loss_of(TOP, [[0, 1, 1, 1], [1, 1, 0, 0]], "sum") == pytest.approx((9 + 6) / 2 * LN2, rel=1e-6)


def test_equation_3_as_maskgits_mean():
    assert loss_of(TOP, [[0, 1, 1, 1], [1, 1, 0, 0]], "mean") == pytest.approx((9 / 3 + 6 / 2) / 2 * LN2, rel=1e-6)


def test_equation_4_as_the_papers_sum():
    # Bits of the first image, by place: 1 + 2 + 4, then 1 + 2 + 3 + 4, then 4; 7 of the second.
    assert loss_of(BOTTOM, BOTTOM_MASK, "sum") == pytest.approx((7 + 10 + 4 + 7) / 2 * LN2, rel=1e-6)


def test_equation_4_as_maskgits_mean():
    assert loss_of(BOTTOM, BOTTOM_MASK, "mean") == pytest.approx(((7 + 10 + 4) / 8 + 7 / 1) / 2 * LN2, rel=1e-6)


@settings(max_examples=40)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(2, 7)),
    smoothing=st.sampled_from([0.0, 0.1]),
    reduction=st.sampled_from(["mean", "sum"]),
    seed=st.integers(0, 10**6),
)
def test_no_gradient_at_unmasked_positions_and_some_at_masked_ones(
    shape: tuple[int, int, int], smoothing: float, reduction: LossReduction, seed: int
):
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(shape, generator=generator)).requires_grad_()
    targets = torch.randint(shape[2], shape[:2], generator=generator)
    masked = torch.rand(shape[:2], generator=generator) < 0.5
    loss_at_masked(logits, targets, masked, smoothing, reduction).backward()
    assert logits.grad is not None
    assert torch.equal((logits.grad != 0).any(-1), masked)
