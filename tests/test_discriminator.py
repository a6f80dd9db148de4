"""The adversary's blur, its penalty R1 and both sides' losses, against plain loops and closed forms."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from strait.nn.convolution import BlurDownsample
from strait.tokenizer.discriminator import Discriminator, r1_penalty
from strait.tokenizer.losses import (
    adversarial_ramp,
    bottom_kept,
    discriminator_loss,
    generator_loss,
    lecam_penalty,
    pixel_loss,
)


def naive_blur(x: torch.Tensor) -> torch.Tensor:
    """Every other pixel of the convolution with [1, 3, 3, 1] / 8 each way, zeros beyond the edges."""
    batch, channels, height, width = x.shape
    out = torch.zeros(batch, channels, height // 2, width // 2, dtype=x.dtype)
    for down in range(height // 2):
        for right in range(width // 2):
            for i, first in enumerate((1, 3, 3, 1)):
                for j, second in enumerate((1, 3, 3, 1)):
                    y, z = 2 * down + i - 1, 2 * right + j - 1
                    if 0 <= y < height and 0 <= z < width:
                        out[:, :, down, right] += first * second / 64 * x[:, :, y, z]
    return out


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 6)])
def test_the_blur_is_a_plain_convolution(height: int, width: int) -> None:
    x = torch.randn(2, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(BlurDownsample()(x), naive_blur(x))


def test_the_blur_keeps_brightness_and_stops_what_alternates() -> None:
    flat, chequered = torch.ones(1, 1, 8, 8), torch.ones(1, 1, 8, 8)
    chequered[..., ::2] = -1
    inside = (..., slice(1, 3), slice(1, 3))
    torch.testing.assert_close(BlurDownsample()(flat)[inside], torch.ones(1, 1, 2, 2))
    torch.testing.assert_close(BlurDownsample()(chequered)[inside], torch.zeros(1, 1, 2, 2))


@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("size", [4, 8, 32])
def test_one_logit_an_image(size: int, normalize: bool) -> None:
    torch.manual_seed(0)
    network = Discriminator(size, 4, 8, normalize)
    images = torch.rand(3, 3, size, size) * 2 - 1
    logits = network(images)
    assert logits.shape == (3,)
    torch.testing.assert_close(network(images[1:2]), logits[1:2])  # an image is judged alone
    assert len(network.blocks) == int(math.log2(size)) - 2
    assert any(isinstance(module, nn.GroupNorm) for module in network.modules()) == (normalize and size > 4)


def leaky(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, 0.2 * x)


@pytest.mark.parametrize("normalize", [True, False])
def test_the_network_is_stylegans_with_a_slope_of_a_fifth(normalize: bool) -> None:
    """Each block: two convolutions, the blur between them, beside a blurred 1x1 shortcut; their sum over sqrt 2."""
    torch.manual_seed(0)
    network = Discriminator(8, 4, 8, normalize)
    (block,) = network.blocks
    assert isinstance(block.norm1, nn.GroupNorm) == isinstance(block.norm2, nn.GroupNorm) == normalize
    images = torch.rand(3, 3, 8, 8) * 2 - 1
    x = leaky(network.conv_in(images))
    hidden = naive_blur(leaky(block.norm1(block.conv1(x))))
    shortcut = torch.einsum("oi,bihw->bohw", block.shortcut.weight[:, :, 0, 0], naive_blur(x))
    x = (leaky(block.norm2(block.conv2(hidden))) + shortcut) / math.sqrt(2)
    x = leaky(network.hidden(leaky(network.conv_out(x)).flatten(1)))
    torch.testing.assert_close(network(images), network.logit(x)[:, 0], atol=1e-5, rtol=1e-5)


def test_the_width_doubles_up_to_its_limit() -> None:
    network = Discriminator(64, 8, 32, True)
    widths = [network.conv_in.out_channels, *(block.conv2.out_channels for block in network.blocks)]
    assert widths == [8, 16, 32, 32, 32]
    assert all(
        block.conv1.in_channels == first for block, (first, _) in zip(network.blocks, pairwise(widths), strict=True)
    )


@pytest.mark.parametrize("size", [1, 2, 3, 6, 12, 48, 65])
def test_a_size_that_does_not_halve_down_to_4_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"image_size: {size} must be 4 times a power of two"):
        Discriminator(size, 4, 8, True)


class LinearJudge(nn.Module):
    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, size, size, generator=torch.Generator().manual_seed(4)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return (images * self.weight).sum((1, 2, 3)) + 3


def test_r1_of_a_linear_judge_is_four_times_its_squared_weights() -> None:
    judge = LinearJudge()
    images = torch.rand(5, 3, 4, 4) * 2 - 1
    penalty = r1_penalty(judge, images)
    torch.testing.assert_close(penalty, 4 * judge.weight.square().sum())
    penalty.backward()
    torch.testing.assert_close(judge.weight.grad, 8 * judge.weight.detach())
    assert not images.requires_grad
    assert images.grad is None


def test_r1_is_measured_on_images_from_0_to_1() -> None:
    judge = LinearJudge()
    unit = torch.rand(2, 3, 4, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(judge(2 * unit - 1).sum(), unit)
    expected = gradient.square().sum((1, 2, 3)).mean()
    torch.testing.assert_close(r1_penalty(judge, 2 * unit.detach() - 1), expected)


def test_r1_averages_over_images() -> None:
    class Bowl(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.square().sum((1, 2, 3)) / 2  # its gradient is the image itself

    images = torch.rand(5, 3, 4, 4)
    torch.testing.assert_close(r1_penalty(Bowl(), images), 4 * images.square().sum((1, 2, 3)).mean())


def test_r1_does_not_round_under_autocast() -> None:
    torch.manual_seed(0)
    judge, images = Discriminator(8, 4, 8, True), torch.rand(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        penalty = r1_penalty(judge, images)
    assert penalty.dtype == torch.float32
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(judge(leaf).sum(), leaf)
    torch.testing.assert_close(penalty, 4 * gradient.square().sum((1, 2, 3)).mean())
    penalty.backward()
    # The last bias shifts the logits alone; everything else shapes the gradient.
    grown = {name for name, p in judge.named_parameters() if p.grad is not None and bool(p.grad.any())}
    assert {"conv_in.weight", "blocks.0.conv1.weight", "hidden.weight", "logit.weight"} <= grown
    assert "logit.bias" not in grown


REAL, FAKE = [2.0, -0.5, 0.0], [1.5, -3.0, 0.25]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def test_the_non_saturating_losses() -> None:
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    call_real = mean([-math.log(1 / (1 + math.exp(-x))) for x in REAL])  # -log sigmoid
    call_fake = mean([-math.log(1 - 1 / (1 + math.exp(-x))) for x in FAKE])
    fooled = mean([-math.log(1 / (1 + math.exp(-x))) for x in FAKE])
    assert float(discriminator_loss(real, fake, "non-saturating")) == pytest.approx(call_real + call_fake)
    assert float(generator_loss(fake, "non-saturating")) == pytest.approx(fooled)
    undecided = torch.zeros(4)
    assert float(discriminator_loss(undecided, undecided, "non-saturating")) == pytest.approx(2 * math.log(2))
    assert math.isfinite(float(generator_loss(torch.tensor([-1e4]), "non-saturating")))


def test_the_hinge_losses() -> None:
    real, fake = torch.tensor(REAL), torch.tensor(FAKE)
    expected = mean([max(0, 1 - x) for x in REAL]) + mean([max(0, 1 + x) for x in FAKE])
    assert float(discriminator_loss(real, fake, "hinge")) == pytest.approx(expected)
    assert float(generator_loss(fake, "hinge")) == pytest.approx(-mean(FAKE))
    assert float(discriminator_loss(torch.tensor([1.0, 3.0]), torch.tensor([-1.0, -2.0]), "hinge")) == 0


@pytest.mark.parametrize("kind", ["non-saturating", "hinge"])
def test_the_two_sides_pull_against_each_other(kind) -> None:
    real, fake = torch.zeros(3, requires_grad=True), torch.zeros(3, requires_grad=True)
    discriminator_loss(real, fake, kind).backward()
    assert bool((real.grad < 0).all())
    assert bool((fake.grad > 0).all())
    fake.grad = None
    generator_loss(fake, kind).backward()
    assert bool((fake.grad < 0).all())


def test_the_adversary_comes_in_by_a_ramp() -> None:
    shares = [adversarial_ramp(progress, 0.4, 0.2) for progress in (0, 0.39, 0.4, 0.45, 0.5, 0.6, 1)]
    assert shares == pytest.approx([0, 0, 0, 0.25, 0.5, 1, 1])
    assert [adversarial_ramp(progress, 0.4, 0) for progress in (0.39, 0.4, 1)] == [0, 1, 1]
    assert adversarial_ramp(0, 0, 0) == 1  # the paper's: from the first step


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_the_ramp_never_falls(start: float, ramp: float, first: float, second: float) -> None:
    earlier, later = sorted((first, second))
    assert 0 <= adversarial_ramp(earlier, start, ramp) <= adversarial_ramp(later, start, ramp) <= 1


def test_lecam_holds_logits_near_the_other_sides_mean() -> None:
    real_mean, fake_mean = 0.5, -1.0
    expected = mean([max(0, x - fake_mean) ** 2 for x in REAL]) + mean([max(0, real_mean - x) ** 2 for x in FAKE])
    penalty = lecam_penalty(torch.tensor(REAL), torch.tensor(FAKE), torch.tensor(real_mean), torch.tensor(fake_mean))
    assert float(penalty) == pytest.approx(expected)


def test_pixel_losses_are_those_of_images_from_0_to_1() -> None:
    reconstructions, images = torch.tensor([[-1.0, 0.5]]), torch.tensor([[1.0, 0.0]])
    assert float(pixel_loss(reconstructions, images, "l1")) == pytest.approx((1 + 0.25) / 2)
    assert float(pixel_loss(reconstructions, images, "l2")) == pytest.approx((1 + 0.0625) / 2)
    assert pixel_loss(reconstructions.bfloat16(), images.bfloat16(), "l2").dtype == torch.float32


def test_the_bottom_is_dropped_as_often_as_asked() -> None:
    draws = (torch.arange(1000) + 0.5) / 1000
    assert int(bottom_kept(draws, 0.4).sum()) == 600
    assert bool(bottom_kept(draws, 0.0).all())
