"""The tokens of every image, computed once and memory-mapped: stage 2 never sees a pixel.

    tokens/SPLIT/cache.json    what it was made from and how; written last, so a folder without it is not a cache
                 LEVEL.npy     [variants, images, h * w], one for each level
                 labels.npy    [images], -1 without classes

It is handed ``encode``: it knows no tokenizer.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from strait.data.config import DataConfig
from strait.data.images import BadFiles, ImageBatch, augment, in_order
from strait.data.sources import DataError, ImageSource
from strait.randomness import as_seed
from strait.types import Images, Tokens

_VARIANT = 3


class TokenCache:
    """A cache on disk.

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
            self.levels = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in self.names]
            self.labels = torch.from_numpy(np.load(folder / "labels.npy").astype(np.int64))
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder} is not a token cache: {error}; delete it and it is made again") from error
        if [list(level.shape) for level in self.levels] != shapes or {shape[1] for shape in shapes} != {len(self)}:
            raise DataError(f"{folder} is damaged (its arrays have other shapes); delete it and it is made again")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def variants(self) -> int:
        return self.levels[0].shape[0]

    def read(self, variants: np.ndarray, images: np.ndarray) -> tuple[list[Tensor], Tensor]:
        """Some entries: a list of int64 ``[count, length]``, one a level, and labels int64 ``[count]``."""
        rows = [torch.from_numpy(level[variants, images].astype(np.int64)) for level in self.levels]
        return rows, self.labels[torch.from_numpy(images)]


def build_token_cache(
    folder: Path,
    source: ImageSource,
    encode: Callable[[Images], Tokens],
    image_size: int,
    config: DataConfig,
    made_from: dict[str, Any],
    device: torch.device,
    bad_files: BadFiles,
    names: Sequence[str],
    limit: int | None = None,
    batch_size: int = 128,
    progress: Callable[[int], object] = lambda count: None,
) -> TokenCache:
    """Make the cache, or open the one that was made from the same data, tokenizer and settings.

    Args:
        folder: of the cache.
        source: the images.
        encode: images on ``device`` -> tokens.
        image_size: side in pixels.
        config: ``cache_variants`` versions of each image: the first as it is, the others flipped and shifted.
        made_from: what the cache depends on beside these, such as the tokenizer's hash; compared and stored.
        device: where ``encode`` wants its images.
        bad_files: told about damaged files, which are left out.
        names: of the levels that ``encode`` gives, coarse to fine.
        limit: take only this many images, evenly spread.
        batch_size: images encoded at once.
        progress: called with the number of images after each batch.

    Raises:
        DataError: if no image can be read.
    """
    count = len(source) if limit is None else min(limit, len(source))
    indices = [index * len(source) // count for index in range(count)]
    wanted = {
        **made_from,
        "source": source.fingerprint(),
        "source_images": len(source),
        "taken": count,
        "variants": config.cache_variants,
        "flip": config.flip,
        "shift": config.shift,
        "image_size": image_size,
    }
    if (folder / "cache.json").exists():
        cache = TokenCache(folder)
        if all(cache.made_from.get(name) == value for name, value in wanted.items()):
            return cache
    aside = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)

    good = 0
    labels: list[int] = []
    arrays: list[np.ndarray] = []
    grids: list[tuple[int, int]] = []
    for batch in in_order(source, image_size, batch_size, indices):
        bad_files.note(batch.bad)
        size = len(batch.indices)
        if size == 0:
            continue
        for variant in range(config.cache_variants):
            tokens = encode(_varied(batch, variant, config).images(device))
            if not arrays:
                grids = [(level.shape[1], level.shape[2]) for level in tokens.levels]
                arrays = [
                    open_memmap(
                        aside / f"{name}.npy", mode="w+", dtype=np.uint16, shape=(config.cache_variants, count, h * w)
                    )
                    for name, (h, w) in zip(names, grids, strict=True)
                ]
            for array, level in zip(arrays, tokens.levels, strict=True):
                array[variant, good : good + size] = level.flatten(1).cpu().numpy().astype(np.uint16)
            progress(size)
        good += size
        labels += batch.labels.tolist()
    if not good:
        raise DataError(f"--data: none of the {count} images can be read")
    shapes = [[config.cache_variants, good, array.shape[2]] for array in arrays]
    for index, name in enumerate(names):
        array = arrays[index]
        if good < count:
            kept = np.array(array[:, :good])
            np.save(aside / f"{name}.npy", kept)
        else:
            array.flush()  # type: ignore[attr-defined]
    arrays.clear()
    np.save(aside / "labels.npy", np.array(labels, dtype=np.int32))
    description = {**wanted, "levels": list(names), "grids": grids, "shapes": shapes}
    (aside / "cache.json").write_text(json.dumps(description, indent=1))
    shutil.rmtree(folder, ignore_errors=True)
    aside.replace(folder)
    return TokenCache(folder)


def _varied(batch: ImageBatch, variant: int, config: DataConfig) -> ImageBatch:
    if variant == 0:
        return batch
    pixels = batch.pixels.numpy()
    moved = [
        augment(image, as_seed(_VARIANT, int(index), variant), config.flip, config.shift)
        for image, index in zip(pixels, batch.indices, strict=True)
    ]
    return replace(batch, pixels=torch.from_numpy(np.stack(moved)))
