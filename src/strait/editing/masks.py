"""Masks over pixels to masks over tokens, and the ramp by which an edit fades into what is kept.

A mask is True where to fill. A top token stays known where the mask covers little of it, so that the filling follows
what is left of the picture; a finer token is known only if none of its pixels is masked.
Source: StraIT section 4.4, appendix A (the unmasked tokens are the constraint).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from strait.pictures.reading import PictureError
from strait.randomness import key, uniform
from strait.types import Grid

_CHOICE_STREAM = 31


def dilate(masks: Tensor, pixels: int) -> Tensor:
    """Grow masks bool ``[batch, height, width]`` by so many pixels every way, diagonals included."""
    pixels = min(pixels, max(masks.shape[1:]))  # further than across it cannot grow
    if pixels == 0:
        return masks
    grown, width = masks.float()[:, None], 2 * pixels + 1
    for kernel, padding in (((width, 1), (pixels, 0)), ((1, width), (0, pixels))):
        grown = F.max_pool2d(grown, kernel, stride=1, padding=padding)
    return grown[:, 0] > 0


def token_masks(masks: Tensor, grids: Sequence[Grid], margin: int = 0, cover: float = 0.0) -> tuple[Tensor, ...]:
    """Which tokens a mask over pixels makes unknown, on every level.

    Args:
        masks: bool ``[batch, height, width]``, True where to fill.
        grids: (h, w) of each level, coarse to fine.
        margin: pixels by which the mask is grown first.
        cover: share of a token's pixels, in [0, 1), that may be masked on the coarsest level.

    Returns:
        bool ``[batch, h, w]`` for each level: True where more than ``cover`` of the token is masked, or on a finer
        level any pixel of it. Where the mask covers no token as far, those that it covers most are True.

    Raises:
        ValueError: if a grid does not divide the mask's sides.
    """
    height, width = masks.shape[1:]
    for grid in grids:
        if height % grid[0] or width % grid[1]:
            raise ValueError(f"mask: its {height}x{width} pixels are no whole number of {grid[0]}x{grid[1]} tokens")
    grown = dilate(masks, margin).float()[:, None]
    coarsest, *finer = (F.avg_pool2d(grown, (height // rows, width // columns))[:, 0] for rows, columns in grids)
    most = coarsest.amax((1, 2), keepdim=True)
    return (coarsest > most.sub(1e-6).clamp(max=cover).clamp(min=0), *(share > 0 for share in finer))


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
        feather: 0 or 1 for a hard border; the longer side is taken where it is more.

    Returns:
        float ``[batch, height, width]`` in [0, 1].
    """
    feather = max(1, min(feather, max(masks.shape[1:])))
    if feather == 1:
        return masks.float()
    return depths(masks).clamp(max=feather).div(feather)


def depths(masks: Tensor) -> Tensor:
    """How many steps, diagonal ones too, lead from each pixel to the nearest one outside the mask.

    Args:
        masks: bool ``[batch, height, width]``.

    Returns:
        float ``[batch, height, width]``: 0 outside the mask, infinite where everything is masked.
    """
    columns = torch.arange(masks.shape[2], dtype=torch.float32, device=masks.device).expand(masks.shape)
    last = columns.masked_fill(masks, -torch.inf).cummax(2).values
    following = columns.masked_fill(masks, torch.inf).flip(2).cummin(2).values.flip(2)
    down = torch.minimum(columns - last, following - columns)  # along its own row
    up = down.clone()
    height = masks.shape[1]
    # A step to the next row may go sideways as well: the smaller of the two passes is the distance in any direction.
    for field, rows in ((down, range(1, height)), (up, range(height - 2, -1, -1))):
        before = -1 if field is down else 1
        for row in rows:
            nearest = -F.max_pool1d(-field[:, None, row + before], 3, stride=1, padding=1)[:, 0]
            torch.minimum(field[:, row], nearest + 1, out=field[:, row])
    return torch.minimum(down, up)


def box_mask(box: str, size: tuple[int, int]) -> np.ndarray:
    """A box ``left,top,right,bottom`` in pixels, right and bottom exclusive, as a mask bool ``[height, width]``.

    Raises:
        PictureError: if it is no box, or reaches out of the picture.
    """
    try:
        left, top, right, bottom = (int(part) for part in box.split(","))
    except ValueError as error:
        raise PictureError(f"--box: {box!r} must be left,top,right,bottom in whole pixels") from error
    if not (0 <= left < right <= size[1] and 0 <= top < bottom <= size[0]):
        raise PictureError(f"--box: {box} must lie inside the picture, 0,0,{size[1]},{size[0]}")
    mask = np.zeros(size, bool)
    mask[top:bottom, left:right] = True
    return mask
