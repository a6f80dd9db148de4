"""Transformer layers: attention then MLP, each with residual and LayerNorm.

The top's layers have self-attention. A layer of the bottom is a self-attention layer followed by a cross-attention
layer, each with its own MLP: only then does the number of parameters match the paper's 292M (docs/choices.md).
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from strait.nn.attention import CrossAttention, KeysValues, SelfAttention, pick
from strait.nn.dropout import Dropout
from strait.nn.gelu import linear_gelu
from strait.transformer.config import TransformerConfig
from strait.transformer.embedding import LAYER_NORM_EPSILON


class _Layer(nn.Module):
    """The common base of both kinds of layers: everything but the attention."""

    def __init__(self, config: TransformerConfig, attention: SelfAttention | CrossAttention) -> None:
        super().__init__()
        self.attention = attention
        self.pre_norm = config.norm == "pre"
        self.attention_norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPSILON)
        self.mlp_norm = nn.LayerNorm(config.width, eps=LAYER_NORM_EPSILON)
        self.mlp_in = nn.Linear(config.width, config.mlp)
        self.mlp_out = nn.Linear(config.mlp, config.width)
        self.dropout = Dropout(config.dropout)

    def _attended(self, x: Tensor, attention: Callable[[Tensor], Tensor], positions: Tensor | None = None) -> Tensor:
        """``[batch, length, width]`` -> the result at ``positions``, at which ``attention`` is computed too."""
        residual = pick(x, positions)
        if self.pre_norm:
            x = residual + self.dropout(attention(self.attention_norm(x)))
            return x + self.dropout(self._mlp(self.mlp_norm(x)))
        x = self.attention_norm(residual + self.dropout(attention(x)))
        return self.mlp_norm(x + self.dropout(self._mlp(x)))

    def _mlp(self, x: Tensor) -> Tensor:
        return self.mlp_out(linear_gelu(self.mlp_in, x))


class SelfAttentionLayer(_Layer):
    """Self-attention over the tokens of one level."""

    attention: SelfAttention

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, SelfAttention(config.width, config.heads, config.dropout, config.qk_norm))

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """``[batch, length, width]`` -> the same shape, or ``[batch, count, width]`` at ``positions``
        ``[batch, count]``."""
        return self._attended(x, lambda inputs: self.attention(inputs, positions), positions)


class CrossAttentionLayer(_Layer):
    """Cross-attention to the coarser levels."""

    attention: CrossAttention

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config, CrossAttention(config.width, config.heads, config.dropout, config.qk_norm))

    def forward(self, x: Tensor, keys_values: KeysValues) -> Tensor:
        """``[batch, length, width]`` and the context's keys and values -> ``[batch, length, width]``."""
        return self._attended(x, lambda inputs: self.attention(inputs, keys_values))


class GuidedLayer(nn.Module):
    """A layer of the bottom: self-attention and MLP, then cross-attention and MLP."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.self_layer = SelfAttentionLayer(config)
        self.cross_layer = CrossAttentionLayer(config)

    def forward(self, x: Tensor, keys_values: KeysValues, positions: Tensor | None = None) -> Tensor:
        """``[batch, length, width]`` and the context's keys and values -> ``[batch, length, width]``, or
        ``[batch, count, width]`` at ``positions`` ``[batch, count]``."""
        return self.cross_layer(self.self_layer(x, positions), keys_values)
