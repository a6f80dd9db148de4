"""Convert between 8-bit pixels and ``Images`` in [-1, 1]; the only module of the package that scales pixels."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from strait.types import Images


def from_bytes(pixels: Tensor) -> Images:
    """uint8 values in 0..255 of any shape -> float32 in [-1, 1]."""
    return pixels.float().div(127.5).sub(1)


def as_bytes(images: Images) -> Tensor:
    """Images in [-1, 1] -> uint8 ``[batch, 3, height, width]``, the values that a PNG stores."""
    return images.detach().float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def to_images(picture: Image.Image) -> Images:
    """An RGB picture -> images ``[1, 3, height, width]`` in [-1, 1]."""
    return from_bytes(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None])


def to_pictures(images: Images) -> list[Image.Image]:
    """Images ``[batch, 3, height, width]`` in [-1, 1] -> 8-bit RGB pictures."""
    return [Image.fromarray(image) for image in as_bytes(images).permute(0, 2, 3, 1).cpu().numpy()]
