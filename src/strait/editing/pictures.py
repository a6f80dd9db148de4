"""A user's picture and mask from files: any size and mode; what cannot be edited says why."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from strait.data.images import eight_bits, on_white


class PictureError(ValueError):
    """A picture or mask cannot be used; the message is for people."""


@dataclass(frozen=True)
class Picture:
    """A picture as it will be given back.

    Attributes:
        pixels: uint8 ``[height, width, 3 or 4]``; the fourth is transparency.
        pages: how many the file has; the first is taken.
    """

    pixels: np.ndarray
    pages: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def rgb(self) -> Image.Image:
        """What the model sees: on white where it is transparent."""
        return on_white(Image.fromarray(self.pixels))


def read_picture(path: str | Path, option: str = "picture") -> Picture:
    """Open a picture: turned as EXIF says, 8 bits a channel, RGB or RGBA.

    Args:
        path: of the file.
        option: what an error message starts with.

    Raises:
        PictureError: if there is no such file, or it is empty, damaged, too large, or no picture.
    """
    return picture_of(_content(path, option), f"{option}: {path}")


def picture_of(content: bytes, name: str, formats: Sequence[str] | None = None) -> Picture:
    """The same from a file's content.

    Args:
        content: of the file.
        name: what an error message starts with.
        formats: those of PIL that are taken; all by default.
    """
    picture, pages = _open(content, name, formats)
    return Picture(np.array(eight_bits(picture)), pages)


def read_mask(path: str | Path, size: tuple[int, int], option: str = "--mask") -> np.ndarray:
    """Open a mask image: bool ``[height, width]``, True where it is white (128 and above), on black if transparent.

    Raises:
        PictureError: as ``read_picture``, and if its size is not that of the picture.
    """
    return mask_of(_content(path, option), size, f"{option}: {path}")


def mask_of(content: bytes, size: tuple[int, int], name: str, formats: Sequence[str] | None = None) -> np.ndarray:
    """The same from a file's content."""
    pixels = np.array(eight_bits(_open(content, name, formats)[0]).convert("RGBA")).astype(np.uint32)
    grey = Image.fromarray(pixels[..., :3].astype(np.uint8)).convert("L")
    mask = np.asarray(grey, np.uint32) * pixels[..., 3] >= 128 * 255
    if mask.shape != size:
        raise PictureError(
            f"{name} is {mask.shape[1]}x{mask.shape[0]} pixels and the picture {size[1]}x{size[0]}; "
            "they must be the same"
        )
    return mask


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


def _content(path: str | Path, option: str) -> bytes:
    path = Path(path)
    if not path.is_file():
        raise PictureError(f"{option}: there is no file {path}")
    return path.read_bytes()


def _open(content: bytes, name: str, formats: Sequence[str] | None) -> tuple[Image.Image, int]:
    if not content:
        raise PictureError(f"{name} is empty (0 bytes)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(content), formats=None if formats is None else list(formats))
        pages = getattr(picture, "n_frames", 1)
        picture.load()
        return picture, pages
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = f"{(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f}"
        raise PictureError(f"{name} has too many pixels to be opened (more than {limit} million)") from error
    except UnidentifiedImageError as error:
        raise PictureError(f"{name} is not a picture, or is damaged") from error
    except Exception as error:  # what a damaged file can raise inside PIL has no end: SyntaxError, TypeError, ...
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise PictureError(f"{name} cannot be read ({reason})") from error
