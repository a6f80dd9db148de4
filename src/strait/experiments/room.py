"""Whether a part can lie in memory at all: asked by arithmetic, before anything is allocated."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from strait.devices import free_bytes
from strait.model_config import ModelConfig
from strait.model_folder import ModelError

_FLOAT32 = 4


def least_parameters(config: ModelConfig, part: str) -> int:
    """A lower bound of the parameters of a part: its matrices and tables, without what is small beside them."""
    tokenizer = config.tokenizer
    if part == "tokenizer":
        scales = [tokenizer.multipliers]
        if tokenizer.kind == "cascade":
            scales.append(tokenizer.multipliers[:-1])
        codes = tokenizer.codebook_size * tokenizer.code_dim
        return codes + sum(_residual_blocks(tokenizer.channels, scale, tokenizer.res_blocks) for scale in scales)
    shape = getattr(config, part)
    attentions = {"top": 1, "bottom": 2, "upsampler": 4}[part]
    layers = shape.layers * attentions * (4 * shape.width**2 + 2 * shape.width * shape.mlp)
    return layers + min(tokenizer.codebook_sizes) * shape.width


def _residual_blocks(channels: int, multipliers: Sequence[int], blocks: int) -> int:
    """Encoder and decoder: blocks of two 3x3 convolutions at every resolution (less one convolution, which changes
    the width) and in the middle."""
    widths = [channels * multiplier for multiplier in multipliers]
    return 2 * 9 * (sum((2 * blocks - 1) * width**2 for width in widths) + 2 * blocks * widths[-1] ** 2)


def refuse_what_cannot_fit(config: ModelConfig, part: str, device: torch.device) -> None:
    """Refuse a part whose weights alone are more than is free on a device, or here, where they are made.

    Raises:
        ModelError: naming both.
    """
    needed = _FLOAT32 * least_parameters(config, part)
    for place in {torch.device("cpu"), device}:
        free = free_bytes(place)
        if free is not None and needed > free:
            raise ModelError(
                f"{part}: its weights alone are at least {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free on "
                f"{place}; a smaller {'channels' if part == 'tokenizer' else 'width, mlp or layers'} needs less"
            )
