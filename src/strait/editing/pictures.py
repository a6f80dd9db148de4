"""A user's picture and mask, from files or from memory: any size and mode; what cannot be edited says why."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from strait.data.images import eight_bits, on_white
from strait.data.sources import FORMATS
from strait.images_in import pixels_of
from strait.messages import first_line


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


AnyPicture: TypeAlias = Picture | Image.Image | np.ndarray | Tensor | str | Path
"""A picture as a user may hand it over: what ``images_in`` understands, or a file's path."""
AnyMask: TypeAlias = Mask | Image.Image | np.ndarray | Tensor | str | Path
"""A mask as a user may hand it over: bools, 8 bits or a picture that is white where to fill, or its path."""


def as_picture(picture: AnyPicture) -> Picture:
    """Whatever picture was handed over.

    Raises:
        ValueError: if it is none.
    """
    if isinstance(picture, Picture):
        return picture
    return read_picture(picture) if isinstance(picture, str | Path) else Picture(pixels_of(picture))


def as_mask(mask: AnyMask, size: tuple[int, int]) -> np.ndarray:
    """Whatever mask was handed over, bool ``[height, width]`` of the picture's ``size``.

    Raises:
        PictureError: if it is none, or of another size.
    """
    if isinstance(mask, str | Path):
        mask = read_mask(mask, size, "mask")
    if isinstance(mask, Mask):
        mask = mask.fill
    if isinstance(mask, Image.Image):
        mask = _white(eight_bits(mask))
    values = mask.cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    if values.dtype == np.uint8:
        values = values >= 128
    if values.dtype != bool:
        raise PictureError(f"mask: it must hold bools, True where to fill, or uint8, not {values.dtype}")
    if values.shape != size:
        raise PictureError(f"mask: its shape is {values.shape}, and the picture's (height, width) {size}")
    return values


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
        return Mask(_white(picture), pages)


def _white(picture: Image.Image) -> np.ndarray:
    """Where an RGB or RGBA picture is white (128 and above), on black if transparent."""
    grey = np.asarray(picture.convert("L"))
    if picture.mode != "RGBA":
        return grey >= 128
    return grey.astype(np.uint16) * np.asarray(picture.getchannel("A")) >= 128 * 255


def _refuse_size(name: str, mask: Image.Image, size: tuple[int, int]) -> NoReturn:
    raise PictureError(
        f"{name} is {mask.width}x{mask.height} pixels and the picture {size[1]}x{size[0]}; they must be the same"
    )


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
