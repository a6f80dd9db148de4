"""Photographs of a source to model-sized ``Images``: squares of pixels, mirrored and moved, in batches.

One bad file never stops a run: it is reported once by name, skipped, and counted at the end.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from strait.data.sources import ImageSource
from strait.pictures.reading import to_square
from strait.runtime.messages import first_line
from strait.runtime.ranks import ALONE, Ranks
from strait.types import Images


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
        return pixels.float().div(127.5).sub(1)


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
    """Read one picture, or say (name, reason) why it cannot be read."""
    try:
        with warnings.catch_warnings():
            # A small file can ask for any amount of memory; PIL warns at 89 million pixels, and that is enough.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture, label = source.read(index)
        return to_square(picture, size), label
    except UnidentifiedImageError:
        reason = "not an image, or damaged"
    except Exception as error:  # what a damaged file can raise inside PIL has no end: SyntaxError, TypeError, ...
        reason = first_line(error)
    return source.name(index), reason


def in_order(
    source: ImageSource, size: int, batch_size: int, indices: Sequence[int] | None = None
) -> Iterator[ImageBatch]:
    """All pictures (or those of ``indices``) once, in order, damaged ones left out."""
    wanted = range(len(source)) if indices is None else indices
    for start in range(0, len(wanted), batch_size):
        good: list[tuple[np.ndarray, int, int]] = []
        bad: list[tuple[str, str]] = []
        for index in wanted[start : start + batch_size]:
            first, second = read_square(source, index, size)
            if isinstance(first, str):
                bad.append((first, str(second)))
            else:
                good.append((first, int(second), index))
        if good or bad:
            yield collate(good, bad, size)


def collate(good: list[tuple[np.ndarray, int, int]], bad: list[tuple[str, str]], size: int) -> ImageBatch:
    """Pictures (pixels, label, index) and the reports of bad ones as a batch; ``size`` is used where none is good."""
    pixels = np.stack([item[0] for item in good]) if good else np.zeros((0, size, size, 3), np.uint8)
    return ImageBatch(
        torch.from_numpy(pixels),
        torch.tensor([item[1] for item in good], dtype=torch.int64),
        torch.tensor([item[2] for item in good], dtype=torch.int64),
        bad,
    )
