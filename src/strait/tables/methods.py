"""The models that the paper compares, at the scale of a configuration at hand.

At the paper's size each is one of the packaged configurations. From a smaller configuration it is as much smaller as
that one is than ``imagenet256``, setting by setting.
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
"""The same with what our trials found a tokenizer to need."""


@cache
def _papers(name: str) -> Config:
    return read_config(config_path(name))


def as_named(base: Config, name: str) -> Config:
    """A packaged configuration at the scale of another one.

    Shapes and the number of steps are those of ``name``; data and training are those of ``base``, since the rows of a
    table are trained alike. The bottom is not dropped where the levels do not share a decoder.

    Args:
        base: of StraIT's kind, with two levels.
        name: of a configuration for 256x256 images.
    """
    theirs = _papers(name)
    levels = theirs.tokenizer.num_levels
    tokenizer = _tokenizer(base.tokenizer, theirs.tokenizer)
    bottom = None if theirs.bottom is None or base.bottom is None else base.bottom
    training, bottom_training = base.tokenizer_training, base.bottom_training
    if not tokenizer.fuses:
        training = dataclasses.replace(training, bottom_dropout=0.0)
    if levels == 1:
        bottom_training = dataclasses.replace(bottom_training, condition_augmentation=0.0)
    return dataclasses.replace(
        base,
        tokenizer=tokenizer,
        top=_transformer(base.top, theirs.top),
        bottom=bottom,
        upsampler=base.upsampler if levels == 2 else None,
        decoding=base.decoding if levels == 2 else _one_level(base.decoding, theirs.decoding),
        tokenizer_training=training,
        bottom_training=bottom_training,
    )


def _tokenizer(base: TokenizerConfig, theirs: TokenizerConfig) -> TokenizerConfig:
    straits = _papers(STRAIT).tokenizer
    shorter = len(straits.multipliers) - len(theirs.multipliers)
    bottom_codes = theirs.bottom_codebook_size
    if bottom_codes is not None:
        bottom_codes = _scaled(base.codebook_size, bottom_codes, straits.codebook_size)
    return dataclasses.replace(
        base,
        kind=theirs.kind,
        multipliers=base.multipliers[: len(base.multipliers) - shorter],
        codebook_size=_scaled(base.codebook_size, theirs.codebook_size, straits.codebook_size),
        bottom_codebook_size=bottom_codes,
        code_dim=_scaled(base.code_dim, theirs.code_dim, straits.code_dim),
    )


def _transformer(base: TransformerConfig, theirs: TransformerConfig) -> TransformerConfig:
    straits = _papers(STRAIT).top
    if theirs == straits:
        return base
    # Eights suit hardware, and leave many numbers of heads to choose from.
    width = 8 * max(1, round(base.width * theirs.width / straits.width / 8))
    heads = base.heads * theirs.heads / straits.heads
    return dataclasses.replace(
        base,
        layers=_scaled(base.layers, theirs.layers, straits.layers),
        width=width,
        mlp=_scaled(base.mlp, theirs.mlp, straits.mlp),
        heads=min((n for n in range(1, width + 1) if width % n == 0), key=lambda n: abs(n - heads)),
    )


def _one_level(base: DecodingConfig, theirs: DecodingConfig) -> DecodingConfig:
    return dataclasses.replace(base.first(1), steps=theirs.steps)


def _scaled(value: int, theirs: int, straits: int) -> int:
    return max(1, round(value * theirs / straits))


def bottom_kept(base: Config) -> Config:
    """The configuration without bottom dropout: the fusion alone decides what each level carries, as in the paper."""
    return dataclasses.replace(
        base, tokenizer_training=dataclasses.replace(base.tokenizer_training, bottom_dropout=0.0)
    )


def bottom_dropped(base: Config) -> Config:
    """The configuration with bottom dropout: its own share, or else that of ``imagenet256-stratified``."""
    share = base.tokenizer_training.bottom_dropout or _papers(STRATIFIED).tokenizer_training.bottom_dropout
    return dataclasses.replace(
        base, tokenizer_training=dataclasses.replace(base.tokenizer_training, bottom_dropout=share)
    )


def at_base_size(config: Config) -> Config:
    """The configuration without its upsampler: a comparison with models that have none is one of the base size."""
    levels = config.tokenizer.num_levels
    return dataclasses.replace(config, upsampler=None, decoding=config.decoding.first(levels))
