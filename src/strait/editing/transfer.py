"""Semantic domain transfer: keep some top tokens of an image and predict the rest under another class.

Bottom-level re-prediction masks all bottom tokens, so that textures follow the new top; keeping the old bottom is the
paper's baseline. Source: StraIT section 4.4, Figure 6.
"""

from __future__ import annotations

import torch
from torch import Tensor

from strait.decoding.config import DecodingConfig
from strait.editing.confidence import redraw
from strait.editing.infilling import base_decoding, finish
from strait.editing.masks import random_subset
from strait.model.strait import StraIT
from strait.types import Canvas, Condition, Images, Tokens


def random_kept(top: Tensor, share: float, seeds: Tensor) -> Tensor:
    """A random share of the top tokens ``[batch, h, w]``: bool of the same shape, True where kept."""
    _check_share(share)
    all_tokens = torch.ones_like(top, dtype=torch.bool)
    return ~random_subset(all_tokens, 1 - share, seeds) if share < 1 else all_tokens


def confident_kept(model: StraIT, top: Tensor, labels: Tensor, share: float, guidance: float = 0.0) -> Tensor:
    """The share of top tokens that are most likely under the new class, given all others: bool ``[batch, h, w]``."""
    _check_share(share)
    log_p = redraw(model.levels()[0], top, Condition(labels), guidance)[0].flatten(1)
    ranks = log_p.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    return (ranks < round(share * log_p.shape[1])).view_as(top)


def _check_share(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"keep: {share} must lie between 0 and 1")


def transfer_canvases(tokens: Tokens, kept: Tensor, keep_bottom: bool = False) -> list[Canvas]:
    """The initial canvases of a transfer.

    Args:
        tokens: of the images.
        kept: bool ``[batch, h, w]`` over the top tokens, True where they are kept.
        keep_bottom: keep all finer levels instead of masking them.
    """
    top, *finer = tokens.levels
    return [
        Canvas.known(top, ~kept),
        *(Canvas.known(grid, torch.full_like(grid, not keep_bottom, dtype=torch.bool)) for grid in finer),
    ]


def transfer(
    model: StraIT,
    images: Images,
    labels: Tensor,
    kept: Tensor,
    seed: int = 0,
    indices: Tensor | None = None,
    keep_bottom: bool = False,
    decoding: DecodingConfig | None = None,
) -> Images:
    """Transfer images to another class.

    Args:
        model: with all its parts.
        images: ``[batch, 3, size, size]`` in [-1, 1], of the model's size.
        labels: int64 ``[batch]``, the new classes.
        kept: bool ``[batch, h, w]`` over the top tokens, from ``random_kept`` or ``confident_kept``.
        seed: the user's seed.
        indices: int64 ``[batch]``, the index of each result under the seed; 0, 1, ... by default.
        keep_bottom: the baseline, without bottom-level re-prediction.
        decoding: steps, temperature, guidance; the model's defaults if None.

    Returns:
        ``[batch, 3, size, size]`` in [-1, 1].
    """
    canvases = transfer_canvases(model.encode(images), kept.to(model.device), keep_bottom)
    return finish(model, canvases, labels, seed, indices, base_decoding(model, decoding))
