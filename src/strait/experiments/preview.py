"""The sample grid of a transformer in training."""

from __future__ import annotations

import torch
from PIL import Image

from strait.config import Config
from strait.data.token_cache import TokenCache
from strait.decoding.guidance import Guided
from strait.decoding.iterative import decode_level
from strait.decoding.stratified import level_sampling
from strait.images_out import contact_sheet
from strait.randomness import image_seeds
from strait.tokenizer.build import AnyTokenizer
from strait.transformer.bottom import BottomTransformer
from strait.transformer.top import TopTransformer
from strait.types import Canvas, Condition, Tokens

PREVIEW = 8
"""Images in a grid's row."""


class LevelPreview:
    """A transformer's sample grid: what it makes of the classes of a few images, above those images' own tokens."""

    def __init__(
        self,
        transformer: TopTransformer | BottomTransformer,
        level: int,
        tokenizer: AnyTokenizer,
        cache: TokenCache,
        config: Config,
        device: torch.device,
    ) -> None:
        self.transformer, self.level, self.tokenizer, self.config = transformer, level, tokenizer, config
        images = (torch.arange(min(PREVIEW, len(cache))) * len(cache) // PREVIEW).numpy()
        flat, labels = cache.read(images * 0, images)
        self.labels = labels.to(device)
        self.grids = [rows.view(-1, *grid).to(device) for rows, grid in zip(flat, cache.grids, strict=True)]

    @torch.no_grad()
    def __call__(self) -> Image.Image:
        level, coarser = self.level, tuple(self.grids[: self.level])
        network = Guided(self.transformer.bind, Condition(self.labels, coarser), guided=False)
        seeds = image_seeds(0, torch.arange(len(self.labels), device=self.labels.device))
        canvas = Canvas.blank(len(self.labels), self.transformer.grid, self.labels.device)
        decoding = self.config.decoding
        for step in decode_level(network, canvas, level_sampling(seeds, decoding, level), "", level, decoding):
            canvas = step.canvas
        made = self.tokenizer.decode(Tokens((*coarser, canvas.as_grid())), levels=level + 1)
        own = self.tokenizer.decode(Tokens(tuple(self.grids[: level + 1])), levels=level + 1)
        return contact_sheet(torch.cat([made, own]), columns=len(self.labels))
