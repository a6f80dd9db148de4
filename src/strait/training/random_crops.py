"""Crops of a random size, place and shape, brought back to the size of the image: what a classifier learns from."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from strait.randomness import key, uniform
from strait.types import Images

_AREA, _SHAPE, _DOWN, _RIGHT = 1, 2, 3, 4
_LONGEST = math.log(4 / 3)


def crop_windows(keys: Tensor, smallest: float) -> Tensor:
    """Where to crop: ``[batch, 4]``, the (down, right) of the middle and the (height, width), as shares of the image.

    Args:
        keys: int64 ``[batch]``; the same one gives the same crop.
        smallest: share of the image's area; each crop has between this and all of it, and sides in a ratio of 3:4 to
            4:3. Where the image has no room for its longer side, that is cut off: above 3/4 a crop can have less.
    """
    area = smallest + (1 - smallest) * uniform(key(keys, _AREA))
    ratio = torch.exp(_LONGEST * (2 * uniform(key(keys, _SHAPE)) - 1))
    height, width = (area / ratio).sqrt().clamp(max=1), (area * ratio).sqrt().clamp(max=1)
    down = height / 2 + (1 - height) * uniform(key(keys, _DOWN))
    right = width / 2 + (1 - width) * uniform(key(keys, _RIGHT))
    return torch.stack([down, right, height, width], dim=1)


def random_crops(images: Images, keys: Tensor, smallest: float) -> Images:
    """A crop of each image at the image's own size, bilinear; the images themselves if ``smallest`` is 1."""
    if smallest == 1:
        return images
    down, right, height, width = crop_windows(keys, smallest).unbind(1)
    zero = torch.zeros_like(down)
    # The crop's corners in coordinates from -1 to 1: the middle, and half the size each way.
    rows = [torch.stack([width, zero, 2 * right - 1], dim=1), torch.stack([zero, height, 2 * down - 1], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1).to(images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)
