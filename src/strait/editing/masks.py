"""Masks over pixels to masks over tokens, and the ramp by which an edit fades into what is kept.

A mask is True where to fill. A token is known only if none of its pixels is masked.
Source: StraIT section 4.4, appendix A (the unmasked tokens are the constraint).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from strait.randomness import key, uniform
from strait.types import Grid

_CHOICE_STREAM = 31


def dilate(masks: Tensor, pixels: int) -> Tensor:
    """Grow masks bool ``[batch, height, width]`` by so many pixels every way, diagonals included."""
    if pixels == 0:
        return masks
    return F.max_pool2d(masks.float()[:, None], 2 * pixels + 1, stride=1, padding=pixels)[:, 0] > 0


def token_masks(masks: Tensor, grids: Sequence[Grid], margin: int = 0) -> tuple[Tensor, ...]:
    """Which tokens a mask over pixels makes unknown, on every level.

    Args:
        masks: bool ``[batch, height, width]``, True where to fill.
        grids: (h, w) of each level.
        margin: pixels by which the mask is grown first.

    Returns:
        bool ``[batch, h, w]`` for each level: True where any pixel of the token is masked.

    Raises:
        ValueError: if a grid does not divide the mask's sides.
    """
    height, width = masks.shape[1:]
    for grid in grids:
        if height % grid[0] or width % grid[1]:
            raise ValueError(f"mask: its {height}x{width} pixels are no whole number of {grid[0]}x{grid[1]} tokens")
    grown = dilate(masks, margin).float()[:, None]
    return tuple(F.max_pool2d(grown, (height // rows, width // columns))[:, 0] > 0 for rows, columns in grids)


def random_subset(masked: Tensor, share: float, seeds: Tensor) -> Tensor:
    """A share of each row's masked tokens, rounded, at least one where there is any.

    Args:
        masked: bool ``[batch, h, w]``.
        share: in (0, 1].
        seeds: int64 ``[batch]``; a row's choice depends on its own alone.

    Returns:
        bool ``[batch, h, w]``.
    """
    flat = masked.flatten(1)
    positions = torch.arange(flat.shape[1], device=flat.device)
    noise = uniform(key(seeds[:, None], _CHOICE_STREAM, positions)).masked_fill(~flat, torch.inf)
    count = flat.sum(-1)
    wanted = (count * share + 0.5).floor().clamp(min=1).minimum(count)
    ranks = noise.argsort(dim=-1, stable=True).argsort(-1)
    return (ranks < wanted[:, None]).view_as(masked)


def thinned(masks: Sequence[Tensor], strength: float, seeds: Tensor) -> tuple[Tensor, ...]:
    """Token masks of which a share is left: random tokens of the coarsest level, and those that lie below them.

    Args:
        masks: bool ``[batch, h, w]`` of each level, coarse to fine.
        strength: the share, in (0, 1].
        seeds: int64 ``[batch]``.
    """
    if strength == 1:
        return tuple(masks)
    chosen = random_subset(masks[0], strength, seeds)
    return tuple(masked & _raised(chosen, masked.shape[1:]) for masked in masks)


def _raised(grid: Tensor, size: Sequence[int]) -> Tensor:
    rows, columns = size[0] // grid.shape[1], size[1] // grid.shape[2]
    return grid.repeat_interleave(rows, 1).repeat_interleave(columns, 2)


def inward_ramp(masks: Tensor, feather: int) -> Tensor:
    """The share of the new at each pixel: 0 outside the mask, rising inside it to 1 at a depth of ``feather`` pixels.

    The picture's own edges are no border of the mask.

    Args:
        masks: bool ``[batch, height, width]``.
        feather: 0 or 1 for a hard border.

    Returns:
        float ``[batch, height, width]`` in [0, 1].
    """
    depth = masks.float()
    inside = masks
    for _ in range(1, feather):
        inside = ~dilate(~inside, 1)
        depth = depth + inside.float()
    return depth / max(feather, 1)
