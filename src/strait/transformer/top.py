"""theta^t: the transformer that predicts top tokens given only the class. With a single level, this is MaskGIT.

Source: StraIT sections 3.2 and 4.1, equation 3.
"""

from __future__ import annotations

from torch import Tensor, nn

from strait.transformer.config import TransformerConfig
from strait.transformer.embedding import LAYER_NORM_EPSILON, MaskedTokenHead, TokenEmbedding, init_weights
from strait.transformer.layers import SelfAttentionLayer
from strait.types import Canvas, Condition, Grid, LogitsFn


class TopTransformer(nn.Module):
    """Self-attention over the class token and the tokens of the top grid.

    Args:
        config: its size.
        codebook_size: number of codes it predicts.
        num_classes: 0 for an unconditional model.
        grid: (h, w) of the top tokens.
    """

    def __init__(self, config: TransformerConfig, codebook_size: int, num_classes: int, grid: Grid) -> None:
        super().__init__()
        self.config, self.codebook_size, self.num_classes, self.grid = config, codebook_size, num_classes, grid
        self.embedding = TokenEmbedding(
            codebook_size, num_classes, grid[0] * grid[1], config.width, config.dropout, class_token=True
        )
        self.layers = nn.ModuleList(SelfAttentionLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPSILON) if config.norm == "pre" else nn.Identity()
        self.head = MaskedTokenHead(config.width, codebook_size)
        self.apply(init_weights)

    def bind(self, condition: Condition) -> LogitsFn:
        """Bind a condition, of which only the labels are used.

        Returns:
            A function of a canvas (and positions ``[batch, count]``) that returns logits ``[batch, length or count,
            codebook_size]``.
        """
        class_ids = self.embedding.class_ids(condition.labels)

        def logits(canvas: Canvas, positions: Tensor | None = None) -> Tensor:
            return self.logits(self.embedding.canvas_ids(canvas), class_ids, positions)

        return logits

    def logits(self, ids: Tensor, class_ids: Tensor, positions: Tensor | None) -> Tensor:
        """Input ids ``[batch, length]`` and class ids ``[batch]`` -> logits at ``positions``; the last layer is
        computed only there."""
        return self._predict(self._hidden(ids, class_ids, positions))

    def forward(self, condition: Condition, canvas: Canvas) -> Tensor:
        """Training pass: logits of the masked tokens of one canvas, ``[masked tokens, codebook_size]``, row by row."""
        class_ids = self.embedding.class_ids(condition.labels)
        return self._predict(self._hidden(self.embedding.canvas_ids(canvas), class_ids, None)[canvas.masked])

    def _hidden(self, ids: Tensor, class_ids: Tensor, positions: Tensor | None) -> Tensor:
        x = self.embedding(ids, class_ids)
        for layer in self.layers[:-1]:
            x = layer(x)
        # The class token comes first and is never predicted.
        return self.layers[-1](x)[:, 1:] if positions is None else self.layers[-1](x, positions + 1)

    def _predict(self, hidden: Tensor) -> Tensor:
        return self.head(self.norm(hidden), self.embedding.ids)
