"""The tokens that a part is trained on: a data set encoded by the model's tokenizer, cached in the model folder."""

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
    """Which photographs to encode, and how.

    Args:
        split: train or validation.
        source: the photographs.
        data: crops and number of variants.
        limit: encode only this many, evenly spaced.
        two_sizes: encode at two sizes, for the upsampler.
    """

    split: str
    source: ImageSource
    data: DataConfig
    limit: int | None = None
    two_sizes: bool = False

    @property
    def name(self) -> str:
        """Name of the cache's folder."""
        return f"{self.split}-two-sizes" if self.two_sizes else self.split


def load_tokenizer(run: ModelRun, config: Config) -> AnyTokenizer:
    """The trained tokenizer of a model folder, on the job's device.

    Raises:
        ModelError: if it is missing or damaged, or does not fit the settings.
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
    # Channels last is faster for encoding, also on a CPU.
    return tokenizer.to(run.job.device).to(memory_format=torch.channels_last).eval()  # pyright: ignore


def cached_tokens(run: ModelRun, tokenizer: AnyTokenizer, tokens: TokensOf, config: Config) -> TokenCache:
    """A cache in the model's ``runs/tokens``, built by all processes together if it is missing.

    Raises:
        Stopped: if the job was stopped first.
        DataError: if an existing cache does not fit this model.
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
    """Four levels, for the upsampler: the stratified pair of the images at half size, then that of the images.

    Source: StraIT section 4.2, "Higher Resolution in Token-level".

    Args:
        tokenizer: of two levels, for both sizes.
        images: ``[batch, 3, 2 size, 2 size]``, halved bilinearly as in the paper: the mean of 2x2 pixels.
    """
    small = F.interpolate(images, scale_factor=0.5, mode="bilinear", align_corners=False)
    return Tokens((*tokenizer.encode(small).levels, *tokenizer.encode(images).levels))
