"""Photographs of a source to model-sized ``Images``: squares of pixels, mirrored and moved, in batches.

One bad file never stops a run: it is reported once by name, skipped, and counted at the end.
"""

from __future__ import annotations

import math
import sys
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
from strait.runtime.ranks import ALONE, Ranks
from strait.types import Images

_SIDE, _RIGHT, _DOWN, _INNER_RIGHT, _INNER_DOWN = 1, 2, 3, 4, 5


def augment(pixels: np.ndarray, draw: int, flip: bool, shift: int) -> np.ndarray:
    """Mirror and move a picture as a random number says: uint8 ``[h, w, 3]`` -> the same.

    Args:
        pixels: the picture.
        draw: a non-negative random integer; the same one gives the same result.
        flip: whether it may be mirrored.
        shift: by how many pixels it may be moved each way; edges are repeated.
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
    """What training sees of a picture: a square of it, mirrored and moved, as a random number says.

    Args:
        picture: of any size and mode.
        size: side in pixels of the model's images.
        config: ``smallest_crop``, ``flip`` and ``shift``.
        draw: a non-negative random integer; the same one gives the same result.
        crop: side in pixels of a square to cut out of the image; none for all of it.

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
        same_size = side == crop
        picture = picture.crop(box) if same_size else picture.resize((crop, crop), Image.Resampling.LANCZOS, box)
        pixels = np.asarray(picture)
    return augment(pixels, draw, config.flip, config.shift)


def random_window(width: int, height: int, size: int, crop: int, smallest: float, draw: int) -> tuple[int, int, int]:
    """Which square of a picture becomes a training image.

    The image is a square of at least ``smallest`` of the largest one's area, anywhere (1: the centre square); the
    window is a square of ``crop`` of its ``size`` pixels, anywhere in it. Neither is smaller than the pixels that it
    becomes, where the picture has them.

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
    """Pictures as they leave the loader.

    Attributes:
        pixels: uint8 ``[batch, height, width, 3]``.
        labels: int64 ``[batch]``, -1 without classes.
        indices: int64 ``[batch]``, which of the source they are.
        bad: names and reasons of files that could not be read.
    """

    pixels: Tensor
    labels: Tensor
    indices: Tensor
    bad: list[tuple[str, str]]

    def pin_memory(self) -> ImageBatch:
        """The loader calls this where pixels are to be copied to a GPU while it computes."""
        return replace(self, pixels=self.pixels.pin_memory())

    def images(self, device: torch.device) -> Images:
        """float ``[batch, 3, height, width]`` in [-1, 1] on a device."""
        pixels = self.pixels.to(device, non_blocking=True).permute(0, 3, 1, 2)
        return from_bytes(pixels)


class BadFiles:
    """Remembers damaged files: each is reported once, and the count at the end. The first of several processes speaks
    for all, when they ``share`` what they found."""

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self._ranks = ranks
        self._seen: set[str] = set()
        self._unsaid: list[tuple[str, str]] = []

    def note(self, bad: list[tuple[str, str]]) -> None:
        for name, reason in bad:
            if name not in self._seen:
                self._seen.add(name)
                if self._ranks.first:
                    print(f"skipped {name}: {reason}", file=sys.stderr, flush=True)
                else:
                    self._unsaid.append((name, reason))

    def share(self) -> None:
        """Tell the first process what the others found; every process must ask."""
        found, self._unsaid = self._ranks.gather(self._unsaid), []
        if self._ranks.first:
            for bad in found[1:]:
                self.note(bad)

    def summary(self) -> None:
        """The count, at the end; every process must ask."""
        self.share()
        if self._seen and self._ranks.first:
            count = len(self._seen)
            print(f"{count} unreadable image{'s were' if count > 1 else ' was'} skipped", file=sys.stderr, flush=True)


def read_square(source: ImageSource, index: int, size: int) -> tuple[np.ndarray, int] | tuple[str, str]:
    """Read one picture as ``to_square`` cuts it, or say (name, reason) why it cannot be read."""
    return read_pixels(source, index, lambda picture: to_square(picture, size))


def read_pixels(
    source: ImageSource, index: int, cut: Callable[[Image.Image], np.ndarray]
) -> tuple[np.ndarray, int] | tuple[str, str]:
    """Read one picture, cut to pixels, and its label; or say (name, reason) why it cannot be read."""
    try:
        with warnings.catch_warnings():
            # A small file can ask for any amount of memory; PIL warns at 89 million pixels, and that is enough.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture, label = source.read(index)
        return cut(picture), label
    except NoPicture as error:
        reason = str(error)
    except UnidentifiedImageError:
        reason = "not an image, or damaged"
    except Exception as error:  # what a damaged file can raise inside PIL has no end: SyntaxError, TypeError, ...
        reason = first_line(error)
    return source.name(index), reason


def in_order(
    source: ImageSource,
    size: int,
    batch_size: int,
    indices: Sequence[int] | None = None,
    cut: Callable[[Image.Image, int], np.ndarray] | None = None,
) -> Iterator[ImageBatch]:
    """All pictures (or those of ``indices``) once, in order, damaged ones left out; ``cut`` makes the pixels of the
    picture of an index, by default ``to_square``."""
    wanted = range(len(source)) if indices is None else indices
    for start in range(0, len(wanted), batch_size):
        good: list[tuple[np.ndarray, int, int]] = []
        bad: list[tuple[str, str]] = []
        for index in wanted[start : start + batch_size]:
            first, second = read_pixels(source, index, partial(_cut, index, size, cut))
            if isinstance(first, str):
                bad.append((first, str(second)))
            else:
                good.append((first, int(second), index))
        if good or bad:
            yield collate(good, bad, size)


def _cut(
    index: int, size: int, cut: Callable[[Image.Image, int], np.ndarray] | None, picture: Image.Image
) -> np.ndarray:
    return to_square(picture, size) if cut is None else cut(picture, index)


def collate(good: list[tuple[np.ndarray, int, int]], bad: list[tuple[str, str]], size: int) -> ImageBatch:
    """Pictures (pixels, label, index) and the reports of bad ones as a batch; ``size`` is used where none is good."""
    pixels = np.stack([item[0] for item in good]) if good else np.zeros((0, size, size, 3), np.uint8)
    return ImageBatch(
        torch.from_numpy(pixels),
        torch.tensor([item[1] for item in good], dtype=torch.int64),
        torch.tensor([item[2] for item in good], dtype=torch.int64),
        bad,
    )
