"""Transformer layers: attention then MLP, each with its residual and LayerNorm.

The top's layers attend to themselves. The bottom's are two such layers in a row, the second attending to the top
tokens, each with an MLP of its own: only so do its parameters come to the paper's 292M (docs/choices.md).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from strait.nn.attention import CrossAttention, KeysValues, SelfAttention
from strait.transformer.config import TransformerConfig
from strait.transformer.embedding import LAYER_NORM_EPSILON


class _AttentionMLP(nn.Module):
    """What both kinds of layer share: everything but the attention itself."""

    def __init__(self, config: TransformerConfig, attention: SelfAttention | CrossAttention) -> None:
        super().__init__()
        self.attention = attention
        self.pre_norm = config.norm == "pre"
        self.attention_norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPSILON)
        self.mlp_norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPSILON)
        self.mlp_in = nn.Linear(config.width, config.mlp)
        self.mlp_out = nn.Linear(config.mlp, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, *keys_values: KeysValues) -> Tensor:
        """``[batch, length, width]``, and where it attends to a context its keys and values -> the same shape."""
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.attention_norm(x), *keys_values))
            return x + self.dropout(self._mlp(self.mlp_norm(x)))
        x = self.attention_norm(x + self.dropout(self.attention(x, *keys_values)))
        return self.mlp_norm(x + self.dropout(self._mlp(x)))

    def _mlp(self, x: Tensor) -> Tensor:
        return self.mlp_out(F.gelu(self.mlp_in(x), approximate="tanh"))


class SelfAttentionLayer(_AttentionMLP):
    """Attention among the tokens of one level."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, SelfAttention(config.width, config.heads, config.dropout, config.qk_norm))


class CrossAttentionLayer(_AttentionMLP):
    """Attention to the coarser level."""

    attention: CrossAttention

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, CrossAttention(config.width, config.heads, config.dropout, config.qk_norm))


class GuidedLayer(nn.Module):
    """A layer of the bottom: self-attention and MLP, then cross-attention and MLP."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.self_layer = SelfAttentionLayer(config)
        self.cross_layer = CrossAttentionLayer(config)

    def forward(self, x: Tensor, keys_values: KeysValues) -> Tensor:
        """``[batch, length, width]`` and the context's keys and values -> ``[batch, length, width]``."""
        return self.cross_layer(self.self_layer(x), keys_values)
