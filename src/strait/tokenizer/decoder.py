"""G: quantized features to pixels. MaskGIT's decoder, with the fusion at the bottom's resolution.

Source: StraIT section 3.1, Table 11.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strait.nn.convolution import ResidualBlock, Upsample, conv3, group_norm
from strait.tokenizer.config import TokenizerConfig
from strait.tokenizer.fusion import DeepConcatFusion, ResidualFusion, ShallowConcatFusion, SingleFusion
from strait.types import Images


def _fusion(config: TokenizerConfig, width: int, res_blocks: int) -> nn.Module:
    # MaskGIT's decoder has res_blocks in the middle and as many at the coarsest resolution.
    blocks = 2 * res_blocks
    if config.kind == "vqgan2-r":
        return ResidualFusion(config.code_dim, width, blocks, config.zero_init_bottom)
    if config.kind == "vqgan2-c-deep":
        return DeepConcatFusion(config.code_dim, width, blocks)
    if config.kind == "vqgan2-c-shallow":
        return ShallowConcatFusion(config.code_dim, width, blocks)
    return SingleFusion(config.code_dim, width, blocks)


class PixelHead(nn.Module):
    """Features of patches to pixels: ``[batch, width, h, w]`` -> ``[batch, 3, patch h, patch w]``.

    Depth to space in steps of two, with convolutions at each resolution: a single step of four, without convolutions
    at full resolution, leaves the grid of the patches in the image.
    """

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.raises, self.refines = nn.ModuleList(), nn.ModuleList()
        for _ in range(patch.bit_length() - 1):
            narrower = max(width // 2, 16)
            self.raises.append(_depth_to_space_conv(width, narrower))
            self.refines.append(conv3(narrower, narrower))
            width = narrower
        self.pixels = conv3(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        for expand, refine in zip(self.raises, self.refines, strict=True):
            x = F.silu(F.pixel_shuffle(expand(x), 2))
            x = x + refine(x)
        return self.pixels(F.silu(x))


def _depth_to_space_conv(inputs: int, outputs: int) -> nn.Conv2d:
    """A convolution for depth to space whose four positions start with equal weights: no checkerboard."""
    conv = conv3(inputs, 4 * outputs)
    with torch.no_grad():
        conv.weight.copy_(conv.weight[::4].repeat_interleave(4, 0))
        assert conv.bias is not None
        conv.bias.copy_(conv.bias[::4].repeat_interleave(4, 0))
    return conv


class Decoder(nn.Module):
    """Top codes ``[batch, code_dim, h, w]`` and bottom codes (none for one level) ``[batch, code_dim, 2h, 2w]``
    -> images ``[batch, 3, f h, f w]``.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        res_blocks = config.decoder_blocks or config.res_blocks
        self.fusion = _fusion(config, widths[-1], res_blocks)
        self.resolutions = nn.ModuleList()
        self.upsamplings = nn.ModuleList()
        inputs = widths[-1]
        for index in reversed(range(len(widths) - 1)):
            width = widths[index]
            blocks = [ResidualBlock(inputs if i == 0 else width, width) for i in range(res_blocks)]
            self.resolutions.append(nn.Sequential(*blocks))
            self.upsamplings.append(Upsample(width, width) if index > 0 else nn.Identity())
            inputs = width
        self.norm_out = group_norm(inputs)
        self.conv_out = conv3(inputs, 3) if config.patch == 1 else PixelHead(inputs, config.patch)

    def forward(self, top: Tensor, bottom: Tensor | None) -> Images:
        x = self.fusion(top, bottom)
        for blocks, up in zip(self.resolutions, self.upsamplings, strict=True):
            x = up(blocks(x))
        return self.conv_out(F.silu(self.norm_out(x)))
