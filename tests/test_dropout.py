"""Dropout drawn four elements at a time is dropout: its rate, its independence, its gradient, its generator."""

from __future__ import annotations

import math

import pytest
import torch

from strait.nn.attention import attend
from strait.nn.dropout import Dropout, dropout
from strait.runtime.devices import can_compile


@pytest.mark.parametrize("rate", [0.001, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_elements_are_dropped_at_the_rate_and_scaled(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    count = 400_003
    output = dropout(torch.ones(count, dtype=dtype), rate)
    dropped = (output == 0).double().mean().item()
    assert output.dtype == dtype
    assert dropped == pytest.approx(rate, abs=4 * math.sqrt(rate * (1 - rate) / count) + 2**-17)
    kept = output[output != 0].unique()
    assert kept.tolist() == pytest.approx([1 / (1 - rate)], rel=2**-8 if dtype == torch.bfloat16 else 1e-3)


def test_the_four_elements_of_one_draw_are_independent() -> None:
    """Each of the sixteen combinations as often as four coins give it."""
    torch.manual_seed(1)
    draws = 200_000
    dropped = (dropout(torch.ones(draws, 4), 0.3) == 0).long()
    tally = torch.bincount((dropped * torch.tensor([8, 4, 2, 1])).sum(-1), minlength=16).double()
    ones = torch.tensor([bin(number).count("1") for number in range(16)], dtype=torch.float64)
    expected = draws * 0.3**ones * 0.7 ** (4 - ones)
    assert ((tally - expected).square() / expected).sum().item() < 44.3  # chi-squared, 15 degrees, one in ten thousand


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (2, 3, 4, 5), (0, 4)])
def test_any_shape_keeps_it(shape: tuple[int, ...]) -> None:
    assert dropout(torch.ones(shape), 0.5).shape == shape


def test_the_gradient_is_that_of_what_was_kept() -> None:
    torch.manual_seed(2)
    x = torch.randn(1001, requires_grad=True)
    output = dropout(x, 0.25)
    output.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad * x, output.detach(), atol=1e-6, rtol=1e-6)


def test_it_repeats_with_torchs_seed() -> None:
    def draw() -> list[bool]:
        torch.manual_seed(3)
        return (dropout(torch.ones(50), 0.5) == 0).tolist() + (dropout(torch.ones(50), 0.5) == 0).tolist()

    first = draw()
    assert first == draw()
    assert first[:50] != first[50:]


def test_only_training_drops() -> None:
    layer, x = Dropout(0.5), torch.ones(64)
    assert (layer.train()(x) == 0).any()
    assert layer.eval()(x) is x
    assert Dropout(0.0).train()(x) is x


@pytest.mark.slow
def test_compiled_it_draws_the_same() -> None:
    x = torch.randn(33, 7, requires_grad=True)
    torch.manual_seed(6)
    plain = dropout(x, 0.3)
    torch.manual_seed(6)
    compiled = torch.compile(dropout, dynamic=False)(x, 0.3)
    assert torch.equal(compiled, plain)
    (gradient,) = torch.autograd.grad(compiled.square().sum(), x)
    torch.testing.assert_close(gradient * x, 2 * plain.detach().square())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_drops_weights(dtype: torch.dtype) -> None:
    """Beside its softmax by hand under the same draws; and over many draws it is attention without any."""
    torch.manual_seed(4)
    query, key, value = (torch.randn(2, length, 3, 8).transpose(1, 2).to(dtype) for length in (5, 9, 9))
    scores = query.double() @ key.double().mT / math.sqrt(8)
    exact = scores.softmax(-1) @ value.double()
    torch.manual_seed(5)
    output = attend(query, key, value, 0.4)
    torch.manual_seed(5)
    kept = dropout(torch.ones(2, 3, 5, 9), 0.4).double()
    by_hand = ((scores.softmax(-1) * kept) @ value.double()).transpose(1, 2).flatten(-2)
    close = 0.05 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(output.double(), by_hand, atol=close, rtol=close)
    mean = torch.stack([attend(query, key, value, 0.4).double() for _ in range(3000)]).mean(0)
    torch.testing.assert_close(mean, exact.transpose(1, 2).flatten(-2), atol=0.08, rtol=0)


def test_compiled_code_is_not_divided_by_it_and_repeats_with_torchs_seed() -> None:
    if not can_compile(torch.device("cpu")):
        pytest.skip("no C++ compiler")

    def draw() -> torch.Tensor:
        torch.manual_seed(4)
        return compiled(torch.ones(100_000))

    compiled = torch.compile(Dropout(0.25), fullgraph=True)  # raises where the graph breaks
    dropped = (draw() == 0).double().mean().item()
    assert dropped == pytest.approx(0.25, abs=0.006)
    assert torch.equal(draw(), draw())
