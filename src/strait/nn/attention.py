"""Multi-head attention without ideas of the paper: fused projections around torch's own attention."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from strait.nn.rows import pick

KeysValues = tuple[Tensor, Tensor]
"""Two tensors ``[batch, heads, length, width / heads]``."""


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class _HeadNorm(nn.RMSNorm):
    """RMSNorm over one head's width, its weight in the dtype of the input (autocast would leave the fused path)."""

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.to(x.dtype)
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


class SelfAttention(nn.Module):
    """Every position attends to every other: ``[batch, length, width]`` -> the same, or at some positions alone."""

    def __init__(self, width: int, heads: int, dropout: float, qk_norm: bool) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.query_norm = _HeadNorm(width // heads) if qk_norm else nn.Identity()
        self.key_norm = _HeadNorm(width // heads) if qk_norm else nn.Identity()

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """``positions`` int64 ``[batch, count]``: whose results are wanted; of all, in order, if None."""
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        query, key, value = (_split_heads(part, self.heads) for part in (pick(query, positions), key, value))
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(self.query_norm(query), self.key_norm(key), value, dropout_p=dropout)
        return self.out(x.transpose(1, 2).flatten(-2))


class CrossAttention(nn.Module):
    """Every position attends to a context whose keys and values are computed beforehand, once for all steps."""

    def __init__(self, width: int, heads: int, dropout: float, qk_norm: bool) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.query_norm = _HeadNorm(width // heads) if qk_norm else nn.Identity()
        self.key_norm = _HeadNorm(width // heads) if qk_norm else nn.Identity()

    def keys_values(self, context: Tensor) -> KeysValues:
        """Context ``[batch, length, width]`` -> keys and values."""
        key, value = (_split_heads(part, self.heads) for part in self.key_value(context).chunk(2, dim=-1))
        return self.key_norm(key), value

    def forward(self, x: Tensor, keys_values: KeysValues) -> Tensor:
        """``[batch, length, width]`` and what ``keys_values`` gave -> ``[batch, length, width]``."""
        query = self.query_norm(_split_heads(self.query(x), self.heads))
        dropout = self.dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(query, *keys_values, dropout_p=dropout)
        return self.out(x.transpose(1, 2).flatten(-2))
