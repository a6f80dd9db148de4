"""Between 8 bits a channel and ``Images`` in [-1, 1]: the one place that scales."""

from __future__ import annotations

import torch
from PIL import Image

from strait.types import Images


def to_pictures(images: Images) -> list[Image.Image]:
    """Images ``[batch, 3, height, width]`` in [-1, 1] -> pictures of 8 bits a channel."""
    pixels = images.detach().float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(image) for image in pixels.permute(0, 2, 3, 1).cpu().numpy()]
