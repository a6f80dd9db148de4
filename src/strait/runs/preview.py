"""The sample grid of a transformer in training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image

from strait.config import Config
from strait.data.token_cache import TokenCache
from strait.decoding.guidance import Guided
from strait.decoding.iterative import decode_level
from strait.decoding.stratified import level_sampling
from strait.model.parts import LevelNetwork
from strait.pictures.sheets import contact_sheet
from strait.randomness import image_seeds
from strait.tokenizer.build import AnyTokenizer
from strait.types import Canvas, Condition, Tokens

PREVIEW = 8
"""Images in a row of a sample grid."""


def spread(images: int) -> list[int]:
    """Indices of up to ``PREVIEW`` images for a sample grid, evenly spaced over ``images``."""
    count = min(PREVIEW, images)
    return [index * images // count for index in range(count)]


class LevelPreview:
    """A part's sample grid: images generated from the classes and coarser tokens of a few images, above these images,
    decoded from their own tokens.

    Args:
        networks: of the part, by the number of the level each predicts, coarse to fine.
        tokenizer: decodes the tokens.
        cache: tokens of images; up to ``PREVIEW`` are shown.
        config: its settings of decoding are used, without guidance.
        classes: class names, for the title; empty without classes.
        device: of networks and tokenizer.
    """

    def __init__(
        self,
        networks: Mapping[int, LevelNetwork],
        tokenizer: AnyTokenizer,
        cache: TokenCache,
        config: Config,
        classes: Sequence[str],
        device: torch.device,
    ) -> None:
        self.networks, self.tokenizer, self.config = networks, tokenizer, config
        images = np.array(spread(len(cache)), dtype=np.int64)
        flat, labels = cache.read(images * 0, images)
        self.labels = labels.to(device)
        names = dict.fromkeys(str(classes[label]) for label in labels.tolist() if label >= 0)
        self._title = f"generated: {', '.join(names)}" if names else "generated"
        self.grids = [rows.view(-1, *grid).to(device) for rows, grid in zip(flat, cache.grids, strict=True)]

    @torch.no_grad()
    def __call__(self) -> Image.Image:
        seeds = image_seeds(0, torch.arange(len(self.labels), device=self.labels.device))
        decoding, last = self.config.decoding, max(self.networks)
        grids = tuple(self.grids[: min(self.networks)])
        for level, network in self.networks.items():
            bound = Guided(network.bind, Condition(self.labels, grids), guided=False)
            canvas = Canvas.blank(len(self.labels), network.grid, self.labels.device)
            for step in decode_level(bound, canvas, level_sampling(seeds, decoding, level), "", level, decoding):
                canvas = step.canvas
            grids = (*grids, canvas.as_grid())
        rows = [self._pixels(grids), self._pixels(tuple(self.grids[: last + 1]))]
        return contact_sheet(torch.cat(rows), len(seeds), [self._title, "photographs, from their own tokens"])

    def _pixels(self, grids: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Decode the finest image size: the last one or two levels that belong together."""
        count = self.tokenizer.levels
        pair = grids[(len(grids) - 1) // count * count :]
        return self.tokenizer.decode(Tokens(pair), levels=len(pair))
