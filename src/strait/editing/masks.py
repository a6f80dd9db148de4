"""Masks over pixels to masks over tokens, and the ramp that blends an edit into its surroundings.

A mask is True where to fill. A top token stays known if the mask covers little of it, so that the filling follows the
rest of the picture; a finer token stays known only if none of its pixels is masked.
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
    """Dilate masks, bool ``[batch, height, width]``, by a number of pixels in all directions, including diagonals."""
    pixels = min(pixels, max(masks.shape[1:]))  # more has no effect
    if pixels == 0:
        return masks
    grown, width = masks.float()[:, None], 2 * pixels + 1
    for kernel, padding in (((width, 1), (pixels, 0)), ((1, width), (0, pixels))):
        grown = F.max_pool2d(grown, kernel, stride=1, padding=padding)
    return grown[:, 0] > 0


def token_masks(masks: Tensor, grids: Sequence[Grid], margin: int = 0, cover: float = 0.0) -> tuple[Tensor, ...]:
    """The tokens that a mask over pixels makes unknown, on every level.

    Args:
        masks: bool ``[batch, height, width]``, True where to fill.
        grids: (h, w) of each level, coarse to fine.
        margin: pixels by which the mask is dilated first.
        cover: on the coarsest level, the share of a token's pixels, in [0, 1), that may be masked.

    Returns:
        bool ``[batch, h, w]`` for each level. On the coarsest level a token is True if more than ``cover`` of it is
        masked; if that holds for no token, those with the largest share are True. On finer levels it is True if any
        of its pixels is masked.

    Raises:
        ValueError: if a grid does not divide the mask's sides.
    """
    height, width = masks.shape[1:]
    for grid in grids:
        if height % grid[0] or width % grid[1]:
            raise ValueError(f"mask: its {height}x{width} pixels are not divisible into {grid[0]}x{grid[1]} tokens")
    grown = dilate(masks, margin).float()[:, None]
    coarsest, *finer = (F.avg_pool2d(grown, (height // rows, width // columns))[:, 0] for rows, columns in grids)
    most = coarsest.amax((1, 2), keepdim=True)
    return (coarsest > most.sub(1e-6).clamp(max=cover).clamp(min=0), *(share > 0 for share in finer))


def random_subset(masked: Tensor, share: float, seeds: Tensor) -> Tensor:
    """A random share of each row's masked tokens, rounded, but at least one if any is masked.

    Args:
        masked: bool ``[batch, h, w]``.
        share: in (0, 1].
        seeds: int64 ``[batch]``; a row's choice depends only on its own seed.

    Returns:
        bool ``[batch, h, w]``.
    """
    flat = masked.flatten(1)
    positions = torch.arange(flat.shape[1], device=flat.device)
    noise = uniform(key(seeds[:, None], _CHOICE_STREAM, positions)).masked_fill(~flat, torch.inf)
    count = flat.sum(-1)
    chosen_count = (count * share + 0.5).floor().clamp(min=1).minimum(count)
    ranks = noise.argsort(dim=-1, stable=True).argsort(-1)
    return (ranks < chosen_count[:, None]).view_as(masked)


def thinned(masks: Sequence[Tensor], strength: float, seeds: Tensor) -> tuple[Tensor, ...]:
    """Reduce token masks to a random share of the coarsest level's tokens and the finer tokens below them.

    Args:
        masks: bool ``[batch, h, w]`` of each level, coarse to fine.
        strength: the share, in (0, 1].
        seeds: int64 ``[batch]``.
    """
    if strength == 1:
        return tuple(masks)
    chosen = random_subset(masks[0], strength, seeds)
    return tuple(masked & refined(chosen, masked.shape[1:]) for masked in masks)


def refined(masks: Tensor, size: Sequence[int]) -> Tensor:
    """Token masks ``[batch, h, w]`` on a finer grid of ``size``, whose sides are multiples of h and w."""
    rows, columns = size[0] // masks.shape[1], size[1] // masks.shape[2]
    return masks.repeat_interleave(rows, 1).repeat_interleave(columns, 2)


def inward_ramp(masks: Tensor, feather: int) -> Tensor:
    """The weight of the new content at each pixel: 0 outside the mask, rising inside it to 1 at depth ``feather``.

    The edges of the picture do not count as borders of the mask.

    Args:
        masks: bool ``[batch, height, width]``.
        feather: in pixels; 0 or 1 for a hard border, clipped to the longer side.

    Returns:
        float ``[batch, height, width]`` in [0, 1].
    """
    feather = max(1, min(feather, max(masks.shape[1:])))
    if feather == 1:
        return masks.float()
    return depths(masks).clamp(max=feather).div(feather)


def depths(masks: Tensor) -> Tensor:
    """The chessboard distance from each pixel to the nearest pixel outside the mask.

    Args:
        masks: bool ``[batch, height, width]``.

    Returns:
        float ``[batch, height, width]``: 0 outside the mask, infinite if everything is masked.
    """
    columns = torch.arange(masks.shape[2], dtype=torch.float32, device=masks.device).expand(masks.shape)
    last = columns.masked_fill(masks, -torch.inf).cummax(2).values
    following = columns.masked_fill(masks, torch.inf).flip(2).cummin(2).values.flip(2)
    down = torch.minimum(columns - last, following - columns)  # within each row
    up = down.clone()
    height = masks.shape[1]
    # Two passes, downward and upward, where a step to the next row may also be diagonal; the minimum is the distance.
    for field, rows in ((down, range(1, height)), (up, range(height - 2, -1, -1))):
        previous = -1 if field is down else 1
        for row in rows:
            nearest = -F.max_pool1d(-field[:, None, row + previous], 3, stride=1, padding=1)[:, 0]
            torch.minimum(field[:, row], nearest + 1, out=field[:, row])
    return torch.minimum(down, up)


def box_mask(box: str, size: tuple[int, int]) -> np.ndarray:
    """A box ``left,top,right,bottom`` in pixels, right and bottom exclusive, as a mask bool ``[height, width]``.

    Raises:
        PictureError: if it is malformed, or extends beyond the picture.
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
