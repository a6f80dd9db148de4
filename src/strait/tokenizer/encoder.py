"""E: pixels to features at two resolutions, downsampled by f / 2 and f (8 and 16 in the paper).

MaskGIT's encoder: residual blocks and average pooling, no attention. With ``tokenizer.patch`` its input is squares of
pixels. Source: StraIT section 3.1, Table 11; the patches are ours (docs/choices.md).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from strait.nn.convolution import ResidualBlock, conv3, downsample, group_norm
from strait.tokenizer.config import TokenizerConfig
from strait.types import Images


def check_images(images: Images, downsampling: int) -> None:
    """Check the images' shape.

    Raises:
        ValueError: if it is not ``[batch, 3, height, width]`` with sides that the downsampling divides.
    """
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images: expected [batch, 3, height, width], not {tuple(images.shape)}")
    if images.shape[2] % downsampling or images.shape[3] % downsampling:
        raise ValueError(
            f"images: {images.shape[2]}x{images.shape[3]} is not a multiple of the downsampling {downsampling}"
        )


class Encoder(nn.Module):
    """Images ``[batch, 3, height, width]`` -> (fine features ``[batch, c, 2h, 2w]`` for the bottom level, top features
    ``[batch, code_dim, h, w]``), where h = height / f.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        self.patch = config.patch
        self.conv_in = conv3(3 * config.patch**2, widths[0], bias=False)
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
        x = fine = self.conv_in(F.pixel_unshuffle(images, self.patch))
        for index, blocks in enumerate(self.resolutions):
            if index > 0:
                fine = x
                x = downsample(x)
            x = blocks(x)
        x = self.middle(x)
        return fine, self.conv_out(F.silu(self.norm_out(x)))
