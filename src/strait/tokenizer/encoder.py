"""E: pixels to features at f and 2f (the paper's 8 and 16).

MaskGIT's encoder: residual blocks and average pooling, no attention. Source: StraIT section 3.1, Table 11.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from strait.nn.convolution import ResidualBlock, conv3, downsample, group_norm
from strait.tokenizer.config import TokenizerConfig
from strait.types import Images


class Encoder(nn.Module):
    """Images ``[batch, 3, height, width]`` -> (fine features ``[batch, c, 2h, 2w]``, top features
    ``[batch, code_dim, h, w]``), where h = height / f. The fine features are what the bottom level refines from.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        self.conv_in = conv3(3, widths[0], bias=False)
        self.resolutions = nn.ModuleList()
        inputs = widths[0]
        for width in widths:
            blocks = [ResidualBlock(inputs if i == 0 else width, width) for i in range(config.res_blocks)]
            self.resolutions.append(nn.Sequential(*blocks))
            inputs = width
        self.middle = nn.Sequential(*[ResidualBlock(inputs, inputs) for _ in range(config.res_blocks)])
        self.norm_out = group_norm(inputs)
        self.conv_out = nn.Conv2d(inputs, config.code_dim, 1)
        self.fine_width = widths[-2]

    def forward(self, images: Images) -> tuple[Tensor, Tensor]:
        x = fine = self.conv_in(images)
        for index, blocks in enumerate(self.resolutions):
            if index > 0:
                fine = x
                x = downsample(x)
            x = blocks(x)
        x = self.middle(x)
        return fine, self.conv_out(F.silu(self.norm_out(x)))
