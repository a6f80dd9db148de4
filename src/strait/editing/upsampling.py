"""Upsample an image: its tokens stay known, and the upsampler draws those of the image at twice the size.

Source: StraIT section 4.2 (higher resolution), Table 4.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from strait.decoding.config import DecodingConfig
from strait.editing.infilling import finish
from strait.model.config import ModelError
from strait.model.strait import StraIT
from strait.types import Canvas, DecodingStep, Images


def upsample(
    model: StraIT,
    images: Images,
    labels: Tensor,
    seed: int = 0,
    indices: Tensor | None = None,
    decoding: DecodingConfig | None = None,
    watch: Callable[[DecodingStep], None] | None = None,
) -> Images:
    """Upsample images to twice their size.

    Args:
        model: with a trained upsampler.
        images: ``[batch, 3, size, size]`` in [-1, 1], of the model's base size.
        labels: int64 ``[batch]``, ``NULL_LABEL`` for no class.
        seed: the user's seed.
        indices: int64 ``[batch]``, the index of each result under the seed; 0, 1, ... by default.
        decoding: for four levels; the model's defaults if None.
        watch: called after every step.

    Returns:
        ``[batch, 3, 2 size, 2 size]`` in [-1, 1].

    Raises:
        ModelError: if the model has no upsampler, or it is not trained.
    """
    if model.upsampler is None:
        raise ModelError(
            "upsample: this model has no upsampler; train one with a configuration that has it, such as "
            "imagenette128-cpu"
        )
    model.require("upsampler")
    settings = decoding or model.default_decoding()
    if len(settings.steps) != len(model.config.grids):
        levels = len(model.config.grids)
        raise ValueError(f"decoding.steps: {settings.steps} must give {levels} numbers, one for each of the levels")
    low = model.encode(images).levels
    high = model.config.grids[len(low) :]
    canvases = [
        *(Canvas.known(grid) for grid in low),
        *(Canvas.blank(len(labels), grid, model.device) for grid in high),
    ]
    positions = torch.arange(len(images)) if indices is None else indices
    return finish(model, canvases, labels, seed, positions, settings, watch)
