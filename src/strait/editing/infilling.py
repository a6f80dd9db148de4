"""Infill a part of an image, under its own class or (relabel) under another.

An edit is a first canvas: what is known stands on it, what is to be drawn is masked, and the rest is generation.
Source: StraIT section 4.4, appendix A, Figure 10.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from strait.decoding.config import DecodingConfig
from strait.decoding.stratified import final_tokens
from strait.editing.config import EditConfig
from strait.editing.masks import thinned, token_masks
from strait.model.strait import StraIT
from strait.randomness import image_seeds
from strait.types import Canvas, DecodingStep, Images, Tokens


def base_decoding(model: StraIT, decoding: DecodingConfig | None = None) -> DecodingConfig:
    """Settings (the model's own by default) for the levels of the tokenizer, without an upsampler's."""
    return (decoding or model.default_decoding()).first(model.config.tokenizer.num_levels)


def hidden(images: Images, masks: Tensor) -> Images:
    """Masked pixels replaced by the mean colour of the others (mid-grey where all are masked).

    The encoder sees further than a token's own pixels: what is to be replaced must not show in the tokens around it.

    Args:
        images: ``[batch, 3, height, width]`` in [-1, 1].
        masks: bool ``[batch, height, width]``.
    """
    kept = ~masks[:, None]
    mean = (images * kept).sum((2, 3), keepdim=True) / kept.sum((2, 3), keepdim=True).clamp(min=1)
    return torch.where(kept, images, mean)


def encode_for_infilling(model: StraIT, images: Images, masks: Tensor, strength: float = 1.0) -> Tokens:
    """Tokens of images whose masked part will be drawn anew: hidden from the encoder, unless some of it is to stay."""
    return model.encode(hidden(images, masks) if strength == 1 else images)


def infill_canvases(tokens: Tokens, masks: Tensor, seeds: Tensor, config: EditConfig) -> list[Canvas]:
    """The first canvases of an infilling.

    Args:
        tokens: of the images.
        masks: bool ``[batch, height, width]`` over their pixels, True where to fill.
        seeds: int64 ``[batch]`` (``randomness.image_seeds``); they choose the tokens of a strength below 1.
        config: strength, margin and cover.
    """
    grids = [(grid.shape[1], grid.shape[2]) for grid in tokens.levels]
    chosen = thinned(token_masks(masks, grids, config.margin, config.cover), config.strength, seeds)
    return [Canvas.known(grid, masked) for grid, masked in zip(tokens.levels, chosen, strict=True)]


def finish(
    model: StraIT,
    canvases: Sequence[Canvas],
    labels: Tensor,
    seed: int = 0,
    indices: Tensor | None = None,
    decoding: DecodingConfig | None = None,
    watch: Callable[[DecodingStep], None] | None = None,
) -> Images:
    """From first canvases to images ``[batch, 3, size, size]``: what every edit has in common with generation."""
    settings = decoding or base_decoding(model)
    return model.decode(final_tokens(model.decoding_steps(labels, seed, indices, settings, canvases), watch))


def infill(
    model: StraIT,
    images: Images,
    masks: Tensor,
    labels: Tensor,
    seed: int = 0,
    indices: Tensor | None = None,
    config: EditConfig | None = None,
    decoding: DecodingConfig | None = None,
) -> Images:
    """Draw the masked part of images anew; under another class than theirs it is a relabelling.

    Args:
        model: with all its parts.
        images: ``[batch, 3, size, size]`` in [-1, 1], of the model's size.
        masks: bool ``[batch, size, size]``, True where to fill.
        labels: int64 ``[batch]``, ``NULL_LABEL`` for none.
        seed: the user's.
        indices: int64 ``[batch]``, which result of the seed each is; 0, 1, ... by default.
        config: strength, margin and cover; nothing is composited here (``placing.composite``).
        decoding: steps, temperature, guidance; the model's own by default.

    Returns:
        ``[batch, 3, size, size]`` in [-1, 1], decoded from tokens everywhere. An empty mask gives the reconstruction,
        a full one what ``generate`` gives.

    Raises:
        ValueError: if masks and images disagree.
    """
    config = config or EditConfig()
    check_masks(images, masks)
    images, masks = images.to(model.device), masks.to(model.device)
    places = torch.arange(len(images)) if indices is None else indices
    tokens = encode_for_infilling(model, images, masks, config.strength)
    canvases = infill_canvases(tokens, masks, image_seeds(seed, places.to(images.device)), config)
    return finish(model, canvases, labels, seed, places, decoding and base_decoding(model, decoding))


def check_masks(images: Images, masks: Tensor) -> None:
    """Refuse masks that do not fit.

    Raises:
        ValueError: naming both shapes.
    """
    if masks.dtype != torch.bool or (images.shape[0], *images.shape[2:]) != tuple(masks.shape):
        raise ValueError(
            f"masks: {masks.dtype} {tuple(masks.shape)} must be bool [batch, height, width] "
            f"of images {tuple(images.shape)}"
        )
