"""An untrusted picture or mask opened: any size and mode to 8 bits a channel; what cannot be used says why."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from strait.runtime.messages import first_line

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""What is decoded whatever a file is called: PIL has formats that start other programs."""


class PictureError(ValueError):
    """A picture or mask cannot be used; the message is for people."""


@dataclass(frozen=True)
class Mask:
    """A mask from a file.

    Attributes:
        fill: bool ``[height, width]``, True where to fill.
        pages: how many pictures the file has; the first is taken.
    """

    fill: np.ndarray
    pages: int = 1


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


def eight_bits(picture: Image.Image) -> Image.Image:
    """A picture of any mode as RGB, or RGBA where it has transparency, of 8 bits; turned as EXIF says."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I") or picture.mode == "F":
        # Sixteen bits, or floats in [0, 1]: PIL would clip at 255.
        values = np.asarray(picture).astype(np.float32)
        largest = values.max(where=np.isfinite(values), initial=0)
        scale = 255.0 if picture.mode == "F" and largest <= 1 else 1 / 257
        # What is no number is black, and infinity white.
        values = np.nan_to_num(values, nan=0.0).clip(0, 65535)
        picture = Image.fromarray((values * scale).clip(0, 255).astype(np.uint8))
    transparent = picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info
    return picture.convert("RGBA" if transparent else "RGB")


def on_white(picture: Image.Image) -> Image.Image:
    """An RGB or RGBA picture as RGB, on white where it is transparent."""
    if picture.mode == "RGBA":
        ground = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(ground, picture).convert("RGB")
    return picture


def to_square(picture: Image.Image, size: int) -> np.ndarray:
    """A picture of any size and mode as uint8 ``[size, size, 3]``: turned as EXIF says, on white where it is
    transparent, its shorter side brought to ``size`` (Lanczos), the centre cut out.
    """
    picture = on_white(eight_bits(picture))
    if picture.size != (size, size):
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def read_picture(path: str | Path, option: str = "picture") -> Picture:
    """Open a picture: turned as EXIF says, 8 bits a channel, RGB or RGBA.

    Args:
        path: of the file.
        option: what an error message starts with.

    Raises:
        PictureError: if there is no such file, or it is empty, damaged, too large, or no picture.
    """
    return picture_of(_content(path, option), f"{option}: {path}")


def picture_of(content: bytes, name: str, formats: Sequence[str] = FORMATS) -> Picture:
    """The same from a file's content.

    Args:
        content: of the file.
        name: what an error message starts with.
        formats: those of PIL that are taken.
    """
    with _readable(name, formats):
        picture = _opened(content, name, formats)
        return Picture(np.array(eight_bits(picture)), getattr(picture, "n_frames", 1))


def read_mask(path: str | Path, size: tuple[int, int], option: str = "--mask") -> Mask:
    """Open a mask image: filled is where it is white (128 and above), on black if transparent.

    Raises:
        PictureError: as ``read_picture``, and if its size is not that of the picture, (height, width).
    """
    return mask_of(_content(path, option), size, f"{option}: {path}")


def mask_of(content: bytes, size: tuple[int, int], name: str, formats: Sequence[str] = FORMATS) -> Mask:
    """The same from a file's content."""
    with _readable(name, formats):
        picture = _opened(content, name, formats)
        # By the file's head, before its pixels take memory; EXIF may still turn it by a quarter.
        if sorted(picture.size) != sorted(size):
            _refuse_size(name, picture, size)
        pages, picture = getattr(picture, "n_frames", 1), eight_bits(picture)
        if picture.size != size[::-1]:
            _refuse_size(name, picture, size)
        return Mask(is_white(picture), pages)


def is_white(picture: Image.Image) -> np.ndarray:
    """Where an RGB or RGBA picture is white (128 and above), on black if transparent."""
    grey = np.asarray(picture.convert("L"))
    if picture.mode != "RGBA":
        return grey >= 128
    return grey.astype(np.uint16) * np.asarray(picture.getchannel("A")) >= 128 * 255


def _refuse_size(name: str, mask: Image.Image, size: tuple[int, int]) -> NoReturn:
    raise PictureError(
        f"{name} is {mask.width}x{mask.height} pixels and the picture {size[1]}x{size[0]}; they must be the same"
    )


def _content(path: str | Path, option: str) -> bytes:
    path = Path(path)
    if not path.is_file():
        raise PictureError(f"{option}: there is no file {path}")
    return path.read_bytes()


def _opened(content: bytes, name: str, formats: Sequence[str]) -> Image.Image:
    """By its head alone; the pixels are read when they are asked for."""
    if not content:
        raise PictureError(f"{name} is empty (0 bytes)")
    # Never all of PIL's formats: to some it starts other programs, whatever the file is called.
    return Image.open(io.BytesIO(content), formats=list(formats))


@contextmanager
def _readable(name: str, formats: Sequence[str]) -> Iterator[None]:
    """Whatever a file can raise, as a line for people."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except PictureError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = f"{(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f}"
        raise PictureError(f"{name} has too many pixels to be opened (more than {limit} million)") from error
    except UnidentifiedImageError as error:
        raise PictureError(f"{name} is not a picture, or is damaged ({', '.join(formats)} are read)") from error
    except Exception as error:  # what a damaged file can raise inside PIL has no end: SyntaxError, TypeError, ...
        raise PictureError(f"{name} cannot be read ({first_line(error)})") from error
