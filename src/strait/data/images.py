"""Photographs of a source to model-sized ``Images``: cropped to squares, augmented, in batches.

A file that cannot be read never stops a run: batches carry its name and the reason.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from strait.data.config import DataConfig
from strait.data.sources import ImageSource
from strait.pictures.images import from_bytes
from strait.pictures.reading import NoPicture, eight_bits, on_white, to_square
from strait.randomness import key, uniform
from strait.runtime.messages import first_line
from strait.types import Images

_SIDE, _RIGHT, _DOWN, _INNER_RIGHT, _INNER_DOWN = 1, 2, 3, 4, 5


def augment(pixels: np.ndarray, draw: int, flip: bool, shift: int) -> np.ndarray:
    """Random flip and shift: uint8 ``[h, w, 3]`` -> the same shape.

    Args:
        pixels: the picture.
        draw: a non-negative random integer that determines the result.
        flip: whether to mirror at random.
        shift: largest shift in pixels each way; edge pixels are repeated.
    """
    if flip and draw & 1:
        pixels = pixels[:, ::-1]
    if shift:
        down = (draw >> 1) % (2 * shift + 1)
        right = (draw >> 16) % (2 * shift + 1)
        height, width = pixels.shape[:2]
        padded = np.pad(pixels, ((shift, shift), (shift, shift), (0, 0)), mode="edge")
        pixels = padded[down : down + height, right : right + width]
    return np.ascontiguousarray(pixels)


def training_view(
    picture: Image.Image, size: int, config: DataConfig, draw: int, crop: int | None = None
) -> np.ndarray:
    """A training view of a picture: a random square crop, flipped and shifted at random.

    Args:
        picture: of any size and mode.
        size: side in pixels of the model's images.
        config: ``smallest_crop``, ``flip`` and ``shift``.
        draw: a non-negative random integer that determines the view.
        crop: side in pixels of a square cut out of the image; none for the whole image.

    Returns:
        uint8 ``[size, size, 3]``, or of side ``crop``.
    """
    crop = size if crop is None else crop
    if config.smallest_crop == 1 and crop == size:
        pixels = to_square(picture, size)
    else:
        picture = on_white(eight_bits(picture))
        left, top, side = random_window(picture.width, picture.height, size, crop, config.smallest_crop, draw)
        box = (left, top, left + side, top + side)
        resized = side != crop
        picture = picture.resize((crop, crop), Image.Resampling.LANCZOS, box) if resized else picture.crop(box)
        pixels = np.asarray(picture)
    return augment(pixels, draw, config.flip, config.shift)


def random_window(width: int, height: int, size: int, crop: int, smallest: float, draw: int) -> tuple[int, int, int]:
    """A random window of a picture for training.

    The image is a random square with at least ``smallest`` of the area of the largest square (1: the centre square).
    The window is a random square in it, ``crop / size`` as wide. Neither is upscaled unless the picture is too small.

    Returns:
        left, top and side of the window in pixels of the picture.
    """
    largest = min(width, height)
    least = max(math.sqrt(smallest) * largest, min(largest, size))
    side, right, down, inner_right, inner_down = (
        float(uniform(key(draw, purpose))) for purpose in (_SIDE, _RIGHT, _DOWN, _INNER_RIGHT, _INNER_DOWN)
    )
    square = round(least + side * (largest - least))
    if smallest == 1:
        right = down = 0.5
    window = min(square, max(round(square * crop / size), min(largest, crop)))
    left = math.floor(right * (width - square + 1)) + math.floor(inner_right * (square - window + 1))
    top = math.floor(down * (height - square + 1)) + math.floor(inner_down * (square - window + 1))
    return left, top, window


@dataclass(frozen=True)
class ImageBatch:
    """A batch from the loader.

    Attributes:
        pixels: uint8 ``[batch, height, width, 3]``.
        labels: int64 ``[batch]``, -1 without classes.
        indices: int64 ``[batch]``, indices in the source.
        bad: (name, reason) of each file that could not be read.
    """

    pixels: Tensor
    labels: Tensor
    indices: Tensor
    bad: list[tuple[str, str]]

    def pin_memory(self) -> ImageBatch:
        """The batch in pinned memory, for copies to a GPU that overlap with computing."""
        return replace(self, pixels=self.pixels.pin_memory())

    def images(self, device: torch.device) -> Images:
        """float ``[batch, 3, height, width]`` in [-1, 1] on a device."""
        pixels = self.pixels.to(device, non_blocking=True).permute(0, 3, 1, 2)
        return from_bytes(pixels)


def read_square(source: ImageSource, index: int, size: int) -> tuple[np.ndarray, int] | tuple[str, str]:
    """Read one picture cut by ``to_square``; see ``read_pixels``."""
    return read_pixels(source, index, lambda picture: to_square(picture, size))


def read_pixels(
    source: ImageSource, index: int, cut: Callable[[Image.Image], np.ndarray]
) -> tuple[np.ndarray, int] | tuple[str, str]:
    """Read one picture as (pixels, label), or return (name, reason) if it cannot be read."""
    try:
        with warnings.catch_warnings():
            # A small file can decompress to any size; the limit is where PIL warns, at 89 million pixels.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture, label = source.read(index)
        return cut(picture), label
    except NoPicture as error:
        reason = str(error)
    except UnidentifiedImageError:
        reason = "not an image, or damaged"
    except Exception as error:  # a damaged file can raise anything inside PIL: SyntaxError, TypeError, ...
        reason = first_line(error)
    return source.name(index), reason


def in_order(
    source: ImageSource,
    size: int,
    batch_size: int,
    indices: Sequence[int] | None = None,
    cut: Callable[[Image.Image, int], np.ndarray] | None = None,
) -> Iterator[ImageBatch]:
    """All readable pictures (or those of ``indices``) once, in order; ``cut(picture, index)`` gives their pixels, by
    default ``to_square``."""

    def pixels_of(picture: Image.Image, index: int) -> np.ndarray:
        return to_square(picture, size) if cut is None else cut(picture, index)

    indices = range(len(source)) if indices is None else indices
    for start in range(0, len(indices), batch_size):
        good: list[tuple[np.ndarray, int, int]] = []
        bad: list[tuple[str, str]] = []
        for index in indices[start : start + batch_size]:
            first, second = read_pixels(source, index, partial(pixels_of, index=index))
            if isinstance(first, str):
                bad.append((first, str(second)))
            else:
                good.append((first, int(second), index))
        if good or bad:
            yield collate(good, bad, size)


def collate(good: list[tuple[np.ndarray, int, int]], bad: list[tuple[str, str]], size: int) -> ImageBatch:
    """A batch of ``good`` pictures (pixels, label, index) and ``bad`` ones (name, reason); ``size`` is the side of an
    empty batch."""
    pixels = np.stack([item[0] for item in good]) if good else np.zeros((0, size, size, 3), np.uint8)
    return ImageBatch(
        torch.from_numpy(pixels),
        torch.tensor([item[1] for item in good], dtype=torch.int64),
        torch.tensor([item[2] for item in good], dtype=torch.int64),
        bad,
    )
