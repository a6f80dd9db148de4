"""theta^b: the transformer that predicts bottom tokens given the top tokens, through cross-attention.

With further context grids the same network serves the upsampler. Source: StraIT sections 3.2 and 4.1, equation 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from strait.nn.attention import KeysValues
from strait.transformer.config import TransformerConfig
from strait.transformer.embedding import LAYER_NORM_EPSILON, MaskedTokenHead, TokenEmbedding, init_weights
from strait.transformer.layers import GuidedLayer
from strait.types import Canvas, Condition, Grid, LogitsFn


class BottomTransformer(nn.Module):
    """Self-attention over the bottom tokens, cross-attention to the class token and the coarser grids' tokens.

    Args:
        config: its size.
        codebook_size: number of codes it predicts.
        context_codebook_sizes: number of codes of each context grid (for the bottom: the top); each grid has its own
            embedding table.
        num_classes: 0 for an unconditional model.
        grid: (h, w) of the tokens it predicts.
        context_grids: (h, w) of each context grid, coarser than ``grid``.
    """

    def __init__(
        self,
        config: TransformerConfig,
        codebook_size: int,
        context_codebook_sizes: Sequence[int],
        num_classes: int,
        grid: Grid,
        context_grids: Sequence[Grid],
    ) -> None:
        super().__init__()
        self.config, self.codebook_size, self.num_classes = config, codebook_size, num_classes
        self.grid, self.context_grids = grid, tuple(context_grids)
        self.embedding = TokenEmbedding(
            codebook_size, num_classes, grid[0] * grid[1], config.width, config.dropout, class_token=False
        )
        # The class token precedes the first context grid.
        self.contexts = nn.ModuleList(
            TokenEmbedding(size, num_classes, height * columns, config.width, config.dropout, class_token=number == 0)
            for number, (size, (height, columns)) in enumerate(zip(context_codebook_sizes, context_grids, strict=True))
        )
        self.layers = nn.ModuleList(GuidedLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPSILON) if config.norm == "pre" else nn.Identity()
        self.head = MaskedTokenHead(config.width, codebook_size)
        self.apply(init_weights)

    def bind(self, condition: Condition) -> LogitsFn:
        """Bind a condition: labels, and as ``context`` the coarser tokens, ``[batch, h, w]`` each.

        Every layer's keys and values of the context are computed here, once for all steps.

        Returns:
            A function of a canvas (and positions ``[batch, count]``) that returns logits ``[batch, length or count,
            codebook_size]``.

        Raises:
            ValueError: if the context's grids are not the network's.
        """
        keys_values = self._keys_values(condition)

        def logits(canvas: Canvas, positions: Tensor | None = None) -> Tensor:
            return self.logits(self.embedding.canvas_ids(canvas), keys_values, positions)

        return logits

    def logits(self, ids: Tensor, keys_values: list[KeysValues], positions: Tensor | None) -> Tensor:
        """Input ids ``[batch, length]`` and every layer's keys and values of the context -> logits at ``positions``;
        the last layer is computed only there."""
        return self._predict(self._hidden(ids, keys_values, positions))

    def forward(self, condition: Condition, canvas: Canvas) -> Tensor:
        """Training pass: logits of the masked tokens of one canvas, ``[masked tokens, codebook_size]``, row by row."""
        hidden = self._hidden(self.embedding.canvas_ids(canvas), self._keys_values(condition), None)
        return self._predict(hidden[canvas.masked])

    def _keys_values(self, condition: Condition) -> list[KeysValues]:
        shapes = tuple((grid.shape[1], grid.shape[2]) for grid in condition.context)
        if shapes != self.context_grids:
            raise ValueError(f"condition.context: grids {list(shapes)} must be {list(self.context_grids)}")
        embeddings = cast(list[TokenEmbedding], list(self.contexts))
        class_ids = embeddings[0].class_ids(condition.labels)
        vectors = [
            embedding(grid.flatten(1), class_ids if embedding.class_token else None)
            for embedding, grid in zip(embeddings, condition.context, strict=True)
        ]
        context = torch.cat(vectors, dim=1)
        layers = cast(list[GuidedLayer], list(self.layers))
        return [layer.cross_layer.attention.keys_values(context) for layer in layers]

    def _hidden(self, ids: Tensor, keys_values: list[KeysValues], positions: Tensor | None) -> Tensor:
        x = self.embedding(ids)
        last = len(keys_values) - 1
        for number, (layer, layer_keys_values) in enumerate(zip(self.layers, keys_values, strict=True)):
            x = layer(x, layer_keys_values, positions if number == last else None)
        return x

    def _predict(self, hidden: Tensor) -> Tensor:
        return self.head(self.norm(hidden), self.embedding.ids)
