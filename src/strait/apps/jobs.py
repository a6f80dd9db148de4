"""What is asked of a model, as values checked against it: images to generate, settings of decoding, edits.

The page and the service share it, so that the same wishes give the same images as the Python call.
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
"""How many times longer than wide a picture may be that is extended: its shorter side becomes the model's size."""


@dataclass(frozen=True)
class Wanted:
    """One image to generate: image ``index`` of ``seed``."""

    label: int
    seed: int
    index: int
    decoding: DecodingConfig


def wanted_images(
    model: StraIT, labels: Sequence[str | int] | None, count: int, seed: int, decoding: DecodingConfig
) -> list[Wanted]:
    """The images that ``StraIT.generate`` makes of the same arguments, one by one."""
    numbers = model.labels(labels, count, seed)
    return [Wanted(label, seed, index, decoding) for index, label in enumerate(numbers)]


def settings_inside(model: StraIT, digest: str, wanted: Wanted) -> dict[str, Any]:
    """What the PNG of a generated image says of its making."""
    label = None if wanted.label == NULL_LABEL else model.classes[wanted.label]
    return recipe(digest, wanted.seed, dataclasses.asdict(wanted.decoding), label=label, index=wanted.index)


@dataclass(frozen=True)
class EditOptions:
    """Settings of all edits; each takes what concerns it (``strait edit ACTION --help``)."""

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
        edit: how many, which class.
        action: which.
        picture: the user's.
        mask: bool ``[height, width]``, True where to fill; for a transfer, the region that goes in place of a share.
        options: of the edit.

    Raises:
        ValueError: if something is missing.
    """
    if action in ("relabel", "transfer") and edit.label == NULL_LABEL:
        raise ValueError(f"label: {action} needs the new class")
    if action in ("infill", "relabel"):
        if mask is None:
            raise ValueError(f"mask: {action} needs to know what to fill")
        return infill_picture(edit, picture, mask, options.config)
    if action == "extend":
        if max(picture.size) > LONGEST_SIDES * min(picture.size):
            raise PictureError(f"image: it is more than {LONGEST_SIDES} times as long as wide")
        return extend_picture(edit, picture, options.sides, options.config.feather, options.config.composite)
    if not 0 <= options.keep <= 1:
        raise ValueError(f"keep: {options.keep} must lie between 0 and 1")
    return transfer_picture(edit, picture, options.keep, options.choose, mask, options.keep_bottom)


def passes_of(
    edit: Edit, action: Action, picture: Picture, mask: np.ndarray | None, options: EditOptions, most: int
) -> int:
    """How many rows an edit sends through the transformers, of the arguments of ``edited``; counted before it begins.

    Args:
        edit: how many, at which steps.
        action: which.
        picture: the user's.
        mask: of the edit.
        options: of the edit.
        most: counting ends just above it.
    """
    model = edit.model
    each = sum(base_decoding(model, edit.decoding).steps) * edit.count
    if action == "extend":
        canvas = ExtendedCanvas(picture.size, options.sides, model.config.grids[0])
        windows = canvas.count_windows(most // each + 1)
        return min(each * windows, most + 1)
    # The new class is asked about each top token by itself.
    asked = math.prod(model.config.grids[0]) if action == "transfer" and options.choose == "confidence" else 0
    return each + (asked if mask is None else 0)


def edit_settings(
    edit: Edit, digest: str, action: str, mask: np.ndarray | None, options: EditOptions, index: int
) -> dict[str, Any]:
    """What the PNG of an edited picture says of its making; of a mask, that it stood in for a transfer's share."""
    decoding = edit.decoding or edit.model.default_decoding()
    settings = settings_inside(edit.model, digest, Wanted(edit.label, edit.seed, index, decoding))
    region = {"keep": "region"} if action == "transfer" and mask is not None else {}
    return {**settings, "edit": action, **dataclasses.asdict(options), **region}


def batches(wanted: Sequence[Wanted], size: int) -> Iterator[list[int]]:
    """Places of images that can be decoded together: labels, seeds, temperatures, guidance and steps may differ.

    A batch takes as many steps at each level as its longest row, so those go together whose steps round up to the same
    power of two at each level: no row takes part in twice as many passes as it needs, and there are few groups. Within
    a group the batches are of like lengths. Guided rows are kept apart from others, which they would cost a second
    half of the batch.
    """
    groups: dict[DecodingConfig, list[int]] = {}
    for place, one in enumerate(wanted):
        alike = dataclasses.replace(
            one.decoding,
            steps=tuple(1 << (steps - 1).bit_length() for steps in one.decoding.steps),
            temperature=(0.0,) * len(one.decoding.steps),
            guidance=float(one.decoding.guidance != 0),
        )
        groups.setdefault(alike, []).append(place)
    for places in groups.values():
        places.sort(key=lambda place: wanted[place].decoding.steps)
        for start in range(0, len(places), size):
            yield places[start : start + size]


def as_rows(wanted: Sequence[Wanted]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[DecodingConfig]]:
    """Labels, seeds, indices and settings, as ``StraIT.decoding_steps`` takes them."""
    columns = zip(*((one.label, one.seed, one.index) for one in wanted), strict=True)
    labels, seeds, indices = (torch.tensor(column, dtype=torch.int64) for column in columns)
    return labels, seeds, indices, [one.decoding for one in wanted]
