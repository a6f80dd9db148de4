"""Discriminators of stage 1: StyleGAN's, with blur resampling and the penalty R1, and a projected one.

Source: StraIT Table 11 (StyleGAN discriminator, blur resampling, GroupNorm); MaskGIT's VQGAN. The projected one is
beyond the paper: Projected GAN (Sauer et al. 2021) without its random projections; docs/choices.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from strait.nn.convolution import BlurDownsample, conv3, group_norm
from strait.types import Images


def _norm(channels: int, normalize: bool) -> nn.Module:
    return group_norm(channels) if normalize else nn.Identity()


class _Block(nn.Module):
    """Halves the resolution: two convolutions plus a 1x1 shortcut, both blurred, scaled to keep the variance."""

    def __init__(self, inputs: int, outputs: int, normalize: bool) -> None:
        super().__init__()
        self.conv1 = conv3(inputs, inputs)
        self.norm1 = _norm(inputs, normalize)
        self.conv2 = conv3(inputs, outputs)
        self.norm2 = _norm(outputs, normalize)
        self.down = BlurDownsample()
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.leaky_relu(self.norm1(self.conv1(x)), 0.2)
        hidden = F.leaky_relu(self.norm2(self.conv2(self.down(hidden))), 0.2)
        return (hidden + self.shortcut(self.down(x))) / math.sqrt(2)


class Discriminator(nn.Module):
    """StyleGAN's: images ``[batch, 3, size, size]`` -> logits ``[batch]``; positive means "real".

    Args:
        image_size: side in pixels; halved down to 4.
        channels: width of the first layer, doubled with each halving.
        max_channels: where the doubling stops.
        normalize: use GroupNorm, as in Table 11 (StyleGAN has none).
    """

    def __init__(self, image_size: int, channels: int, max_channels: int, normalize: bool) -> None:
        super().__init__()
        halvings = max(image_size // 4, 1).bit_length() - 1
        if image_size != 4 * 2**halvings:
            raise ValueError(f"image_size: {image_size} must be 4 times a power of two for the discriminator")
        widths = [min(channels * 2**index, max_channels) for index in range(halvings + 1)]
        self.conv_in = conv3(3, widths[0])
        self.blocks = nn.Sequential(*[_Block(inputs, outputs, normalize) for inputs, outputs in pairwise(widths)])
        self.conv_out = conv3(widths[-1], widths[-1])
        self.hidden = nn.Linear(widths[-1] * 16, widths[-1])
        self.logit = nn.Linear(widths[-1], 1)

    def forward(self, images: Images) -> Tensor:
        x = F.leaky_relu(self.conv_in(images), 0.2)
        x = F.leaky_relu(self.conv_out(self.blocks(x)), 0.2)
        x = F.leaky_relu(self.hidden(x.flatten(1)), 0.2)
        return self.logit(x).squeeze(-1)


def r1_penalty(discriminator: nn.Module, real: Images) -> Tensor:
    """R1: the mean squared gradient of the logits with respect to real images, in units of images in [0, 1].

    The paper's cost of 10 is for images in [0, 1]. The gradient with respect to ours in [-1, 1] is half as large, so
    its square is multiplied by 4 (docs/choices.md).
    """
    real = real.detach().requires_grad_(True)
    with torch.autocast(real.device.type, enabled=False):
        logits = discriminator(real.float())
        (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return 4 * gradient.square().flatten(1).sum(1).mean()


class ProjectedDiscriminator(nn.Module):
    """One head with spectral norms for each stage of a frozen network's features, and optionally one for the images.

    Args:
        widths: channels of the stages.
        channels: width of the heads.
        pixels: whether images follow the features, for a head of their own.
    """

    def __init__(self, widths: Sequence[int], channels: int, pixels: bool = False) -> None:
        super().__init__()
        heads: list[nn.Module] = [_Head(width, channels) for width in widths]
        if pixels:
            heads.append(_PixelHead(channels))
        self.heads = nn.ModuleList(heads)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Features ``[batch, c, h, w]`` (then images) -> logits ``[batch, h, w]`` of each head; positive means
        "real"."""
        return [head(stage) for head, stage in zip(self.heads, features, strict=True)]


class _Head(nn.Module):
    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.project = spectral_norm(nn.Conv2d(inputs, channels, 1))
        self.conv = spectral_norm(nn.Conv2d(channels, channels, 3, padding=1))
        self.logit = spectral_norm(nn.Conv2d(channels, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        x = F.leaky_relu(self.project(features), 0.2)
        x = F.leaky_relu(self.conv(x), 0.2)
        return self.logit(x).squeeze(1)


class _PixelHead(nn.Module):
    """Sees 18x18 pixels: patterns that are finer than the strides of the frozen network."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                spectral_norm(nn.Conv2d(3, channels // 2, 4, 2, padding=1)),
                spectral_norm(nn.Conv2d(channels // 2, channels, 4, 2, padding=1)),
                spectral_norm(nn.Conv2d(channels, channels, 3, padding=1)),
            ]
        )
        self.logit = spectral_norm(nn.Conv2d(channels, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        x = images
        for conv in self.convs:
            x = F.leaky_relu(conv(x), 0.2)
        return self.logit(x).squeeze(1)
