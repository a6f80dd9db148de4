"""Memory estimates before anything is allocated: the batch size that fits, and whether a part fits at all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from strait.decoding.config import DecodingConfig
from strait.model.config import ModelConfig, ModelError
from strait.runtime.devices import free_bytes
from strait.transformer.config import TransformerConfig

_BATCH = 64
_FLOAT32 = 4  # bytes
_SPARE = 0.8  # share of the free memory to plan with; the rest is for what the estimate omits


def bytes_an_image(config: ModelConfig, decoding: DecodingConfig, element: int, pixels_at_once: bool) -> int:
    """Memory of one more image in a batch, without the weights, in bytes.

    Args:
        config: of the model.
        decoding: its number of steps gives the number of levels that are decoded; guidance doubles each.
        element: bytes per number in the transformers.
        pixels_at_once: whether the pixels of a batch are decoded together (on a GPU) or one image at a time.
    """
    networks: list[TransformerConfig | None] = [config.top, config.bottom, config.upsampler, config.upsampler]
    levels = zip(networks, config.grids, config.level_codebook_sizes, decoding.steps, strict=False)
    rows = 2 if decoding.guidance else 1
    largest, coarser = 0, 0
    for network, (height, width), codes, _ in levels:
        assert network is not None
        length = height * width
        # Residual, its norm, queries, keys, values and attention; the MLP before and after its activation.
        layer = length * (6 * network.width + 2 * network.mlp) * element
        context = coarser * 2 * network.width * network.layers * element
        # The network's output, its float32 copy, and with guidance the combination.
        logits = length * codes * (element + (8 if rows == 2 else 4))
        largest = max(largest, rows * (layer + context + logits))
        coarser += length
    tokenizer, side = config.tokenizer, config.image_size * (2 if len(decoding.steps) > 2 else 1)
    pixels = 4 * side * side * (4 * tokenizer.channels if pixels_at_once else 3)
    return max(largest, pixels)


def fitting_batch(free: int, an_image: int) -> int:
    """The number of images that fit into ``free`` bytes; 0 if not even one."""
    return int(_SPARE * free) // an_image


def batch_size(
    requested: int | None, config: ModelConfig, decoding: DecodingConfig, element: int, device: torch.device
) -> int:
    """The number of images to decode at once: as requested, or as many as fit, at most 64.

    Args:
        requested: None for as many as fit.
        config: of the model.
        decoding: as in ``bytes_an_image``.
        element: bytes per number in the transformers.
        device: to decode on.

    Raises:
        ValueError: if less than 1 is requested, or more than fits into the free memory; it says how many would fit.
    """
    if requested is not None and requested < 1:
        raise ValueError(f"batch_size: {requested} must be at least 1")
    free = free_bytes(device)
    each = bytes_an_image(config, decoding, element, device.type == "cuda")
    fits = _BATCH if free is None else fitting_batch(free, each)
    if requested is None:
        return max(1, min(_BATCH, fits))
    if free is not None and requested > max(1, fits):
        raise ValueError(
            f"batch_size: {requested} images at once need about {requested * each / 1e9:.1f} GB in addition to the "
            f"weights, but only {free / 1e9:.1f} GB are free; {max(1, fits)} would fit"
        )
    return requested


def least_parameters(config: ModelConfig, part: str) -> int:
    """A lower bound on the parameters of a part: only its matrices and embedding tables are counted."""
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
    """Encoder and decoder: blocks of two 3x3 convolutions at every resolution (less one, which changes the width) and
    in the middle."""
    widths = [channels * multiplier for multiplier in multipliers]
    return 2 * 9 * (sum((2 * blocks - 1) * width**2 for width in widths) + 2 * blocks * widths[-1] ** 2)


def least_tensors(config: ModelConfig, part: str) -> int:
    """A lower bound of the tensors of a part: those of its layers or residual blocks."""
    tokenizer = config.tokenizer
    if part == "tokenizer":
        scales = [len(tokenizer.multipliers)]
        if tokenizer.kind == "cascade":
            scales.append(len(tokenizer.multipliers) - 1)
        stem = tokenizer.stem_blocks if tokenizer.kind in ("vqgan2-r", "vqgan2-c-deep") else 0
        decoder = tokenizer.decoder_blocks or tokenizer.res_blocks
        # Two convolutions and two norms each; the decoder's resolutions are one fewer than the encoder's.
        return 6 * (stem + sum(tokenizer.res_blocks * scale + decoder * (scale - 1) for scale in scales))
    attentions = {"top": 1, "bottom": 2, "upsampler": 4}[part]
    return 12 * attentions * getattr(config, part).layers


def refuse_what_is_not_free(module: nn.Module, source: object) -> None:
    """Refuse a network, not yet in memory, whose weights are more than is free here.

    Args:
        module: on the meta device.
        source: what it is called in the message.

    Raises:
        ModelError: naming both.
    """
    needed = sum(value.nbytes for value in (*module.parameters(), *module.buffers()))
    free = free_bytes(torch.device("cpu"))
    if free is not None and needed > free:
        raise ModelError(
            f"{source}: the weights that config.json asks for are {needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB "
            "are free here"
        )


def refuse_what_cannot_fit(config: ModelConfig, part: str, device: torch.device) -> None:
    """Check that the weights of a part fit into the free memory of a device and of the CPU, where they are created.

    Raises:
        ModelError: naming both sizes.
    """
    needed = _FLOAT32 * least_parameters(config, part)
    for holder in {torch.device("cpu"), device}:
        free = free_bytes(holder)
        if free is not None and needed > free:
            raise ModelError(
                f"{part}: its weights need at least {needed / 1e9:,.1f} GB, but only {free / 1e9:,.1f} GB are free on "
                f"{holder}; a smaller {'channels' if part == 'tokenizer' else 'width, mlp or layers'} needs less"
            )
