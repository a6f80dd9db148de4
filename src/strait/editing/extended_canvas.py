"""The geometry of an extended picture: its sizes in top tokens, in the model's pixels and in its own pixels.

The picture's shorter side is resized to the model's size, so the side of a top token, in the picture's own pixels, is
rarely an integer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from strait.editing.extension import MOST_SQUARES, Sides, windows
from strait.editing.placing import resized
from strait.pictures.images import to_images
from strait.pictures.reading import Picture, PictureError
from strait.types import Grid, Images

_ROUNDING = 1e-6


@dataclass(frozen=True)
class ExtendedCanvas:
    """The sizes of a picture and of its extension.

    Args:
        picture_size: (height, width) of the picture.
        sides: extension of each side, in top tokens.
        grid: (h, w) of the model's top level.
    """

    picture_size: tuple[int, int]
    sides: Sides
    grid: Grid

    @property
    def token(self) -> float:
        """Side of a top token in the picture's pixels."""
        return min(self.picture_size) / self.grid[0]

    @property
    def picture_tokens(self) -> Grid:
        """(rows, columns) of top tokens that cover the picture."""
        height, width = self.picture_size
        return math.ceil(height / self.token - _ROUNDING), math.ceil(width / self.token - _ROUNDING)

    @property
    def tokens(self) -> Grid:
        """(rows, columns) of top tokens of the extended picture."""
        rows, columns = self.picture_tokens
        return rows + self.sides.up + self.sides.down, columns + self.sides.left + self.sides.right

    @property
    def padding(self) -> tuple[int, int, int, int]:
        """(left, right, up, down) in the picture's pixels."""
        left, right, up, down = (round(tokens * self.token) for tokens in self.sides.padding())
        return left, right, up, down

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the extended picture."""
        left, right, up, down = self.padding
        return self.picture_size[0] + up + down, self.picture_size[1] + left + right

    def check(self) -> None:
        """Check that the extension is not too large.

        Raises:
            PictureError: naming the limit.
        """
        (rows, columns), most = self.tokens, MOST_SQUARES * self.grid[0] * self.grid[1]
        if rows * columns > most:
            raise PictureError(
                f"extend: the canvas would have {columns}x{rows} top tokens, more than {MOST_SQUARES} of the "
                f"model's images ({most}); extend it less, or use a less elongated picture"
            )
        height, width = self.size
        if Image.MAX_IMAGE_PIXELS and height * width > Image.MAX_IMAGE_PIXELS:
            raise PictureError(f"extend: the result would have {width}x{height} pixels; extend it less")

    def known(self) -> Tensor:
        """Which top tokens the picture covers entirely: bool ``[rows, columns]`` of ``picture_tokens``."""
        full_rows, full_columns = (int(length / self.token + _ROUNDING) for length in self.picture_size)
        known = torch.zeros(self.picture_tokens, dtype=torch.bool)
        known[:full_rows, :full_columns] = True
        return known

    def count_windows(self, most: int) -> int:
        """The number of windows that the extension decodes in turn, counted up to ``most``."""
        return sum(1 for _ in islice(windows(F.pad(self.known(), self.sides.padding()), self.grid), most))

    def as_model_images(self, picture: Picture, model_size: int) -> Images:
        """The picture at the model's scale, its edges repeated up to a whole number of top tokens.

        Args:
            picture: of ``picture_size``.
            model_size: side of the model's images.

        Returns:
            ``[1, 3, height, width]`` in [-1, 1].
        """
        whole = [
            max(round(tokens * self.token), length)
            for tokens, length in zip(self.picture_tokens, self.picture_size, strict=True)
        ]
        missing = [(0, padded - length) for padded, length in zip(whole, self.picture_size, strict=True)]
        image = Image.fromarray(np.pad(np.asarray(picture.rgb()), (*missing, (0, 0)), mode="edge"))
        rows, columns = self.picture_tokens
        scaled_size = (columns * (model_size // self.grid[0]), rows * (model_size // self.grid[0]))
        if image.size != scaled_size:
            image = image.resize(scaled_size, Image.Resampling.LANCZOS)
        return to_images(image)

    def with_repeated_edges(self, pixels: np.ndarray) -> np.ndarray:
        """The picture's pixels ``[height, width, channels]`` at the extended size, its edges repeated outside it."""
        left, right, up, down = self.padding
        return np.pad(pixels, ((up, down), (left, right), (0, 0)), mode="edge")

    def outside(self) -> np.ndarray:
        """Which pixels of the extended picture lie outside the picture: bool ``[height, width]``."""
        left, _, up, _ = self.padding
        outside = np.ones(self.size, bool)
        outside[up : up + self.picture_size[0], left : left + self.picture_size[1]] = False
        return outside

    def at_picture_scale(self, image: Images) -> np.ndarray:
        """The decoded extension ``[1, 3, h, w]`` as uint8 ``[height, width, 3]`` of ``size``."""
        (rows, columns), (height, width) = self.tokens, self.size
        pixels = resized(image, max(round(rows * self.token), height), max(round(columns * self.token), width))
        return pixels[:height, :width]
