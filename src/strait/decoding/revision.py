"""Revision: tokens that were drawn and kept are masked again. Tokens that the user gave never are.

``remask`` follows ReMDM (Wang et al. 2025): at each step a random share. ``confidence`` takes the tokens that the
network finds least likely in the step's own forward pass, where it sees the whole canvas. Both change which tokens are
masked after a step, not how many, so they need no further passes. ``redraw`` follows Draft-and-Revise (Lee et al.
2022): after the last step the tokens are divided at random, and each part is drawn again given all others, in a pass
of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from strait.decoding.config import DecodingConfig
from strait.decoding.iterative import draw_masked
from strait.decoding.sampling import lowest
from strait.randomness import key, uniform
from strait.types import Canvas, Drawer, LogitsFn, Sampling

_REMASK, _PARTITION = 3, 4  # sampling.py has the first two


def taken_back(
    canvas: Canvas, sampling: Sampling, level: int, left: Tensor, logits: Tensor, config: DecodingConfig
) -> Tensor:
    """The kept tokens that a step masks again, at most as many as it leaves masked: bool ``[batch, length]``.

    Args:
        canvas: before the step.
        sampling: each row's step and settings.
        level: number of the level, from 0.
        left: int ``[batch]``, number of masked tokens after the step.
        logits: of the step; with ``confidence`` at all positions.
        config: kind and share of the revision.
    """
    kept = canvas.free & ~canvas.masked
    # As in masking.num_masked: a product that is an integer must not be floored to the one below.
    dtype, margin = (torch.float32, 1e-4) if left.device.type == "mps" else (torch.float64, 1e-9)
    count = torch.floor(config.revise_share * kept.sum(-1).to(dtype) + margin).to(torch.int64)
    if config.revise == "remask":
        positions = torch.arange(kept.shape[1], device=kept.device)
        scores = uniform(key(sampling.seed[:, None], level, _REMASK, sampling.step[:, None], positions))
    else:
        tokens = torch.where(kept, canvas.tokens, 0)  # masked positions may hold any ids
        scores = logits.log_softmax(-1, dtype=torch.float32).gather(-1, tokens[..., None]).squeeze(-1)
    return lowest(scores, kept, torch.minimum(count, left))


def partition(free: Tensor, seeds: Tensor, level: int, parts: int) -> Tensor:
    """Divide each row's free positions at random into parts whose sizes differ by at most one.

    Args:
        free: bool ``[batch, length]``.
        seeds: int64 ``[batch]``.
        level: number of the level, from 0.
        parts: number of parts.

    Returns:
        int64 ``[batch, length]``: the part of each free position, from 0; -1 elsewhere.
    """
    positions = torch.arange(free.shape[1], device=free.device)
    scores = uniform(key(seeds[:, None], level, _PARTITION, positions)).masked_fill(~free, torch.inf)
    ranks = scores.argsort(dim=-1, stable=True).argsort(dim=-1)
    return (ranks * parts // free.sum(-1, keepdim=True).clamp(min=1)).masked_fill(~free, -1)


def redraw_parts(
    network: LogitsFn, canvas: Canvas, sampling: Sampling, level: int, parts: int, by: Drawer | None
) -> Iterator[tuple[Canvas, Tensor, Tensor, Tensor]]:
    """Draw every token that was not given again, in as many passes as there are parts.

    Args:
        network: bound to its condition.
        canvas: with all tokens known.
        sampling: each row's settings.
        level: number of the level, from 0.
        parts: number of parts.
        by: draws the ids.

    Yields:
        After each pass the canvas, the ids, their log-probabilities (0 where not drawn), and what was masked.
    """
    sizes = canvas.free.sum(-1)
    most = -(-int(sizes.max()) // parts) if len(sizes) else 0
    numbers = partition(canvas.free, sampling.seed, level, parts)
    for index in range(parts):
        part = numbers == index
        # A row's noise must not depend on the steps of other rows.
        now = replace(sampling, step=sampling.num_steps + index)
        drawn, log_p, _ = draw_masked(network, replace(canvas, masked=part), now, level, most, by)
        canvas = replace(canvas, tokens=drawn)
        yield canvas, drawn, log_p, part
