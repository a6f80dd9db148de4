"""Open untrusted pictures and masks of any size and mode as 8 bits per channel, with clear errors."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from strait.pictures.profiles import to_srgb
from strait.runtime.messages import first_line

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
"""The accepted formats, whatever the file's name: some of PIL's decoders start other programs."""
MOST_SCANS = 100
"""Limit on the scans of a JPEG. Encoders write about ten; a file of 37 KB can request 1,500."""
_MOST_PAGES = 1000
_OTHER_KINDS = (b"heic", b"heix", b"hevc", b"mif1", b"msf1", b"avif", b"avis")
_START_OF_SCAN, _SAMPLE_FORMAT = b"\xff\xda", 339
# Within a scan, FF followed by 00 or D0 to D7 is not a marker, and repeated FF bytes are padding.
_MARKER = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]", re.DOTALL)


class PictureError(ValueError):
    """A picture or mask cannot be used."""


class NoPicture(UnidentifiedImageError):
    """A file that is called a picture and is something else; the message says what."""


@dataclass(frozen=True)
class Mask:
    """A mask from a file.

    Attributes:
        fill: bool ``[height, width]``, True where to fill.
        pages: number of pictures in the file; only the first is used.
    """

    fill: np.ndarray
    pages: int = 1


@dataclass(frozen=True)
class Picture:
    """A picture at its original size.

    Attributes:
        pixels: uint8 ``[height, width, 3 or 4]``; the fourth channel is alpha.
        pages: number of pictures in the file; only the first is used.
    """

    pixels: np.ndarray
    pages: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.pixels.shape[0], self.pixels.shape[1]

    def rgb(self) -> Image.Image:
        """The picture as RGB, with transparency on white."""
        return on_white(Image.fromarray(self.pixels))


def open_picture(source: str | Path | bytes, formats: Sequence[str] = FORMATS) -> Image.Image:
    """Open an untrusted picture; pixels are decoded lazily. Every reader of the package goes through this function.

    Args:
        source: a file's path or its content.
        formats: the accepted formats of PIL, whatever the file's name.

    Raises:
        ValueError: if decoding would take far longer than the file's size suggests.
        OSError: or another error of PIL, if it is not a picture.
    """
    try:
        picture = Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=list(formats))
    except UnidentifiedImageError as error:
        instead = _instead_of_a_picture(source)
        if instead is None:
            raise
        raise NoPicture(instead) from error
    if picture.format in ("JPEG", "MPO"):
        content = source if isinstance(source, bytes) else Path(source).read_bytes()
        if _scans(content) > MOST_SCANS:
            picture.close()
            raise ValueError(f"a JPEG with more than {MOST_SCANS} scans, which would take minutes to decode")
    return picture


def _instead_of_a_picture(source: str | Path | bytes) -> str | None:
    """What stands in the place of a picture, by its first bytes, where people often meet it."""
    if isinstance(source, bytes):
        head = source[:512]
    else:
        with open(source, "rb") as file:
            head = file.read(512)
    if not head:
        return "it is empty (0 bytes)"
    if head.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, not the picture; git lfs pull fetches that"
    if head.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        return "it is a web page, such as an error in the place of a download"
    if head[4:8] == b"ftyp" and head[8:12] in _OTHER_KINDS:
        return "it is HEIC or AVIF, whatever its name; convert it to JPEG or PNG"
    return None


def _scans(content: bytes) -> int:
    """The number of scans of a JPEG if it may exceed ``MOST_SCANS``, else 0."""
    if content.count(_START_OF_SCAN) <= MOST_SCANS:
        return 0
    # Markers inside other segments (a thumbnail) or after the end of the picture (a video) do not count.
    place, scans = 2, 0
    while (marker := _MARKER.search(content, place)) is not None and scans <= MOST_SCANS:
        kind, place = marker[0][-1], marker.end()
        if kind == 0xD9:  # the end
            break
        if kind not in (0x01, 0xD8):  # the only other markers without a length
            scans += kind == 0xDA
            place += int.from_bytes(content[place : place + 2])
    return scans


def eight_bits(picture: Image.Image) -> Image.Image:
    """A picture of any mode -> 8-bit sRGB, RGB or (with transparency) RGBA; rotated as EXIF says."""
    picture = ImageOps.exif_transpose(picture)
    profile = picture.info.get("icc_profile")
    if picture.mode.startswith("I") or picture.mode == "F":
        picture = _from_range(picture)
    transparent = picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info
    picture = to_srgb(picture, profile, "RGBA" if transparent else "RGB")
    picture.info.pop("icc_profile", None)  # it must not be applied twice
    return picture


def _from_range(picture: Image.Image) -> Image.Image:
    """A grey picture of wide integers or floats -> 8 bits. Files do not state the bits in use: the largest value
    decides."""
    values = np.asarray(picture)
    if values.dtype == np.int32 and 2 not in _tag(picture, _SAMPLE_FORMAT):  # PIL has no unsigned 32-bit mode
        values = values.view(np.uint32)
    is_float = values.dtype.kind == "f"
    values = values.astype(np.float64)
    largest = values.max(where=np.isfinite(values), initial=0)
    if is_float and largest <= 1:
        white = 1.0
    else:
        deepest = 16 if is_float else max(16, int(largest).bit_length())
        white = 2.0 ** next((bits for bits in (8, 12) if largest < 2**bits), deepest) - 1
    # NaN becomes black, and infinity white.
    values = np.nan_to_num(values, nan=0.0, posinf=white, neginf=0.0).clip(0, white)
    return Image.fromarray((values * (255 / white)).astype(np.uint8))


def _tag(picture: Image.Image, number: int) -> tuple[int, ...]:
    """The values of a TIFF tag; empty for other formats."""
    value = getattr(picture, "tag_v2", {}).get(number, ())
    return tuple(value) if isinstance(value, tuple) else (value,)


def on_white(picture: Image.Image) -> Image.Image:
    """An RGB or RGBA picture -> RGB, with transparency on white."""
    if picture.mode == "RGBA":
        background = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        picture = Image.alpha_composite(background, picture).convert("RGB")
    return picture


def to_square(picture: Image.Image, size: int) -> np.ndarray:
    """A picture of any size and mode -> uint8 ``[size, size, 3]``: rotated as EXIF says, transparency on white, the
    shorter side resized to ``size`` (Lanczos) and the centre cropped.
    """
    picture = on_white(eight_bits(picture))
    if picture.size != (size, size):
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def read_picture(path: str | Path, option: str = "picture") -> Picture:
    """Read a picture: rotated as EXIF says, 8 bits per channel, RGB or RGBA.

    Args:
        path: of the file.
        option: prefix of error messages.

    Raises:
        PictureError: if the file is missing, empty, damaged, too large, or not a picture.
    """
    return picture_of(_content(path, option), f"{option}: {path}")


def picture_of(content: bytes, name: str, formats: Sequence[str] = FORMATS) -> Picture:
    """``read_picture`` from a file's content.

    Args:
        content: of the file.
        name: prefix of error messages.
        formats: the accepted formats of PIL.
    """
    with _readable(name, formats):
        picture = _opened(content, name, formats)
        return Picture(np.array(eight_bits(picture)), _pages(picture))


def read_mask(path: str | Path, size: tuple[int, int], option: str = "--mask") -> Mask:
    """Read a mask image: True where it is white (128 and above); transparency counts as black.

    Raises:
        PictureError: as ``read_picture``, and if its size is not the picture's ``size``, (height, width).
    """
    return mask_of(_content(path, option), size, f"{option}: {path}")


def mask_of(content: bytes, size: tuple[int, int], name: str, formats: Sequence[str] = FORMATS) -> Mask:
    """``read_mask`` from a file's content."""
    with _readable(name, formats):
        picture = _opened(content, name, formats)
        # Checked before the pixels are decoded; EXIF may still rotate it by 90 degrees.
        if sorted(picture.size) != sorted(size):
            _refuse_size(name, picture, size)
        pages, picture = _pages(picture), eight_bits(picture)
        if picture.size != size[::-1]:
            _refuse_size(name, picture, size)
        return Mask(is_white(picture), pages)


