"""What fits into memory, by arithmetic before anything is allocated: how many images at once; a part at all."""

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
_SPARE = 0.8  # of what is free may be planned with: the rest is for what the estimate leaves out


def bytes_an_image(config: ModelConfig, decoding: DecodingConfig, element: int, pixels_at_once: bool) -> int:
    """Memory of one image more in a batch, beside the weights.

    Args:
        config: of the model.
        decoding: steps of as many levels as are decoded, of those that the model has; guidance doubles each.
        element: bytes of a number in the transformers.
        pixels_at_once: whether a batch's pixels are decoded together (on a GPU), or one image after the other.
    """
    networks: list[TransformerConfig | None] = [config.top, config.bottom, config.upsampler, config.upsampler]
    levels = zip(networks, config.grids, config.level_codebook_sizes, decoding.steps, strict=False)
    rows = 2 if decoding.guidance else 1
    largest, seen = 0, 0
    for network, (height, width), codes, _ in levels:
        assert network is not None
        length = height * width
        # Residual, its norm, queries, keys, values and attention; the MLP twice, before and after its activation.
        a_layer = length * (6 * network.width + 2 * network.mlp) * element
        context = seen * 2 * network.width * network.layers * element
        # As they come, in float32, and their guided sum.
        logits = length * codes * (element + (8 if rows == 2 else 4))
        largest = max(largest, rows * (a_layer + context + logits))
        seen += length
    tokenizer, side = config.tokenizer, config.image_size * (2 if len(decoding.steps) > 2 else 1)
    pixels = 4 * side * side * (4 * tokenizer.channels if pixels_at_once else 3)
    return max(largest, pixels)


def fitting_batch(free: int, an_image: int) -> int:
    """How many images fit into free memory (bytes); 0 if not one."""
    return int(_SPARE * free) // an_image


def batch_size(
    wanted: int | None, config: ModelConfig, decoding: DecodingConfig, element: int, device: torch.device
) -> int:
    """How many images to decode at once: those wanted, or without a wish as many as fit, 64 at most.

    Args:
        wanted: None for no wish.
        config: of the model.
        decoding: as in ``bytes_an_image``.
        element: bytes of a number in the transformers.
        device: where.

    Raises:
        ValueError: for none or fewer; if so many do not fit into the memory that is free it says how many would.
    """
    if wanted is not None and wanted < 1:
        raise ValueError(f"batch_size: {wanted} must be at least 1")
    free = free_bytes(device)
    each = bytes_an_image(config, decoding, element, device.type == "cuda")
    fits = _BATCH if free is None else fitting_batch(free, each)
    if wanted is None:
        return max(1, min(_BATCH, fits))
    if free is not None and wanted > max(1, fits):
        raise ValueError(
            f"batch_size: {wanted} images at once need about {wanted * each / 1e9:.1f} GB beside the weights, and "
            f"{free / 1e9:.1f} GB are free; {max(1, fits)} would fit"
        )
    return wanted


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
