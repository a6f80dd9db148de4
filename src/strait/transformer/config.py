"""Settings of a masked transformer's network (no torch here)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MOST_LAYERS, LARGEST_WIDTH = 1000, 2**28
"""More are a mistake: a layer costs memory before its weights do, and no product of two widths may overflow."""


@dataclass(frozen=True)
class TransformerConfig:
    """A transformer of either level. The paper: top 48 x 768 x 5120 with 32 heads, bottom 16 x 768 x 4096 with 24.

    Args:
        layers: number of layers; each layer of the bottom has self- and cross-attention, each followed by an MLP.
        width: of the embeddings.
        mlp: hidden width of the MLPs.
        heads: attention heads.
        dropout: rate after the embedding, in attention and in MLPs.
        norm: LayerNorm after each residual sum (post, MaskGIT's) or before each branch (pre).
        qk_norm: RMSNorm on queries and keys.
    """

    layers: int = 48
    width: int = 768
    mlp: int = 5120
    heads: int = 32
    dropout: float = 0.1
    norm: Literal["post", "pre"] = "post"
    qk_norm: bool = False

    def __post_init__(self) -> None:
        for name in ("layers", "width", "mlp", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"transformer.{name}: {getattr(self, name)} must be at least 1")
        for name, most in (("layers", MOST_LAYERS), ("width", LARGEST_WIDTH), ("mlp", LARGEST_WIDTH)):
            if getattr(self, name) > most:
                raise ValueError(f"transformer.{name}: {getattr(self, name)} must be at most {most}")
        if self.width % self.heads:
            raise ValueError(f"transformer.heads: {self.heads} does not divide the width {self.width}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"transformer.dropout: {self.dropout} must lie in [0, 1)")
