"""Requests checked against a model: images to generate, decoding settings, edits.

The page and the service share this module, so that equal requests give the same images as the Python API.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from strait.decoding.config import DecodingConfig
from strait.editing.config import EditConfig
from strait.editing.edits import Edit, extend_picture, infill_picture, transfer_picture
from strait.editing.extended_canvas import ExtendedCanvas
from strait.editing.extension import Sides
from strait.editing.infilling import base_decoding
from strait.model.strait import StraIT
from strait.pictures.reading import Picture, PictureError
from strait.pictures.recipe import recipe
from strait.types import NULL_LABEL

Action = Literal["infill", "extend", "relabel", "transfer"]
LONGEST_SIDES = 8
"""Limit on the aspect ratio of a picture to extend: its shorter side is resized to the model's size."""


@dataclass(frozen=True)
class ImageRequest:
    """One image to generate: image ``index`` of ``seed``."""

    label: int
    seed: int
    index: int
    decoding: DecodingConfig


def image_requests(
    model: StraIT, labels: Sequence[str | int] | None, count: int, seed: int, decoding: DecodingConfig
) -> list[ImageRequest]:
    """The images of ``StraIT.generate`` with the same arguments, as single requests."""
    numbers = model.labels(labels, count, seed)
    return [ImageRequest(label, seed, index, decoding) for index, label in enumerate(numbers)]


def settings_inside(model: StraIT, digest: str, request: ImageRequest) -> dict[str, Any]:
    """The settings that the PNG of a generated image stores."""
    label = None if request.label == NULL_LABEL else model.classes[request.label]
    return recipe(digest, request.seed, dataclasses.asdict(request.decoding), label=label, index=request.index)


@dataclass(frozen=True)
class EditOptions:
    """The options of all edits; each edit uses those that concern it (``strait edit ACTION --help``)."""

    config: EditConfig = dataclasses.field(default_factory=EditConfig)
    sides: Sides = dataclasses.field(default_factory=Sides)
    keep: float = 0.5
    choose: Literal["random", "confidence"] = "random"
    keep_bottom: bool = False


def edited(
    edit: Edit, action: Action, picture: Picture, mask: np.ndarray | None, options: EditOptions
) -> Iterator[np.ndarray]:
    """The results of an edit, uint8 ``[height, width, 3 or 4]`` each.

    Args:
        edit: class, number of results and other options.
        action: the kind of edit.
        picture: to edit.
        mask: bool ``[height, width]``, True where to fill; for a transfer, the region to redraw instead of a share.
        options: of the edit.

    Raises:
        ValueError: if the mask or the class is missing.
    """
    if action in ("relabel", "transfer") and edit.label == NULL_LABEL:
        raise ValueError(f"label: {action} needs the new class")
    if action in ("infill", "relabel"):
        if mask is None:
            raise ValueError(f"mask: {action} needs a mask")
        return infill_picture(edit, picture, mask, options.config)
    if action == "extend":
        if max(picture.size) > LONGEST_SIDES * min(picture.size):
            raise PictureError(f"image: its aspect ratio is above {LONGEST_SIDES}")
        return extend_picture(edit, picture, options.sides, options.config.feather, options.config.composite)
    if not 0 <= options.keep <= 1:
        raise ValueError(f"keep: {options.keep} must lie between 0 and 1")
    return transfer_picture(edit, picture, options.keep, options.choose, mask, options.keep_bottom)


def passes_of(
    edit: Edit, action: Action, picture: Picture, mask: np.ndarray | None, options: EditOptions, most: int
) -> int:
    """The number of rows that an edit passes through the transformers, computed in advance.

    Args:
        edit: number of results and steps.
        action: the kind of edit.
        picture: to edit.
        mask: of the edit.
        options: of the edit.
        most: counting stops just above it.
    """
    model = edit.model
    each = sum(base_decoding(model, edit.decoding).passes) * edit.count
    if action == "extend":
        canvas = ExtendedCanvas(picture.size, options.sides, model.config.grids[0])
        windows = canvas.count_windows(most // each + 1)
        return min(each * windows, most + 1)
    # The confidence of each top token under the new class takes a pass.
    redraws = math.prod(model.config.grids[0]) if action == "transfer" and options.choose == "confidence" else 0
    return each + (redraws if mask is None else 0)


def edit_settings(
    edit: Edit, digest: str, action: str, mask: np.ndarray | None, options: EditOptions, index: int
) -> dict[str, Any]:
    """The settings that the PNG of an edited picture stores; of a transfer's mask, only that there was one."""
    decoding = edit.decoding or edit.model.default_decoding()
    settings = settings_inside(edit.model, digest, ImageRequest(edit.label, edit.seed, index, decoding))
    region = {"keep": "region"} if action == "transfer" and mask is not None else {}
    return {**settings, "edit": action, **dataclasses.asdict(options), **region}


def batches(requests: Sequence[ImageRequest], size: int) -> Iterator[list[int]]:
    """Positions of images that are decoded together: labels, seeds, temperatures, guidance and steps may differ.

    A batch takes as many steps at each level as its longest row. So images are grouped by their steps, rounded up to a
    power of two at each level: no row takes part in twice as many passes as it needs, and there are few groups. Within
    a group, images are sorted by steps. Guided and unguided rows are separated, since guidance doubles a batch.
    """
    groups: dict[DecodingConfig, list[int]] = {}
    for position, request in enumerate(requests):
        key = dataclasses.replace(
            request.decoding,
            steps=tuple(1 << (steps - 1).bit_length() for steps in request.decoding.steps),
            temperature=(0.0,) * len(request.decoding.steps),
            guidance=float(request.decoding.guidance != 0),
        )
        groups.setdefault(key, []).append(position)
    for positions in groups.values():
        positions.sort(key=lambda position: requests[position].decoding.steps)
        for start in range(0, len(positions), size):
            yield positions[start : start + size]


def as_rows(requests: Sequence[ImageRequest]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[DecodingConfig]]:
    """Labels, seeds, indices and settings as arguments of ``StraIT.decoding_steps``."""
    columns = zip(*((request.label, request.seed, request.index) for request in requests), strict=True)
    labels, seeds, indices = (torch.tensor(column, dtype=torch.int64) for column in columns)
    return labels, seeds, indices, [request.decoding for request in requests]
