"""Generic convolutional blocks: MaskGIT's residual blocks, up- and downsampling."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm with 32 groups, or fewer in narrow layers, so that each group has at least four channels.

    A group of one channel loses that channel's scale: with such groups our decoders lost colours and drew a bright
    spot (docs/choices.md).
    """
    groups = math.gcd(32, channels)
    while groups > 1 and channels // groups < 4:
        groups //= 2
    return nn.GroupNorm(groups, channels, eps=1e-6)


def full_precision_convolutions() -> AbstractContextManager[object]:
    """Disable TF32 in convolutions on a GPU, without changing other flags: its mantissa of ten bits would change
    tokens and pixels."""
    cudnn = torch.backends.cudnn
    return cudnn.flags(
        enabled=cudnn.enabled,
        benchmark=cudnn.benchmark,
        benchmark_limit=cudnn.benchmark_limit,
        deterministic=cudnn.deterministic,
        allow_tf32=False,
    )


def training_format(device: torch.device, compiled: bool) -> torch.memory_format:
    """The memory format to train in: channels last, except for eager code on a CPU, where the backward pass of
    GroupNorm is slow on channels-last tensors."""
    return torch.channels_last if compiled or device.type == "cuda" else torch.contiguous_format


def conv3(inputs: int, outputs: int, bias: bool = True) -> nn.Conv2d:
    """A 3x3 convolution that keeps height and width."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias)


class ResidualBlock(nn.Module):
    """GroupNorm, swish, conv3, twice, with a true residual: ``[batch, inputs, h, w]`` -> ``[batch, outputs, h, w]``.

    MaskGIT takes its 1x1 shortcut from the branch's output, which drops the residual where channels change; ours
    takes it from the input (docs/choices.md).
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = group_norm(inputs)
        self.conv1 = conv3(inputs, outputs, bias=False)
        self.norm2 = group_norm(outputs)
        self.conv2 = conv3(outputs, outputs, bias=False)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return self.shortcut(x) + hidden


class Upsample(nn.Module):
    """Nearest x2, then conv3: ``[batch, inputs, h, w]`` -> ``[batch, outputs, 2h, 2w]``."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = conv3(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(upsample(x))


def upsample(x: Tensor) -> Tensor:
    """Nearest x2: ``[batch, c, h, w]`` -> ``[batch, c, 2h, 2w]``.

    Not ``F.interpolate``: compiled for a CPU, its gradient in the decoder was zero (torch 2.13).
    """
    batch, channels, height, width = x.shape
    spread = x[:, :, :, None, :, None].expand(batch, channels, height, 2, width, 2)
    return spread.reshape(batch, channels, 2 * height, 2 * width)


def downsample(x: Tensor) -> Tensor:
    """Average over 2x2 pixels: ``[batch, c, 2h, 2w]`` -> ``[batch, c, h, w]``."""
    return F.avg_pool2d(x, 2)


class BlurDownsample(nn.Module):
    """Blur with the separable filter [1, 3, 3, 1] and halve the resolution, as in StyleGAN's discriminator.

    Computed by products with banded matrices: the gradient of a depthwise convolution is many times slower in bfloat16
    on a CPU (``benchmarks/blocks.py``).
    """

    taps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("taps", torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return self._bands(height).to(x.dtype).T @ (x @ self._bands(width).to(x.dtype))

    def _bands(self, size: int) -> Tensor:
        """The matrix that blurs and halves a side: ``[size, size / 2]``."""
        pixels = torch.eye(size, device=self.taps.device)[:, None]
        return F.conv1d(pixels, self.taps[None, None], stride=2, padding=1)[:, 0]
