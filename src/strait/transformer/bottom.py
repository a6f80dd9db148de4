"""theta^b: the transformer that draws the bottom tokens given the top's, through cross-attention.

Source: StraIT sections 3.2 and 4.1, equation 4.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from strait.transformer.config import TransformerConfig
from strait.transformer.embedding import LAYER_NORM_EPSILON, MaskedTokenHead, TokenEmbedding, init_weights, pick
from strait.transformer.layers import GuidedLayer
from strait.types import Canvas, Condition, Grid, LogitsFn


class BottomTransformer(nn.Module):
    """Self-attention over the bottom tokens, cross-attention to the class token and the top tokens.

    Args:
        config: its size.
        codebook_size: ids it can predict.
        context_codebook_size: ids of the top tokens, which have an embedding table of their own here.
        num_classes: 0 for an unconditional model.
        grid: (h, w) of the bottom tokens.
        context_grid: (h, w) of the top tokens.
    """

    def __init__(
        self,
        config: TransformerConfig,
        codebook_size: int,
        context_codebook_size: int,
        num_classes: int,
        grid: Grid,
        context_grid: Grid,
    ) -> None:
        super().__init__()
        self.config, self.codebook_size, self.num_classes = config, codebook_size, num_classes
        self.grid, self.context_grid = grid, context_grid
        self.embedding = TokenEmbedding(
            codebook_size, num_classes, grid[0] * grid[1], config.width, config.dropout, class_token=False
        )
        self.context = TokenEmbedding(
            context_codebook_size,
            num_classes,
            context_grid[0] * context_grid[1],
            config.width,
            config.dropout,
            class_token=True,
        )
        self.layers = nn.ModuleList(GuidedLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPSILON) if config.norm == "pre" else nn.Identity()
        self.head = MaskedTokenHead(config.width, codebook_size)
        self.apply(init_weights)

    def bind(self, condition: Condition) -> LogitsFn:
        """The network under a condition: labels, and ``context[0]``, the top tokens ``[batch, h, w]``.

        Every layer's keys and values of the context are computed here, once for all steps. The result maps a canvas
        (and positions ``[batch, count]``) to logits ``[batch, length or count, codebook_size]``.

        Raises:
            ValueError: if the condition has no top tokens, or a grid of another size.
        """
        if not condition.context or tuple(condition.context[0].shape[1:]) != self.context_grid:
            shapes = [tuple(grid.shape[1:]) for grid in condition.context]
            raise ValueError(f"bottom: the condition must hold a top grid of {self.context_grid}, not {shapes}")
        context = self.context(condition.context[0].flatten(1), self.context.class_ids(condition.labels))
        layers = cast(list[GuidedLayer], list(self.layers))
        keys_values = [layer.cross_layer.attention.keys_values(context) for layer in layers]

        def logits(canvas: Canvas, positions: Tensor | None = None) -> Tensor:
            x = self.embedding(self.embedding.canvas_ids(canvas))
            for layer, of_context in zip(layers, keys_values, strict=True):
                x = layer(x, of_context)
            return self.head(pick(self.norm(x), positions), self.embedding.ids)

        return logits

    def forward(self, condition: Condition, canvas: Canvas) -> Tensor:
        """Logits ``[batch, length, codebook_size]`` of one canvas under one condition: a training pass."""
        return self.bind(condition)(canvas)
