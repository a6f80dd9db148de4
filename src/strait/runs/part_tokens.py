"""The tokens that a part learns from: a data set through the model's own tokenizer, cached in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from tqdm import tqdm

from strait.data.config import DataConfig
from strait.data.images import BadFiles
from strait.data.sources import ImageSource
from strait.data.token_cache import TokenCache, build_token_cache
from strait.model.config import level_names
from strait.runs.run_folder import file_hash
from strait.runtime.ranks import Ranks, Stopped
from strait.tokenizer.build import AnyTokenizer
from strait.training.loop import Stop
from strait.types import Images, Tokenizer, Tokens


@dataclass(frozen=True)
class WantedTokens:
    """Whose tokens, and which.

    Args:
        split: train or validation.
        source: its photographs.
        image_size: side in pixels, the model's.
        data: how they are cut, and how many variants of each.
        limit: take only the first so many.
        two_sizes: the upsampler's, from images twice as large.
    """

    split: str
    source: ImageSource
    image_size: int
    data: DataConfig
    limit: int | None = None
    two_sizes: bool = False


def cached_tokens(
    folder: Path,
    tokenizer: AnyTokenizer,
    wanted: WantedTokens,
    device: torch.device,
    bad_files: BadFiles,
    stop: Stop,
    ranks: Ranks,
) -> TokenCache:
    """The cache of some tokens under a model's ``runs/tokens``, made if need be by all processes together.

    Raises:
        Stopped: if training was to stop before it was done.
    """
    name = f"{wanted.split}-two-sizes" if wanted.two_sizes else wanted.split
    made_from = {"split": wanted.split, "tokenizer": file_hash(folder / "tokenizer.safetensors")}
    total = len(wanted.source)
    count = (total if wanted.limit is None else min(wanted.limit, total)) * wanted.data.cache_variants

    def progress(images: int) -> None:
        bar.update(images)
        if stop.wanted():
            raise Stopped(stop.signal_number or 0)

    with tqdm(
        total=count // ranks.size,
        desc=f"encoding {name}",
        unit="image",
        dynamic_ncols=True,
        delay=1,
        disable=not ranks.first,
    ) as bar:
        return build_token_cache(
            folder / "runs" / "tokens" / name,
            wanted.source,
            partial(encode_at_two_sizes, tokenizer) if wanted.two_sizes else tokenizer.encode,
            wanted.image_size * (2 if wanted.two_sizes else 1),
            wanted.data,
            made_from,
            device,
            bad_files,
            level_names(4 if wanted.two_sizes else tokenizer.levels),
            wanted.limit,
            progress=progress,
            ranks=ranks,
        )


def encode_at_two_sizes(tokenizer: Tokenizer, images: Images) -> Tokens:
    """Four levels, for the upsampler: the stratified pair of the images made half as large, then that of the images.

    Source: StraIT section 4.2, "Higher Resolution in Token-level".

    Args:
        tokenizer: of two levels; the same serves both sizes.
        images: ``[batch, 3, 2 size, 2 size]``. Halving is bilinear, as in the paper: the mean of 2x2 pixels.
    """
    small = F.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=False)
    return Tokens((*tokenizer.encode(small).levels, *tokenizer.encode(images).levels))
