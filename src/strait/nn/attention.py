"""Multi-head attention without ideas of the paper: fused projections around torch's own attention, or in bfloat16 on a
CPU a faster one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strait.nn.dropout import dropout as drop

KeysValues = tuple[Tensor, Tensor]
"""Two tensors ``[batch, heads, length, width / heads]``."""


_PIECE, _LEAST = 9 * 2**17, 64**2
"""Scores taken at once in bfloat16 on a CPU, few enough to stay in its cache; those of a head from where it pays."""
_SHORT = 512**2
"""Scores of a head up to which a training step on a CPU keeps them all."""


def pick(x: Tensor, positions: Tensor | None) -> Tensor:
    """Rows ``positions`` ``[batch, count]`` of ``[batch, length, width]``; all of them if None."""
    if positions is None:
        return x
    return x.gather(1, positions[..., None].expand(-1, -1, x.shape[-1]))


def attend(query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> Tensor:
    """softmax(query key^T / sqrt(d)) value: ``[batch, heads, length, d]``, keys and values of a length of their own ->
    ``[batch, length, heads * d]``.

    Torch's own attention; but in bfloat16 on a CPU, without gradients, that is slow: long sequences are three products
    a few heads at a time, their scores rounded to bfloat16, and short ones are taken in float32 (docs/performance.md).
    With gradients on a CPU it is slow, too, unless the sequences are so long that their scores do not fit.
    ``dropout``: the rate at which weights are dropped.
    """
    if query.device.type == "cpu" and (dropout or _short_with_gradients(query, key)):
        weights = (query * query.shape[-1] ** -0.5 @ key.mT).softmax(-1)
        return _merge_heads(drop(weights, dropout) @ value)
    if dropout or not _half_without_gradients(query, key, value):
        return _merge_heads(F.scaled_dot_product_attention(query, key, value, dropout_p=dropout))
    # By the sequences' lengths, never by the batch: the same way for one image as for many.
    if query.shape[2] * key.shape[2] >= _LEAST:
        return _merge_heads(_attend_by_pieces(query, key, value))
    return _merge_heads(F.scaled_dot_product_attention(query.float(), key.float(), value.float())).bfloat16()


def _short_with_gradients(query: Tensor, key: Tensor) -> bool:
    return torch.is_grad_enabled() and query.requires_grad and query.shape[2] * key.shape[2] <= _SHORT


def _half_without_gradients(*tensors: Tensor) -> bool:
    if torch.is_grad_enabled() or torch.compiler.is_compiling():  # compiled, every piece would be code of its own
        return False
    return all(one.device.type == "cpu" and one.dtype == torch.bfloat16 for one in tensors)


def _attend_by_pieces(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    rows = [part.flatten(0, 1).contiguous() for part in (query, key, value)]  # every head of every image
    found, nothing = torch.empty_like(rows[0]), query.new_empty(1, 1, 1)
    size = max(1, _PIECE // (query.shape[2] * key.shape[2]))
    pieces = (part.split(size) for part in (*rows, found))
    for some_queries, some_keys, some_values, out in zip(*pieces, strict=True):
        scores = torch.baddbmm(nothing, some_queries, some_keys.mT, beta=0, alpha=query.shape[-1] ** -0.5)
        torch.bmm(torch.softmax(scores, -1, out=scores), some_values, out=out)
    return found.view(query.shape)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def _merge_heads(x: Tensor) -> Tensor:
    return x.transpose(1, 2).flatten(-2)


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
        return self.out(attend(self.query_norm(query), self.key_norm(key), value, dropout))


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
        return self.out(attend(query, *keys_values, dropout))
