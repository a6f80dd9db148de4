"""The adversary of stage 1: StyleGAN's residual discriminator with blur resampling, and its penalty R1.

Source: StraIT Table 11 (StyleGAN discriminator, blur resampling, GroupNorm); MaskGIT's VQGAN.
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strait.nn.convolution import BlurDownsample, conv3, group_norm
from strait.types import Images


def _norm(channels: int, normalize: bool) -> nn.Module:
    return group_norm(channels) if normalize else nn.Identity()


class _Block(nn.Module):
    """Halves the resolution: two convolutions beside a 1x1 shortcut, both blurred, their sum at unit variance."""

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
    """Images ``[batch, 3, size, size]`` -> one logit each ``[batch]``; positive means "real".

    Args:
        image_size: side in pixels; halved down to 4.
        channels: width of the first layer, doubled with each halving.
        max_channels: where the doubling stops.
        normalize: GroupNorm as in Table 11; False for none, as in StyleGAN.
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
    """R1: the mean squared gradient of the logits with respect to real images, in units of [0, 1] images.

    The paper's cost of 10 is for images in [0, 1]. A gradient with respect to ours, which span [-1, 1], is half as
    long, so its square is multiplied by 4 (docs/choices.md).
    """
    real = real.detach().requires_grad_(True)
    with torch.autocast(real.device.type, enabled=False):
        logits = discriminator(real.float())
        (gradient,) = torch.autograd.grad(logits.sum(), real, create_graph=True)
    return 4 * gradient.square().flatten(1).sum(1).mean()
