"""Infill a part of an image under its class, or (relabel) under another.

An edit is an initial canvas: known tokens are set, tokens to be drawn are masked, and the rest is generation.
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
    """Decoding settings (the model's defaults if None), restricted to the tokenizer's levels."""
    return (decoding or model.default_decoding()).first(model.config.tokenizer.num_levels)


def hidden(images: Images, masks: Tensor) -> Images:
    """Replace masked pixels by the mean colour of the others (mid-grey if all are masked).

    The encoder's receptive field is larger than a token: otherwise masked content would leak into the known tokens.

    Args:
        images: ``[batch, 3, height, width]`` in [-1, 1].
        masks: bool ``[batch, height, width]``.
    """
    kept = ~masks[:, None]
    mean = (images * kept).sum((2, 3), keepdim=True) / kept.sum((2, 3), keepdim=True).clamp(min=1)
    return torch.where(kept, images, mean)


def encode_for_infilling(model: StraIT, images: Images, masks: Tensor, strength: float = 1.0) -> Tokens:
    """Encode images for infilling, with the masked part hidden unless a ``strength`` below 1 keeps some of it."""
    return model.encode(hidden(images, masks) if strength == 1 else images)


def infill_canvases(tokens: Tokens, masks: Tensor, seeds: Tensor, config: EditConfig) -> list[Canvas]:
    """The initial canvases of an infilling.

    Args:
        tokens: of the images.
        masks: bool ``[batch, height, width]`` over the pixels, True where to fill.
        seeds: int64 ``[batch]`` (``randomness.image_seeds``); they select the tokens if the strength is below 1.
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
    """Decode initial canvases to images ``[batch, 3, size, size]``, as in generation."""
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
    """Redraw the masked part of images; under another class than theirs this is a relabelling.

    Args:
        model: with all its parts.
        images: ``[batch, 3, size, size]`` in [-1, 1], of the model's size.
        masks: bool ``[batch, size, size]``, True where to fill.
        labels: int64 ``[batch]``, ``NULL_LABEL`` for no class.
        seed: the user's seed.
        indices: int64 ``[batch]``, the index of each result under the seed; 0, 1, ... by default.
        config: strength, margin and cover; compositing (``placing.put_back``) is left to the caller.
        decoding: steps, temperature, guidance; the model's defaults if None.

    Returns:
        ``[batch, 3, size, size]`` in [-1, 1], decoded entirely from tokens. An empty mask gives the reconstruction,
        a full mask gives the same as ``generate``.

    Raises:
        ValueError: if the shapes of masks and images do not match.
    """
    config = config or EditConfig()
    check_masks(images, masks)
    images, masks = images.to(model.device), masks.to(model.device)
    positions = torch.arange(len(images)) if indices is None else indices
    tokens = encode_for_infilling(model, images, masks, config.strength)
    canvases = infill_canvases(tokens, masks, image_seeds(seed, positions.to(images.device)), config)
    return finish(model, canvases, labels, seed, positions, decoding and base_decoding(model, decoding))


def check_masks(images: Images, masks: Tensor) -> None:
    """Check that masks match their images.

    Raises:
        ValueError: naming both shapes.
    """
    if masks.dtype != torch.bool or (images.shape[0], *images.shape[2:]) != tuple(masks.shape):
        raise ValueError(
            f"masks: {masks.dtype} {tuple(masks.shape)} must be bool [batch, height, width] "
            f"of images {tuple(images.shape)}"
        )
