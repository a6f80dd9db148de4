"""How the decoder joins the two levels: VQGAN2-R and VQGAN2-C.

In the paper they differ only in this, and it determines which level carries the image. Each fusion upsamples the top
codes to twice their resolution and joins them with the bottom codes.
Source: StraIT section 3.1 and appendix B; docs/choices.md for what they leave open.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from strait.nn.convolution import ResidualBlock, Upsample, conv3, upsample


def _stem(code_dim: int, width: int, blocks: int) -> nn.Sequential:
    """Top codes ``[b, code_dim, h, w]`` -> ``[b, width, 2h, 2w]``: the decoder's middle and first resolution."""
    return nn.Sequential(
        conv3(code_dim, width), *[ResidualBlock(width, width) for _ in range(blocks)], Upsample(width, width)
    )


class ResidualFusion(nn.Module):
    """VQGAN2-R, stratified residual fusion: upsample the top, add the bottom onto it.

    The bottom's projection has no bias, so a bottom of zeros equals no bottom; its weights can start at zero.
    """

    def __init__(self, code_dim: int, width: int, blocks: int, zero_init: bool) -> None:
        super().__init__()
        self.stem = _stem(code_dim, width, blocks)
        self.bottom = conv3(code_dim, width, bias=False)
        if zero_init:
            nn.init.zeros_(self.bottom.weight)

    def forward(self, top: Tensor, bottom: Tensor) -> Tensor:
        """Codes ``[b, code_dim, h, w]`` and ``[b, code_dim, 2h, 2w]`` -> ``[b, width, 2h, 2w]``."""
        return self.stem(top) + self.bottom(bottom)


class DeepConcatFusion(nn.Module):
    """VQGAN2-C with the stem of VQGAN2-R: upsample the top, then concatenate the bottom codes."""

    def __init__(self, code_dim: int, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = _stem(code_dim, width, blocks)
        self.join = conv3(width + code_dim, width)

    def forward(self, top: Tensor, bottom: Tensor) -> Tensor:
        """Codes ``[b, code_dim, h, w]`` and ``[b, code_dim, 2h, 2w]`` -> ``[b, width, 2h, 2w]``."""
        return self.join(torch.cat([self.stem(top), bottom], dim=1))


class ShallowConcatFusion(nn.Module):
    """VQGAN2-C as in VQVAE-2: one upsampling convolution on the top codes, concatenation, then residual blocks."""

    def __init__(self, code_dim: int, width: int, blocks: int) -> None:
        super().__init__()
        self.up = conv3(code_dim, code_dim)
        self.join = conv3(2 * code_dim, width)
        self.blocks = nn.Sequential(*[ResidualBlock(width, width) for _ in range(blocks)])

    def forward(self, top: Tensor, bottom: Tensor) -> Tensor:
        """Codes ``[b, code_dim, h, w]`` and ``[b, code_dim, 2h, 2w]`` -> ``[b, width, 2h, 2w]``."""
        raised = self.up(upsample(top))
        return self.blocks(self.join(torch.cat([raised, bottom], dim=1)))


class SingleFusion(nn.Module):
    """The stem alone, for the single-scale VQGAN, which has no bottom."""

    def __init__(self, code_dim: int, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = _stem(code_dim, width, blocks)

    def forward(self, top: Tensor, bottom: Tensor | None = None) -> Tensor:
        """Codes ``[b, code_dim, h, w]`` -> ``[b, width, 2h, 2w]``."""
        return self.stem(top)
