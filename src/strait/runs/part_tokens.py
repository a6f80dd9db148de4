"""The tokens that a part learns from: a data set through the model's own tokenizer, cached in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F

from strait.config import Config
from strait.data.config import DataConfig
from strait.data.encoding import Encoding, build_token_cache
from strait.data.sources import ImageSource
from strait.data.token_cache import TokenCache
from strait.model.config import ModelError, level_names
from strait.model.folder import check_part, load_part
from strait.runs.part import ModelRun
from strait.runs.run_folder import file_hash, refuse_damaged
from strait.tokenizer.build import AnyTokenizer, build_tokenizer
from strait.training.progress import Progress
from strait.types import Images, Tokenizer, Tokens


@dataclass(frozen=True)
class TokensOf:
    """Which photographs are encoded, and how.

    Args:
        split: train or validation.
        source: the photographs.
        data: how they are cut, and how many variants of each.
        limit: take only this many, evenly spread.
        two_sizes: the upsampler's, from images twice as large.
    """

    split: str
    source: ImageSource
    data: DataConfig
    limit: int | None = None
    two_sizes: bool = False

    @property
    def name(self) -> str:
        """Of the cache's folder."""
        return f"{self.split}-two-sizes" if self.two_sizes else self.split


def load_tokenizer(run: ModelRun, config: Config) -> AnyTokenizer:
    """The trained tokenizer of a model folder, on the job's device.

    Raises:
        ModelError: if it is missing or damaged, or is not as the settings say.
    """
    tokenizer = build_tokenizer(config.tokenizer)
    if not (run.folder / "tokenizer.safetensors").exists():
        raise ModelError(
            f"{run.folder} has no tokenizer yet; make it with: "
            f"strait train tokenizer --data {run.data} --model {run.folder}"
        )
    refuse_damaged(run.folder, "tokenizer")
    check_part(run.folder, "tokenizer", tokenizer)
    load_part(run.folder, "tokenizer", tokenizer)
    # Encoding is faster so, on a CPU too.
    return tokenizer.to(run.job.device).to(memory_format=torch.channels_last).eval()  # pyright: ignore


def cached_tokens(run: ModelRun, tokenizer: AnyTokenizer, tokens: TokensOf, config: Config) -> TokenCache:
    """A cache under the model's ``runs/tokens``, made by all processes together where it is missing.

    Raises:
        Stopped: if the job was to stop before it was done.
        DataError: if a cache that is there is not this model's.
    """
    encoding = Encoding(
        tokens.source,
        partial(encode_at_two_sizes, tokenizer) if tokens.two_sizes else tokenizer.encode,
        level_names(4 if tokens.two_sizes else tokenizer.levels),
        config.image_size * (2 if tokens.two_sizes else 1),
        tokens.data,
        {"split": tokens.split, "tokenizer": file_hash(run.folder / "tokenizer.safetensors")},
        tokens.limit,
    )
    ranks, total = run.job.ranks, encoding.count * tokens.data.cache_variants
    with Progress(f"encoding {tokens.name}", total // ranks.size, unit="image", silent=not ranks.first) as progress:
        folder = run.folder / "runs" / "tokens" / tokens.name
        cache = build_token_cache(folder, encoding, run.job, progress.advance)
    cache.require(config.model.grids, config.model.level_codebook_sizes, len(run.classes))
    return cache


def encode_at_two_sizes(tokenizer: Tokenizer, images: Images) -> Tokens:
    """Four levels, for the upsampler: the stratified pair of the images made half as large, then that of the images.

    Source: StraIT section 4.2, "Higher Resolution in Token-level".

    Args:
        tokenizer: of two levels; the same serves both sizes.
        images: ``[batch, 3, 2 size, 2 size]``. Halving is bilinear, as in the paper: the mean of 2x2 pixels.
    """
    small = F.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=False)
    return Tokens((*tokenizer.encode(small).levels, *tokenizer.encode(images).levels))
