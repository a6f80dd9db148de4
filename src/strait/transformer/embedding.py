"""Embeddings of codes, [MASK], classes and positions; and the output head, tied to the codes' embedding.

Input ids: codes ``0 .. codebook_size - 1``, then ``[MASK]``, then the classes, then the null class. Only codes are
predicted; ``[MASK]`` and classes are inputs only. Source: MaskGIT's transformer, which the paper adopts.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strait.nn.dropout import Dropout
from strait.nn.gelu import linear_gelu
from strait.types import Canvas

LAYER_NORM_EPSILON = 1e-12
INIT_STD = 0.02


class TokenEmbedding(nn.Module):
    """Embeds the tokens of one grid, optionally after a class token, with positions, LayerNorm and dropout.

    Args:
        codebook_size: number of codes of the grid.
        num_classes: 0 for an unconditional model, which has only the null class.
        length: number of tokens of the grid.
        width: of the vectors.
        dropout: rate after the LayerNorm.
        class_token: whether a class token comes first.
    """

    def __init__(
        self, codebook_size: int, num_classes: int, length: int, width: int, dropout: float, class_token: bool
    ) -> None:
        super().__init__()
        self.mask_id = codebook_size
        self.first_class = codebook_size + 1
        self.null_class = self.first_class + num_classes
        self.class_token = class_token
        rows = self.null_class + 1 if class_token else codebook_size + 1
        self.ids = nn.Embedding(rows, width)
        self.positions = nn.Parameter(torch.zeros(length + class_token, width))
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)
        self.dropout = Dropout(dropout)

    def for_classes(self, ids: Tensor, labels: Sequence[int | None]) -> Tensor:
        """Rearrange an embedding table of ids, trained for other classes, for new classes.

        Args:
            ids: the table ``[rows, width]`` to take vectors from.
            labels: for each new class its label in that table, or None for an unknown class, which starts as the null
                class.
        """
        null = len(ids) - 1
        rows = [null if label is None else self.first_class + label for label in labels]
        return torch.cat([ids[: self.first_class], ids[[*rows, null]]])

    def class_ids(self, labels: Tensor) -> Tensor:
        """Labels ``[batch]`` (``NULL_LABEL`` for none) -> input ids ``[batch]``."""
        return torch.where(labels < 0, self.null_class, labels + self.first_class)

    def canvas_ids(self, canvas: Canvas) -> Tensor:
        """Input ids ``[batch, length]``: ``[MASK]`` at masked positions."""
        return torch.where(canvas.masked, self.mask_id, canvas.tokens)

    def forward(self, ids: Tensor, class_ids: Tensor | None = None) -> Tensor:
        """Input ids ``[batch, length]``, class ids ``[batch]`` -> ``[batch, (1 +) length, width]``."""
        if class_ids is not None:
            ids = torch.cat([class_ids[:, None], ids], dim=1)
        return self.dropout(self.norm(self.ids(ids) + self.positions))


class MaskedTokenHead(nn.Module):
    """Hidden vectors -> logits over codes: dense, GELU, LayerNorm, the tied embedding, a bias for each code."""

    def __init__(self, width: int, codebook_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=LAYER_NORM_EPSILON)
        self.bias = nn.Parameter(torch.zeros(codebook_size))

    def forward(self, hidden: Tensor, embedding: nn.Embedding) -> Tensor:
        """``[batch, length, width]`` -> ``[batch, length, codebook_size]``."""
        hidden = self.norm(linear_gelu(self.dense, hidden))
        return F.linear(hidden, embedding.weight[: self.bias.shape[0]], self.bias)


def init_weights(module: nn.Module) -> None:
    """MaskGIT's initialisation: matrices and tables from a truncated normal (standard deviation 0.02), zero biases."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.trunc_normal_(module.weight, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, TokenEmbedding):
        nn.init.trunc_normal_(module.positions, std=INIT_STD, a=-2 * INIT_STD, b=2 * INIT_STD)
