"""The tokens of every image, computed once and memory-mapped: stage 2 never sees a pixel.

    tokens/SPLIT/cache.json    what it was made from and how, and the hashes of the arrays; written last, so a folder
                               without it is not a cache
                 LEVEL.npy     [variants, images, h * w], one for each level
                 labels.npy    [images], -1 without classes

``data.encoding`` makes it.
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
    """A cache on disk, whose arrays are those that were written: opening it reads them all once.

    Attributes:
        levels: integer arrays ``[variants, images, length]``, mapped, coarse to fine.
        labels: int64 ``[images]``.
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
                f"{folder} is not a token cache: {str(error) or type(error).__name__}; delete it and it is made again"
            ) from error
        if (
            [list(level.shape) for level in self.levels] != shapes
            or {level.shape[:-1] for level in self.levels} != {(self.variants, len(self))}
            or [level.shape[-1] for level in self.levels] != lengths
        ):
            raise DataError(f"{folder} is damaged (its arrays have other shapes); delete it and it is made again")
        if changed:
            raise DataError(
                f"{folder} is damaged (the hash of {changed[0]}.npy differs); delete it and it is made again"
            )
        self.folder = folder

    def require(self, grids: Sequence[tuple[int, int]], codebook_sizes: Sequence[int], classes: int) -> None:
        """Refuse tokens and labels that a model does not have.

        Args:
            grids: of the model's levels, coarse to fine; there may be more of them.
            codebook_sizes: of these levels.
            classes: of the model.

        Raises:
            DataError: naming what does not fit.
        """
        faults = []
        for name, grid, level, fits, size in zip(
            self.names, self.grids, self.levels, grids, codebook_sizes, strict=False
        ):
            if grid != tuple(fits):
                faults.append(f"the {name} has a grid of {grid} instead of {tuple(fits)}")
            elif level.size and int(level.max()) >= size:
                faults.append(f"the {name} holds the token {int(level.max())} of {size}")
        strange = self.labels[(self.labels < NULL_LABEL) | (self.labels >= classes)]
        if len(strange):
            faults.append(f"it holds the label {int(strange[0])}, and there are {classes} classes")
        if faults:
            raise DataError(f"{self.folder} is not this model's ({faults[0]}); delete it and it is made again")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def variants(self) -> int:
        return self.levels[0].shape[0]

    def read(self, variants: np.ndarray, images: np.ndarray) -> tuple[list[Tensor], Tensor]:
        """Some entries: a list of int64 ``[count, length]``, one a level, and labels int64 ``[count]``."""
        rows = [torch.from_numpy(level[variants, images].astype(np.int64)) for level in self.levels]
        return rows, self.labels[torch.from_numpy(images)]


def array_hash(folder: Path, name: str) -> str:
    """The hash of one array of a cache."""
    return sha256(folder / f"{name}.npy")
