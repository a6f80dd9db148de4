"""Draw tokens, and score which of them to keep.

Ids are drawn from the softmax at temperature 1; the temperature affects only which are kept. All noise is hashed, so a
row's result depends only on its own seed. Source: StraIT section 3.3, MaskGIT.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from strait.randomness import gumbel, key, uniform, uniform_ids
from strait.types import Drawer, Grid, Sampling

_DRAW, _CHOOSE = 1, 2  # 3 and 4 are of revision.py
_KNOWN = torch.inf
_PIECE = {False: 2**18, True: 2**26}
"""Random numbers drawn at once, on a CPU (few enough to stay in the cache) and on a GPU."""


def draw(
    logits: Tensor,
    sampling: Sampling,
    level: int,
    positions: Tensor | None = None,
    by: Drawer | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw an id at every position, by Gumbel-max.

    Args:
        logits: ``[batch, count, codebook_size]``.
        sampling: settings of each row.
        level: number of the level, from 0.
        positions: int64 ``[batch, count]``, positions of the logits; all positions in order if None.
        by: ``draw_rows``, or a compiled version.

    Returns:
        ids int64 ``[batch, count]`` and their log-probabilities float32 ``[batch, count]``.
    """
    if positions is None:
        positions = torch.arange(logits.shape[1], device=logits.device)
    keys = key(sampling.seed[:, None], level, _DRAW, sampling.step[:, None], positions)
    rows, size = logits.flatten(0, 1), max(1, _PIECE[logits.is_cuda] // logits.shape[-1])
    pieces = [(by or draw_rows)(*piece) for piece in zip(rows.split(size), keys.flatten().split(size), strict=True)]
    ids, log_p = (torch.cat(parts).view(keys.shape) for parts in zip(*pieces, strict=True))
    return ids, log_p


def draw_rows(logits: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Draw an id for each row of logits ``[rows, codebook_size]`` with the noise of its key ``[rows]``; returns the
    ids and their log-probabilities.

    Gumbel-max without its second logarithm: the id with the largest logit - log(-log(u)) is that with the largest
    p / -log(u), and p is needed anyway.
    """
    p = logits.softmax(-1, dtype=torch.float32)
    negative = uniform_ids(keys, logits.shape[-1]).log_()
    if logits.is_cuda:  # its fast logarithm can be 0 for u just below 1
        negative = negative.clamp_(max=-(2.0**-24))
    ids = torch.div(p, negative, out=negative).argmin(-1)
    return ids, p.gather(-1, ids[:, None]).squeeze(-1).log_()


def confidence_scores(log_p: Tensor, sampling: Sampling, level: int) -> Tensor:
    """MaskGIT's scores: log-probability plus Gumbel noise that decreases with progress; the highest are kept.

    Args:
        log_p: ``[batch, length]`` of the drawn ids.
        sampling: settings of each row.
        level: number of the level, from 0.

    Returns:
        ``[batch, length]``.
    """
    positions = torch.arange(log_p.shape[1], device=log_p.device)
    keys = key(sampling.seed[:, None], level, _CHOOSE, sampling.step[:, None], positions)
    progress = (sampling.step + 1).float() / sampling.num_steps.float()
    scale = sampling.temperature * (1 - progress)
    return log_p + scale[:, None] * gumbel(uniform(keys))


@lru_cache
def halton_scores(grid: Grid, device: torch.device) -> Tensor:
    """Scores ``[length]`` of a fixed order that spreads over the grid; the highest are kept first.

    Positions are ranked by when a Halton sequence (bases 2 and 3) first hits them.
    """
    return -torch.tensor(_halton_ranks(grid), dtype=torch.float32, device=device)


@lru_cache
def _halton_ranks(grid: Grid) -> tuple[int, ...]:
    height, width = grid
    rank: dict[int, int] = {}
    index = 1
    while len(rank) < height * width:
        place = _halton(index, 2, height) * width + _halton(index, 3, width)
        rank.setdefault(place, len(rank))
        index += 1
    return tuple(rank[place] for place in range(height * width))


def _halton(index: int, base: int, size: int) -> int:
    """The cell, of ``size``, of the radical inverse: the digits mirrored at the point, 6 = 110 in base 2 -> 0.011.

    In integers: a fraction that is rounded below a cell's edge would be in the cell before.
    """
    mirrored, scale = 0, 1
    while index:
        mirrored, scale = mirrored * base + index % base, scale * base
        index //= base
    return mirrored * size // scale


def masked_positions(masked: Tensor, count: int) -> Tensor:
    """Positions of each row's masked tokens: bool ``[batch, length]`` -> int64 ``[batch, count]``, ascending.

    Rows with fewer masked tokens are padded with known positions; no row may have more. The shape does not depend on
    the mask.
    """
    return (~masked).to(torch.uint8).sort(dim=-1, stable=True).indices[:, :count]


def lowest(scores: Tensor, masked: Tensor, count: Tensor) -> Tensor:
    """The ``count`` masked positions with the lowest scores: bool ``[batch, length]``.

    Args:
        scores: ``[batch, length]``.
        masked: bool ``[batch, length]``.
        count: int ``[batch]``, at most the number of masked positions.
    """
    ranks = scores.masked_fill(~masked, _KNOWN).argsort(dim=-1, stable=True).argsort(dim=-1)
    return (ranks < count[:, None]) & masked
