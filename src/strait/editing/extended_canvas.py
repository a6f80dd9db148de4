"""The sizes of a picture that is extended: in top tokens, in the model's pixels and in its own.

The picture's shorter side is brought to the model's size. A top token is then so many of the picture's own pixels,
rarely a whole number of them.
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

from strait.editing.extension import Sides, windows
from strait.editing.placing import enlarged
from strait.pictures.images import to_images
from strait.pictures.reading import Picture, PictureError
from strait.types import Grid, Images

MOST_SQUARES = 64
"""How many times the model's own number of tokens an extended canvas may have: it is decoded at once."""
_ROUNDING = 1e-6


@dataclass(frozen=True)
class ExtendedCanvas:
    """A picture and how far it is extended.

    Args:
        picture_size: (height, width) of the picture.
        sides: how far, in top tokens.
        grid: of the model's top level.
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
        """(rows, columns) of top tokens that hold all of the picture."""
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
        """Refuse what is too large to be made.

        Raises:
            PictureError: naming the limit.
        """
        (rows, columns), most = self.tokens, MOST_SQUARES * self.grid[0] * self.grid[1]
        if rows * columns > most:
            raise PictureError(
                f"extend: the canvas would have {columns}x{rows} top tokens, more than {MOST_SQUARES} of the "
                f"model's images ({most}); extend by less, or a picture that is less narrow"
            )
        height, width = self.size
        if Image.MAX_IMAGE_PIXELS and height * width > Image.MAX_IMAGE_PIXELS:
            raise PictureError(f"extend: the result would have {width}x{height} pixels; extend by less")

    def known(self) -> Tensor:
        """Which of the picture's top tokens it fills wholly: bool ``[rows, columns]`` of ``picture_tokens``."""
        full_rows, full_columns = (int(length / self.token + _ROUNDING) for length in self.picture_size)
        known = torch.zeros(self.picture_tokens, dtype=torch.bool)
        known[:full_rows, :full_columns] = True
        return known

    def count_windows(self, most: int) -> int:
        """How many windows the extension takes, one after the other; counting ends at ``most``."""
        return sum(1 for _ in islice(windows(F.pad(self.known(), self.sides.padding()), self.grid), most))

    def as_model_images(self, picture: Picture, model_size: int) -> Images:
        """The picture on a whole number of top tokens, at the model's scale; its edge is repeated where they are more.

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
        missing = [(0, length - there) for length, there in zip(whole, self.picture_size, strict=True)]
        filled = Image.fromarray(np.pad(np.asarray(picture.rgb()), (*missing, (0, 0)), mode="edge"))
        rows, columns = self.picture_tokens
        scaled_size = (columns * (model_size // self.grid[0]), rows * (model_size // self.grid[0]))
        if filled.size != scaled_size:
            filled = filled.resize(scaled_size, Image.Resampling.LANCZOS)
        return to_images(filled)

    def with_repeated_edges(self, pixels: np.ndarray) -> np.ndarray:
        """The picture's pixels ``[height, width, channels]`` at the extended size, its edge repeated outside it."""
        left, right, up, down = self.padding
        return np.pad(pixels, ((up, down), (left, right), (0, 0)), mode="edge")

    def outside(self) -> np.ndarray:
        """Which pixels of the extended picture are not the picture's own: bool ``[height, width]``."""
        left, _, up, _ = self.padding
        outside = np.ones(self.size, bool)
        outside[up : up + self.picture_size[0], left : left + self.picture_size[1]] = False
        return outside

    def at_picture_scale(self, result: Images) -> np.ndarray:
        """What the model drew on ``tokens``, ``[1, 3, h, w]``, as uint8 ``[height, width, 3]`` of ``size``."""
        (rows, columns), (height, width) = self.tokens, self.size
        pixels = enlarged(result, max(round(rows * self.token), height), max(round(columns * self.token), width))
        return pixels[:height, :width]
