"""The tokens of every image, computed once and memory-mapped: stage 2 never sees a pixel.

    tokens/SPLIT/cache.json    the inputs of the cache, and the hashes of the arrays; written last, so a folder without
                               it is not a cache
                 LEVEL.npy     [variants, images, h * w], one for each level
                 labels.npy    [images], -1 without classes

Written by ``data.encoding``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strait.data.sources import DataError
from strait.runtime.files import sha256
from strait.types import NULL_LABEL


class TokenCache:
    """A token cache on disk. Opening it reads all arrays once, to verify their hashes.

    Attributes:
        levels: memory-mapped integer arrays ``[variants, images, length]``, coarse to fine.
        labels: int64 ``[images]``.

    Raises:
        DataError: if the folder is not a cache, or is damaged.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.made_from: dict[str, Any] = json.loads((folder / "cache.json").read_text())
            self.names: list[str] = self.made_from["levels"]
            shapes = self.made_from["shapes"]
            self.grids: list[tuple[int, int]] = [(height, width) for height, width in self.made_from["grids"]]
            lengths = [height * width for height, width in self.grids]
            self.levels = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in self.names]
            self.labels = torch.from_numpy(np.load(folder / "labels.npy").astype(np.int64))
            changed = [
                name for name in (*self.names, "labels") if array_hash(folder, name) != self.made_from["sha256"][name]
            ]
        except Exception as error:  # a damaged header can raise anything inside numpy: TokenError, ...
            raise DataError(
                f"{folder} is not a token cache: {str(error) or type(error).__name__}; delete it to build it again"
            ) from error
        if (
            [list(level.shape) for level in self.levels] != shapes
            or {level.shape[:-1] for level in self.levels} != {(self.variants, len(self))}
            or [level.shape[-1] for level in self.levels] != lengths
        ):
            raise DataError(f"{folder} is damaged (its arrays have other shapes); delete it to build it again")
        if changed:
            raise DataError(f"{folder} is damaged (the hash of {changed[0]}.npy differs); delete it to build it again")
        self.folder = folder

    def require(self, grids: Sequence[tuple[int, int]], codebook_sizes: Sequence[int], classes: int) -> None:
        """Refuse a cache that does not fit a model.

        Args:
            grids: of the model's levels, coarse to fine; can be more than the cache has.
            codebook_sizes: of these levels.
            classes: number of the model's classes.

        Raises:
            DataError: naming what does not fit.
        """
        faults = []
        for name, grid, level, model_grid, size in zip(
            self.names, self.grids, self.levels, grids, codebook_sizes, strict=False
        ):
            if grid != tuple(model_grid):
                faults.append(f"the {name} has a grid of {grid} instead of {tuple(model_grid)}")
            elif level.size and int(level.max()) >= size:
                faults.append(f"the {name} has the token {int(level.max())}, but the codebook only {size} codes")
        invalid = self.labels[(self.labels < NULL_LABEL) | (self.labels >= classes)]
        if len(invalid):
            faults.append(f"it has the label {int(invalid[0])}, but the model only {classes} classes")
        if faults:
            raise DataError(f"{self.folder} does not fit this model ({faults[0]}); delete it to build it again")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def variants(self) -> int:
        return self.levels[0].shape[0]

    def read(self, variants: np.ndarray, images: np.ndarray) -> tuple[list[Tensor], Tensor]:
        """Entries by variant and image: int64 ``[count, length]`` for each level, and labels int64 ``[count]``."""
        rows = [torch.from_numpy(level[variants, images].astype(np.int64)) for level in self.levels]
        return rows, self.labels[torch.from_numpy(images)]


def array_hash(folder: Path, name: str) -> str:
    """The hash of one array of a cache."""
    return sha256(folder / f"{name}.npy")