def is_white(picture: Image.Image) -> np.ndarray:
    """Where an RGB or RGBA picture is white (``is_filled``); transparency counts as black."""
    grey = np.asarray(picture.convert("L"))
    if picture.mode == "RGBA":
        grey = grey.astype(np.float32) * np.asarray(picture.getchannel("A")) / 255
    return is_filled(grey)


def is_filled(values: np.ndarray) -> np.ndarray:
    """Where an 8-bit mask is set: values of at least 128, or of 1 if no value is larger (a mask of booleans)."""
    return values >= (128 if values.max(initial=0) > 1 else 1)


def _pages(picture: Image.Image) -> int:
    """The number of pictures in a file, counted up to ``_MOST_PAGES``: a few bytes can declare a page of a TIFF."""
    if picture.format != "TIFF":
        return getattr(picture, "n_frames", 1)
    pages = 1
    with suppress(EOFError):
        while pages < _MOST_PAGES:
            picture.seek(pages)
            pages += 1
    picture.seek(0)
    return pages


def _refuse_size(name: str, mask: Image.Image, size: tuple[int, int]) -> NoReturn:
    raise PictureError(
        f"{name} is {mask.width}x{mask.height} pixels but the picture is {size[1]}x{size[0]}; their sizes must match"
    )


def _content(path: str | Path, option: str) -> bytes:
    path = Path(path)
    if not path.is_file():
        raise PictureError(f"{option}: there is no file {path}")
    return path.read_bytes()


def _opened(content: bytes, name: str, formats: Sequence[str]) -> Image.Image:
    if not content:
        raise PictureError(f"{name} is empty (0 bytes)")
    return open_picture(content, formats)


@contextmanager
def _readable(name: str, formats: Sequence[str]) -> Iterator[None]:
    """Turn every error of a damaged file into a ``PictureError``."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except PictureError:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        limit = f"{(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f}"
        raise PictureError(f"{name} has too many pixels (more than {limit} million)") from error
    except NoPicture as error:
        raise PictureError(f"{name} cannot be read: {error}") from error
    except UnidentifiedImageError as error:
        raise PictureError(
            f"{name} is not a picture, or is damaged (supported formats: {', '.join(formats)})"
        ) from error
    except Exception as error:  # damaged files make PIL raise almost anything: SyntaxError, TypeError, ...
        raise PictureError(f"{name} cannot be read ({first_line(error)})") from error
