"""VQGAN2: the stratified tokenizer. An image is encoded as a short complex top grid and a long simple bottom grid.

Source: StraIT section 3.1, Figure 3, appendix B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from strait.nn.convolution import ResidualBlock, Upsample, conv3, full_precision_convolutions, group_norm
from strait.tokenizer.config import TokenizerConfig
from strait.tokenizer.decoder import Decoder
from strait.tokenizer.encoder import Encoder, check_images
from strait.tokenizer.quantizer import Codebook, Quantized
from strait.types import Images, StratifiedTokens, Tokens

if TYPE_CHECKING:  # only training needs it
    from strait.tokenizer.code_noise import CodeNoise


@dataclass(frozen=True)
class Reconstruction:
    """The result of a training pass: reconstructions, and the quantized levels, coarse to fine."""

    images: Images
    levels: tuple[Quantized, ...]


class LatentConditional(nn.Module):
    """Bottom features given the top: the quantized top through residual blocks, upsampled and concatenated with the
    fine features.

    Top codes ``[b, code_dim, h, w]`` and fine features ``[b, c, 2h, 2w]`` -> ``[b, code_dim, 2h, 2w]``.
    """

    def __init__(self, config: TokenizerConfig, fine_width: int) -> None:
        super().__init__()
        width = config.channels * config.multipliers[-1]
        self.conv_in = conv3(config.code_dim, width)
        self.blocks = nn.Sequential(*[ResidualBlock(width, width) for _ in range(config.stem_blocks)])
        self.up = Upsample(width, width)
        self.join = conv3(width + fine_width, fine_width)
        self.norm_out = group_norm(fine_width)
        self.conv_out = nn.Conv2d(fine_width, config.code_dim, 1)

    def forward(self, top: Tensor, fine: Tensor) -> Tensor:
        raised = self.up(self.blocks(self.conv_in(top)))
        joined = self.join(torch.cat([raised, fine.to(raised.dtype)], dim=1))
        return self.conv_out(nn.functional.silu(self.norm_out(joined)))


class StratifiedTokenizer(nn.Module):
    """Images <-> ``StratifiedTokens``, with a shared codebook or two."""

    levels = 2

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        if config.num_levels != 2:
            raise ValueError(f"tokenizer.kind: {config.kind!r} is a single scale; use VQGAN")
        self.config = config
        self.encoder = Encoder(config)
        self.latent = LatentConditional(config, self.encoder.fine_width)
        sizes = [config.codebook_size]
        if config.bottom_codebook_size is not None:
            sizes.append(config.bottom_codebook_size)
        self.codebooks = nn.ModuleList(Codebook(size, config.code_dim, config.normalize_codes) for size in sizes)
        self.decoder = Decoder(config)

    def codebook_index(self, level: int) -> int:
        """Which of ``codebooks`` a level uses."""
        return min(level, len(self.codebooks) - 1)

    def codebook(self, level: int) -> Codebook:
        codebook = self.codebooks[self.codebook_index(level)]
        assert isinstance(codebook, Codebook)
        return codebook

    def quantize(self, images: Images) -> tuple[Quantized, Quantized]:
        """Quantize both levels: the top from the coarse features, the bottom given the quantized top."""
        check_images(images, self.config.downsampling)
        fine, coarse = self.encoder(images)
        top = self.codebook(0)(coarse)
        bottom = self.codebook(1)(self.latent(top.values, fine))
        return top, bottom

    def forward(
        self, images: Images, keep_bottom: Tensor | None = None, noise: CodeNoise | None = None
    ) -> Reconstruction:
        """A training pass.

        Args:
            images: ``[batch, 3, height, width]`` in [-1, 1].
            keep_bottom: bool ``[batch]``; where False, the image is decoded from the top only.
            noise: of the tokens that the decoder sees.
        """
        levels = self.quantize(images)
        coarse, values = (
            quantized.values if noise is None else noise.values(self.codebook(level), quantized, level)
            for level, quantized in enumerate(levels)
        )
        if keep_bottom is not None:
            values = values * keep_bottom[:, None, None, None].to(values.dtype)
        return Reconstruction(self.decoder(coarse, values), levels)

    @torch.no_grad()
    def encode(self, images: Images) -> StratifiedTokens:
        """Images -> tokens.

        Raises:
            ValueError: if the downsampling does not divide the images' sides.
        """
        with full_precision_convolutions():
            return StratifiedTokens(tuple(level.ids for level in self.quantize(images)))

    @torch.no_grad()
    def decode(self, tokens: Tokens, levels: int | None = None) -> Images:
        """Tokens -> images in [-1, 1]; ``levels=1`` decodes the top only.

        Raises:
            ValueError: if the tokens are not a stratified pair, unless ``levels=1``.
        """
        if levels not in (None, 1, 2):
            raise ValueError(f"levels: {levels} must be 1 (the top only) or 2")
        top = self.codebook(0).embed(tokens.levels[0])
        if levels == 1:
            batch, width, height, columns = top.shape
            bottom = top.new_zeros(batch, width, 2 * height, 2 * columns)
        else:
            bottom = self.codebook(1).embed(StratifiedTokens(tokens.levels).bottom)
        with full_precision_convolutions():
            return self.decoder(top, bottom).float().clamp(-1, 1).contiguous()
