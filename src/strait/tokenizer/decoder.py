"""G: quantized features to pixels. MaskGIT's decoder, with the fusion where the bottom's resolution is reached.

Source: StraIT section 3.1, Table 11.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from strait.nn.convolution import ResidualBlock, Upsample, conv3, group_norm
from strait.tokenizer.config import TokenizerConfig
from strait.tokenizer.fusion import DeepConcatFusion, ResidualFusion, ShallowConcatFusion, SingleFusion
from strait.types import Images


def _fusion(config: TokenizerConfig, width: int) -> nn.Module:
    # MaskGIT's decoder has res_blocks in the middle and as many at the coarsest resolution.
    blocks = 2 * config.res_blocks
    if config.kind == "vqgan2-r":
        return ResidualFusion(config.code_dim, width, blocks, config.zero_init_bottom)
    if config.kind == "vqgan2-c-deep":
        return DeepConcatFusion(config.code_dim, width, blocks)
    if config.kind == "vqgan2-c-shallow":
        return ShallowConcatFusion(config.code_dim, width, blocks)
    return SingleFusion(config.code_dim, width, blocks)


class Decoder(nn.Module):
    """Top codes ``[batch, code_dim, h, w]`` and bottom codes (none for one level) ``[batch, code_dim, 2h, 2w]``
    -> images ``[batch, 3, f h, f w]``.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        self.fusion = _fusion(config, widths[-1])
        self.resolutions = nn.ModuleList()
        self.upsamplings = nn.ModuleList()
        inputs = widths[-1]
        for index in reversed(range(len(widths) - 1)):
            width = widths[index]
            blocks = [ResidualBlock(inputs if i == 0 else width, width) for i in range(config.res_blocks)]
            self.resolutions.append(nn.Sequential(*blocks))
            self.upsamplings.append(Upsample(width, width) if index > 0 else nn.Identity())
            inputs = width
        self.norm_out = group_norm(inputs)
        self.conv_out = conv3(inputs, 3)

    def forward(self, top: Tensor, bottom: Tensor | None) -> Images:
        x = self.fusion(top, bottom)
        for blocks, up in zip(self.resolutions, self.upsamplings, strict=True):
            x = up(blocks(x))
        return self.conv_out(F.silu(self.norm_out(x)))
