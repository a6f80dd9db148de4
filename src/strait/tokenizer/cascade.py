"""The cascade of Table 6: two separate VQGANs, one for each level, which know nothing of each other.

The coarse one's tokens stand where the top's do, the fine one's where the bottom's, so that the same transformers and
the same decoding run over them. Source: StraIT section 4.3, "Stratified over Cascade".
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from strait.tokenizer.config import TokenizerConfig
from strait.tokenizer.vqgan import VQGAN
from strait.types import Images, StratifiedTokens, Tokens


class CascadeTokenizer(nn.Module):
    """Images <-> ``StratifiedTokens``, each level through a VQGAN of its own.

    Stage 1 trains the two apart, each on the settings of ``tokenizer_training``.
    """

    levels = 2

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        if config.kind != "cascade":
            raise ValueError(f"tokenizer.kind: {config.kind!r} is no cascade")
        self.config = config
        coarse, fine = config.codebook_sizes
        alone = replace(config, kind="vqgan", bottom_codebook_size=None)
        self.coarse = VQGAN(replace(alone, codebook_size=coarse))
        self.fine = VQGAN(replace(alone, codebook_size=fine, multipliers=config.multipliers[:-1]))

    def forward(self, images: Images) -> tuple[Images, Images]:
        """The images as the coarse and as the fine VQGAN gives them back."""
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
        """Tokens -> images in [-1, 1]: the fine level's alone, or with ``levels=1`` the coarse level's alone.

        Raises:
            ValueError: if the tokens are not a pair where both levels are asked for.
        """
        if levels not in (None, 1, 2):
            raise ValueError(f"levels: {levels} must be 1 (the coarse level) or 2 (the fine one)")
        if levels == 1:
            return self.coarse.decode(Tokens(tokens.levels[:1]))
        pair = StratifiedTokens(tokens.levels)
        return self.fine.decode(Tokens((pair.bottom,)))
