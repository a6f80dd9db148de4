"""A token cache of random tokens, as a data set's would lie on disk: for measuring what training costs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from strait.data.token_cache import TokenCache
from strait.model.config import ModelConfig
from strait.runtime.files import sha256
from strait.types import NULL_LABEL


def random_token_cache(folder: Path, config: ModelConfig, num_classes: int, images: int = 4096) -> TokenCache:
    """Write and open one: ``images`` images, one variant each, every level's tokens uniform over its codes."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    names, grids = list(config.level_names), list(config.grids)
    shapes = []
    for name, (height, width), codes in zip(names, grids, config.level_codebook_sizes, strict=True):
        tokens = generator.integers(0, codes, (1, images, height * width)).astype(np.uint16)
        np.save(folder / f"{name}.npy", tokens)
        shapes.append(list(tokens.shape))
    labels = generator.integers(0, num_classes, images) if num_classes else np.full(images, NULL_LABEL)
    np.save(folder / "labels.npy", labels)
    hashes = {name: sha256(folder / f"{name}.npy") for name in (*names, "labels")}
    description = {"levels": names, "grids": grids, "shapes": shapes, "sha256": hashes}
    (folder / "cache.json").write_text(json.dumps(description))
    return TokenCache(folder)
