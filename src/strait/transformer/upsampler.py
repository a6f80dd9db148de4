"""U: from the tokens of an image to those of the same image at twice the size.

The paper calls it a simple three-layer model like the bottom transformer. It fills two grids, so it is two such
networks: ``top`` is given the class and the low-resolution pair, ``bottom`` also the new top. As elsewhere, every
level is conditioned on all coarser ones (docs/choices.md). Source: StraIT section 4.2, Table 4.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from strait.transformer.bottom import BottomTransformer
from strait.transformer.config import TransformerConfig
from strait.types import Grid


class Upsampler(nn.Module):
    """The two networks of U.

    Args:
        config: of each network.
        codebook_sizes: number of codes of top and bottom; the same tokenizer serves both sizes.
        num_classes: 0 for an unconditional model.
        grids: (h, w) of the low-resolution top and bottom; the new grids are twice as high and wide.
    """

    def __init__(
        self, config: TransformerConfig, codebook_sizes: Sequence[int], num_classes: int, grids: Sequence[Grid]
    ) -> None:
        super().__init__()
        if len(grids) != 2 or len(codebook_sizes) != 2:
            raise ValueError(f"upsampler: it needs two levels of tokens, not {len(grids)}")
        self.config = config
        low, (top, bottom) = list(grids), [(2 * height, 2 * width) for height, width in grids]
        sizes = list(codebook_sizes)
        self.top = BottomTransformer(config, sizes[0], sizes, num_classes, top, low)
        self.bottom = BottomTransformer(config, sizes[1], [*sizes, sizes[0]], num_classes, bottom, [*low, top])
