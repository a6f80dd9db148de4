"""The tokens of an image at half its size and at its own: what the upsampler learns from.

Source: StraIT section 4.2, "Higher Resolution in Token-level".
"""

from __future__ import annotations

import torch.nn.functional as F

from strait.types import Images, Tokenizer, Tokens


def encode_at_two_sizes(tokenizer: Tokenizer, images: Images) -> Tokens:
    """Four levels: the stratified pair of the images made half as large, then that of the images themselves.

    Args:
        tokenizer: of two levels; the same serves both sizes.
        images: ``[batch, 3, 2 size, 2 size]``. Halving is bilinear, as in the paper: the mean of 2x2 pixels.
    """
    small = F.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=False)
    return Tokens((*tokenizer.encode(small).levels, *tokenizer.encode(images).levels))
