"""Images out: tensors to pictures, contact sheets, and PNG files that carry their settings."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from strait.files import write_bytes
from strait.types import Images


def to_pictures(images: Images) -> list[Image.Image]:
    """Images ``[batch, 3, height, width]`` in [-1, 1] -> pictures of 8 bits a channel."""
    pixels = images.detach().float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(image) for image in pixels.permute(0, 2, 3, 1).cpu().numpy()]


def contact_sheet(images: Images, columns: int, titles: Sequence[str] = (), gap: int = 2) -> Image.Image:
    """A grid of images, row by row, on white, ``gap`` pixels apart; ``titles`` name the rows, one each, above them."""
    pictures = to_pictures(images)
    width, height = pictures[0].size
    band = 16 if titles else 0
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap + band) + gap), (255, 255, 255))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        top = gap + row * (height + gap + band)
        if titles and column == 0:
            draw.text((gap + 1, top + 1), titles[row], fill=(40, 40, 40), font=font)
        sheet.paste(picture, (gap + column * (width + gap), top + band))
    return sheet


def png_bytes(picture: Image.Image, settings: dict[str, Any]) -> bytes:
    """A PNG with its settings as JSON in the text chunk ``strait``: no time, no path; equal images, equal bytes."""
    info = PngInfo()
    info.add_text("strait", json.dumps(settings, sort_keys=True))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def write_new(path: Path, content: bytes, overwrite: bool) -> None:
    """Write a file whole, but never over another's content.

    Raises:
        FileExistsError: if the file is there with different content and ``overwrite`` was not asked for.
    """
    if path.exists() and not overwrite and path.read_bytes() != content:
        raise FileExistsError(f"{path} exists and differs; write elsewhere, or say --overwrite")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content)
