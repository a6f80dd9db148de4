"""VQGAN: the single-scale baseline of Tables 1, 5 and 6, built from the same blocks.

Source: StraIT section 2.1; MaskGIT's VQGAN.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from strait.nn.convolution import full_precision_convolutions
from strait.tokenizer.config import TokenizerConfig
from strait.tokenizer.decoder import Decoder
from strait.tokenizer.encoder import Encoder, check_images
from strait.tokenizer.quantizer import Codebook
from strait.tokenizer.vqgan2 import Reconstruction
from strait.types import Images, Tokens

if TYPE_CHECKING:  # only training needs it
    from strait.tokenizer.code_noise import CodeNoise


class VQGAN(nn.Module):
    """Images <-> ``Tokens`` of one level."""

    levels = 1

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        if config.num_levels != 1:
            raise ValueError(f"tokenizer.kind: {config.kind!r} has two levels; use StratifiedTokenizer")
        self.config = config
        self.encoder = Encoder(config)
        self.codebooks = nn.ModuleList([Codebook(config.codebook_size, config.code_dim, config.normalize_codes)])
        self.decoder = Decoder(config)

    def codebook_index(self, level: int) -> int:
        """Which of ``codebooks`` a level uses."""
        return 0

    def codebook(self, level: int) -> Codebook:
        codebook = self.codebooks[0]
        assert isinstance(codebook, Codebook)
        return codebook

    def forward(
        self, images: Images, keep_bottom: Tensor | None = None, noise: CodeNoise | None = None
    ) -> Reconstruction:
        """A training pass; ``keep_bottom`` has no effect. ``noise``: of the tokens that the decoder sees."""
        check_images(images, self.config.downsampling)
        _, features = self.encoder(images)
        level = self.codebook(0)(features)
        values = level.values if noise is None else noise.values(self.codebook(0), level, 0)
        return Reconstruction(self.decoder(values, None), (level,))

    @torch.no_grad()
    def encode(self, images: Images) -> Tokens:
        """Images -> tokens.

        Raises:
            ValueError: if the downsampling does not divide the images' sides.
        """
        check_images(images, self.config.downsampling)
        with full_precision_convolutions():
            _, features = self.encoder(images)
            return Tokens((self.codebook(0)(features).ids,))

    @torch.no_grad()
    def decode(self, tokens: Tokens, levels: int | None = None) -> Images:
        """Tokens -> images in [-1, 1]."""
        if levels not in (None, 1):
            raise ValueError(f"levels: {levels} must be 1: this tokenizer has a single scale")
        with full_precision_convolutions():
            return self.decoder(self.codebook(0).embed(tokens.levels[0]), None).float().clamp(-1, 1).contiguous()
