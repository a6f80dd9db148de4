"""The cascade of Table 6: two independent VQGANs, one for each level.

The coarse one's tokens are the top level and the fine one's the bottom level, for the same transformers and decoding.
Source: StraIT section 4.3, "Stratified over Cascade".
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from strait.tokenizer.config import TokenizerConfig
from strait.tokenizer.vqgan import VQGAN
from strait.types import Images, StratifiedTokens, Tokens


class CascadeTokenizer(nn.Module):
    """Images <-> ``StratifiedTokens``, with one VQGAN for each level.

    Stage 1 trains them one after the other, both with the settings ``tokenizer_training``.
    """

    levels = 2

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        if config.kind != "cascade":
            raise ValueError(f"tokenizer.kind: {config.kind!r} is not a cascade")
        self.config = config
        coarse, fine = config.codebook_sizes
        single = replace(config, kind="vqgan", bottom_codebook_size=None)
        self.coarse = VQGAN(replace(single, codebook_size=coarse))
        self.fine = VQGAN(replace(single, codebook_size=fine, multipliers=config.multipliers[:-1]))

    def forward(self, images: Images) -> tuple[Images, Images]:
        """Reconstructions by the coarse and by the fine VQGAN."""
        return self.coarse(images).images, self.fine(images).images

    @torch.no_grad()
    def encode(self, images: Images) -> StratifiedTokens:
        """Images -> tokens.

        Raises:
            ValueError: if the downsampling does not divide the images' sides.
        """
        return StratifiedTokens((*self.coarse.encode(images).levels, *self.fine.encode(images).levels))

    @torch.no_grad()
    def decode(self, tokens: Tokens, levels: int | None = None) -> Images:
        """Tokens -> images in [-1, 1], from the fine level only, or with ``levels=1`` from the coarse level only.

        Raises:
            ValueError: if the tokens are not a pair, unless ``levels=1``.
        """
        if levels not in (None, 1, 2):
            raise ValueError(f"levels: {levels} must be 1 (the coarse level) or 2 (the fine one)")
        if levels == 1:
            return self.coarse.decode(Tokens(tokens.levels[:1]))
        pair = StratifiedTokens(tokens.levels)
        return self.fine.decode(Tokens((pair.bottom,)))
