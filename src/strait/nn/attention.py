"""Generic multi-head attention: fused projections around torch's attention, or a faster one in bfloat16 on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strait.nn.dropout import dropout as drop

KeysValues = tuple[Tensor, Tensor]
"""Two tensors ``[batch, heads, length, width / heads]``."""


_PIECE, _LEAST = 9 * 2**17, 64**2
"""In bfloat16 on a CPU: scores computed at once (they fit the cache), and the least scores of a head for which it
pays."""
_SHORT = 512**2
"""Scores of a head up to which a training step on a CPU keeps them all in memory."""


def pick(x: Tensor, positions: Tensor | None) -> Tensor:
    """Rows ``positions`` ``[batch, count]`` of ``[batch, length, width]``; all rows if None."""
    if positions is None:
        return x
    return x.gather(1, positions[..., None].expand(-1, -1, x.shape[-1]))


def attend(query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
    """softmax(query key^T / sqrt(d)) value: ``[batch, heads, length, d]`` (keys and values can have another length) ->
    ``[batch, length, heads * d]``.

    Usually torch's attention. On a CPU that is slow in two cases. In bfloat16 without gradients, unless the processor
    has a unit for matrix products (AMX), long sequences are computed a few heads at a time, with scores rounded to
    bfloat16, and short ones in float32 (docs/performance.md). With gradients, scores are kept in memory unless the
    sequences are too long. ``dropout``: rate on the weights.
    """
    if query.device.type == "cpu" and (dropout or _short_with_gradients(query, key)):
        weights = (query * query.shape[-1] ** -0.5 @ key.mT).softmax(-1)
        return _merge_heads(drop(weights, dropout) @ value)
    if dropout or not _half_without_gradients(query, key, value):
        return _merge_heads(F.scaled_dot_product_attention(query, key, value, dropout_p=dropout))
    # Chosen by the lengths, not by the batch, so that results do not depend on the batch.
    if query.shape[2] * key.shape[2] >= _LEAST:
        return _merge_heads(_attend_by_pieces(query, key, value))
    return _merge_heads(F.scaled_dot_product_attention(query.float(), key.float(), value.float())).bfloat16()


def _short_with_gradients(query: Tensor, key: Tensor) -> bool:
    return torch.is_grad_enabled() and query.requires_grad and query.shape[2] * key.shape[2] <= _SHORT


def _half_without_gradients(*tensors: Tensor) -> bool:
    if torch.is_grad_enabled() or torch.compiler.is_compiling():  # compiling would unroll the loop over pieces
        return False
    if torch.cpu._is_amx_tile_supported():  # torch's attention uses it, and is up to twice as fast as ours
        return False
    return all(tensor.device.type == "cpu" and tensor.dtype == torch.bfloat16 for tensor in tensors)


def _attend_by_pieces(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    heads = [tensor.flatten(0, 1).contiguous() for tensor in (query, key, value)]  # of all images
    outputs, unused = torch.empty_like(heads[0]), query.new_empty(1, 1, 1)
    size = max(1, _PIECE // (query.shape[2] * key.shape[2]))
    pieces = (tensor.split(size) for tensor in (*heads, outputs))
    for queries, keys, values, output in zip(*pieces, strict=True):
        scores = torch.baddbmm(unused, queries, keys.mT, beta=0, alpha=query.shape[-1] ** -0.5)
        torch.bmm(torch.softmax(scores, -1, out=scores), values, out=output)
    return outputs.view(query.shape)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _merge_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(-2)


class _HeadNorm(nn.RMSNorm):
    """RMSNorm over a head's width, with its weight in the dtype of the input: otherwise autocast leaves the fused
    kernel."""

    def forward(self, x: Tensor) -> Tensor:
        weight = None if self.weight is None else self.weight.to(x.dtype)
        return F.rms_norm(x, self.normalized_shape, weight, self.eps)


class SelfAttention(nn.Module):
    """Self-attention: ``[batch, length, width]`` -> the same shape, or only at some positions."""

    def __init__(self, width: int, heads: int, dropout: float, qk_norm: bool) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.query_norm = _HeadNorm(width // heads) if qk_norm else nn.Identity()
        self.key_norm = _HeadNorm(width // heads) if qk_norm else nn.Identity()

    def forward(self, x: Tensor, positions: Tensor | None = None) -> Tensor:
        """``positions`` int64 ``[batch, count]``: where to compute the result; everywhere if None."""
        query, key, value = self.qkv(x).chunk(3, dim=-1)
        query, key, value = (_split_heads(part, self.heads) for part in (pick(query, positions), key, value))
        dropout = self.dropout if self.training else 0.0
        return self.out(attend(self.query_norm(query), self.key_norm(key), value, dropout))


class CrossAttention(nn.Module):
    """Cross-attention to a context whose keys and values are computed in advance, once for all steps."""

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
        """``[batch, length, width]`` and the result of ``keys_values`` -> ``[batch, length, width]``."""
        query = self.query_norm(_split_heads(self.query(x), self.heads))
        dropout = self.dropout if self.training else 0.0
        return self.out(attend(query, *keys_values, dropout))
