"""The models that the paper compares, at the scale of a given configuration.

At the paper's size each is a packaged configuration. For a smaller configuration, each of its settings is scaled by
the ratio of that configuration to ``imagenet256``.
"""

from __future__ import annotations

import dataclasses
from functools import cache

from strait.config import Config, config_path, read_config
from strait.decoding.config import DecodingConfig
from strait.tokenizer.config import TokenizerConfig
from strait.transformer.config import TransformerConfig

STRAIT = "imagenet256"
"""The configuration that all scales are relative to."""

STRATIFIED = "imagenet256-stratified"
"""The same with our changes to the tokenizer's training."""


@cache
def _packaged(name: str) -> Config:
    return read_config(config_path(name))


def as_named(base: Config, name: str) -> Config:
    """A packaged configuration at the scale of another one.

    Shapes and the number of steps are those of ``name``; data and training are those of ``base``, since all rows of a
    table are trained alike. There is no bottom dropout if the levels do not share a decoder.

    Args:
        base: a StraIT with two levels.
        name: of a configuration for 256x256 images.
    """
    target = _packaged(name)
    levels = target.tokenizer.num_levels
    tokenizer = _tokenizer(base.tokenizer, target.tokenizer)
    bottom = None if target.bottom is None or base.bottom is None else base.bottom
    training, bottom_training = base.tokenizer_training, base.bottom_training
    if not tokenizer.fuses:
        training = dataclasses.replace(training, bottom_dropout=0.0)
    if levels == 1:
        bottom_training = dataclasses.replace(bottom_training, condition_augmentation=0.0)
    return dataclasses.replace(
        base,
        tokenizer=tokenizer,
        top=_transformer(base.top, target.top),
        bottom=bottom,
        upsampler=base.upsampler if levels == 2 else None,
        decoding=base.decoding if levels == 2 else _one_level(base.decoding, target.decoding),
        tokenizer_training=training,
        bottom_training=bottom_training,
    )


def _tokenizer(base: TokenizerConfig, target: TokenizerConfig) -> TokenizerConfig:
    reference = _packaged(STRAIT).tokenizer
    shorter = len(reference.multipliers) - len(target.multipliers)
    bottom_codes = target.bottom_codebook_size
    if bottom_codes is not None:
        bottom_codes = _scaled(base.codebook_size, bottom_codes, reference.codebook_size)
    return dataclasses.replace(
        base,
        kind=target.kind,
        multipliers=base.multipliers[: len(base.multipliers) - shorter],
        codebook_size=_scaled(base.codebook_size, target.codebook_size, reference.codebook_size),
        bottom_codebook_size=bottom_codes,
        code_dim=_scaled(base.code_dim, target.code_dim, reference.code_dim),
    )


def _transformer(base: TransformerConfig, target: TransformerConfig) -> TransformerConfig:
    reference = _packaged(STRAIT).top
    if target == reference:
        return base
    # Multiples of eight suit hardware and have many divisors for the number of heads.
    width = 8 * max(1, round(base.width * target.width / reference.width / 8))
    heads = base.heads * target.heads / reference.heads
    return dataclasses.replace(
        base,
        layers=_scaled(base.layers, target.layers, reference.layers),
        width=width,
        mlp=_scaled(base.mlp, target.mlp, reference.mlp),
        heads=min((n for n in range(1, width + 1) if width % n == 0), key=lambda n: abs(n - heads)),
    )


def _one_level(base: DecodingConfig, target: DecodingConfig) -> DecodingConfig:
    return dataclasses.replace(base.first(1), steps=target.steps)


def _scaled(value: int, target: int, reference: int) -> int:
    return max(1, round(value * target / reference))


def bottom_kept(base: Config) -> Config:
    """The configuration without bottom dropout: as in the paper, only the fusion determines what each level
    carries."""
    return dataclasses.replace(
        base, tokenizer_training=dataclasses.replace(base.tokenizer_training, bottom_dropout=0.0)
    )


def bottom_dropped(base: Config) -> Config:
    """The configuration with bottom dropout, by default with the share of ``imagenet256-stratified``."""
    share = base.tokenizer_training.bottom_dropout or _packaged(STRATIFIED).tokenizer_training.bottom_dropout
    return dataclasses.replace(
        base, tokenizer_training=dataclasses.replace(base.tokenizer_training, bottom_dropout=share)
    )


def at_base_size(config: Config) -> Config:
    """The configuration without its upsampler, for comparisons with models that have none."""
    levels = config.tokenizer.num_levels
    return dataclasses.replace(config, upsampler=None, decoding=config.decoding.first(levels))
