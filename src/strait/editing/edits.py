"""Every edit, applied to a user's picture at its original size.

A picture may be a file's path, a PIL picture, an array or a tensor; a mask may be the same, or bools.
Result k of a seed does not depend on the number of results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from strait.decoding.config import DecodingConfig
from strait.editing.config import EditConfig
from strait.editing.extended_canvas import ExtendedCanvas
from strait.editing.extension import Sides, extend
from strait.editing.infilling import base_decoding, encode_for_infilling, finish, infill_canvases
from strait.editing.masks import token_masks
from strait.editing.placing import Window, blend, centre_window, cut, cut_mask, put_back, resized, window_around
from strait.editing.transfer import confident_kept, random_kept, transfer_canvases
from strait.editing.upsampling import upsample
from strait.model.strait import StraIT
from strait.pictures.as_images import AnyMask, AnyPicture, as_mask, as_picture
from strait.pictures.images import to_images
from strait.pictures.reading import Picture, PictureError, to_square
from strait.randomness import image_seeds
from strait.types import NULL_LABEL, Canvas, DecodingStep, Images, Tokens


@dataclass(frozen=True)
class Edit:
    """The options that all edits share.

    Args:
        model: with the parts that the edit needs.
        label: class index; ``NULL_LABEL`` for no class.
        count: number of results.
        seed: of the results.
        decoding: steps, temperature, guidance; the model's defaults if None.
        batch_size: results decoded at once.
        first: index of the first result.
        watch: called after every decoding step.
    """

    model: StraIT
    label: int = NULL_LABEL
    count: int = 1
    seed: int = 0
    decoding: DecodingConfig | None = None
    batch_size: int = 16
    first: int = 0
    watch: Callable[[DecodingStep], None] | None = None

    def __post_init__(self) -> None:
        for name in ("count", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name.replace('_', '-')}: {getattr(self, name)} must be at least 1")

    def base(self) -> Edit:
        """The same edit at the model's base size, without the upsampler."""
        return replace(self, decoding=base_decoding(self.model, self.decoding))

    def labels(self, count: int) -> Tensor:
        """The label repeated, int64 ``[count]``."""
        return torch.full((count,), self.label, dtype=torch.int64)

    def batches(self) -> Iterator[Tensor]:
        """Indices of the results, batch by batch."""
        yield from torch.arange(self.first, self.first + self.count).split(self.batch_size)

    def results(self, canvases_of: Callable[[Tensor], list[Canvas]]) -> Iterator[Images]:
        """Decode each result, ``[1, 3, size, size]``.

        Args:
            canvases_of: indices ``[batch]`` of results -> their initial canvases.
        """
        for indices in self.batches():
            canvases, labels = canvases_of(indices), self.labels(len(indices))
            images = finish(self.model, canvases, labels, self.seed, indices, self.decoding, self.watch)
            yield from images.cpu().split(1)

    def seeds(self, indices: Tensor) -> Tensor:
        return image_seeds(self.seed, indices.to(self.model.device))


def expanded(tokens: Tokens, count: int) -> Tokens:
    """The tokens of one image, repeated ``count`` times."""
    return Tokens(tuple(grid.expand(count, -1, -1) for grid in tokens.levels))


def infilling_window(model: StraIT, mask: np.ndarray, config: EditConfig) -> Window:
    """The square of the picture that the model sees for an infilling."""
    return window_around(mask, model.config.image_size, config.context, model.config.grids[0][0], config.cover)


def infilling_note(model: StraIT, mask: np.ndarray, config: EditConfig) -> str | None:
    """A warning if the mask leaves the model nothing to follow, else None."""
    if not mask.any():
        return None
    seen = cut_mask(mask, infilling_window(model, mask, config), model.config.image_size)
    (unknown,) = token_masks(seen, model.config.grids[:1], config.margin, config.cover)
    if not unknown.all():
        return None
    return (
        "mask: no top token stays known, so the filling cannot match the picture around it; "
        "fill a smaller area, or several areas in turn"
    )


def picture_canvases(
    edit: Edit, picture: Picture, mask: np.ndarray, config: EditConfig
) -> Callable[[Tensor], list[Canvas]]:
    """A function from the indices ``[batch]`` of results to the initial canvases of their infilling."""
    model, size = edit.model, edit.model.config.image_size
    window = infilling_window(model, mask, config)
    hide = config.strength == 1
    images, masks = (part.to(model.device) for part in cut(picture.rgb(), mask, window, size, hide))
    tokens = encode_for_infilling(model, images, masks, config.strength)

    def canvases(indices: Tensor) -> list[Canvas]:
        count = len(indices)
        return infill_canvases(expanded(tokens, count), masks.expand(count, -1, -1), edit.seeds(indices), config)

    return canvases


def infill_picture(
    edit: Edit, picture: AnyPicture, mask: AnyMask, config: EditConfig | None = None
) -> Iterator[np.ndarray]:
    """Fill the masked part of a picture; under another class than the picture's this is a relabelling.

    Args:
        edit: class, number of results and other options.
        picture: to edit.
        mask: True or white where to fill. An empty mask returns the picture unchanged.
        config: strength, margin, context, cover, feather, seam, composite.

    Yields:
        Each result, uint8 of the shape of the picture's pixels.
    """
    edit, config, picture = edit.base(), config or EditConfig(), as_picture(picture)
    mask = as_mask(mask, picture.size)
    window = infilling_window(edit.model, mask, config)
    composite = config.composite
    region = mask if composite else _inside(window, mask.shape)
    feather, seam = (config.feather, config.seam) if composite else (0, 0)
    for image in edit.results(picture_canvases(edit, picture, mask, config)):
        yield put_back(picture.pixels, image, region, window, feather, seam)


def _inside(window: Window, size: tuple[int, ...]) -> np.ndarray:
    """The window as a mask over the picture: the pixels that an edit without compositing replaces."""
    mask = np.zeros(size, bool)
    mask[max(window.top, 0) : window.top + window.side, max(window.left, 0) : window.left + window.side] = True
    return mask


def transfer_picture(
    edit: Edit,
    picture: AnyPicture,
    keep: float = 0.5,
    choose: Literal["random", "confidence"] = "random",
    region: AnyMask | None = None,
    keep_bottom: bool = False,
) -> Iterator[np.ndarray]:
    """Transfer the central square of a picture to another class.

    Args:
        edit: class, number of results and other options.
        picture: to edit.
        keep: share of the top tokens to keep, in [0, 1].
        choose: which to keep: a random choice per result, or the tokens that are most likely under the new class.
        region: a mask instead of a share: the top tokens that it touches are redrawn, all others are kept.
        keep_bottom: skip the bottom-level re-prediction.

    Yields:
        uint8 ``[side, side, 3 or 4]``, the square at its original size, with the picture's transparency.

    Raises:
        ValueError: if ``keep`` is outside [0, 1], or ``choose`` is unknown.
    """
    if choose not in ("random", "confidence"):
        raise ValueError(f"choose: {choose!r} is not one of random, confidence")
    edit, size, picture = edit.base(), edit.model.config.image_size, as_picture(picture)
    window = centre_window(picture.size)
    mask = np.zeros(picture.size, bool) if region is None else as_mask(region, picture.size)
    images, masks = cut(picture.rgb(), mask, window, size)
    tokens = edit.model.encode(images.to(edit.model.device))
    top = tokens.levels[0]
    fixed: Tensor | None = None  # the kept tokens, where they are the same for every result
    if region is not None:
        fixed = ~token_masks(masks.to(top.device), edit.model.config.grids[:1])[0]
    elif choose == "confidence":
        guidance = base_decoding(edit.model, edit.decoding).guidance
        fixed = confident_kept(edit.model, top, edit.labels(1).to(top.device), keep, guidance)

    def canvases(indices: Tensor) -> list[Canvas]:
        copies = expanded(tokens, len(indices))
        tops = copies.levels[0]
        kept = random_kept(tops, keep, edit.seeds(indices)) if fixed is None else fixed.expand_as(tops)
        return transfer_canvases(copies, kept, keep_bottom)

    square = slice(window.top, window.top + window.side), slice(window.left, window.left + window.side)
    for image in edit.results(canvases):
        yield np.concatenate([resized(image, window.side, window.side), picture.pixels[square][..., 3:]], axis=2)


def upsample_picture(edit: Edit, picture: AnyPicture) -> Iterator[np.ndarray]:
    """Upsample the central square of a picture, resized to the model's size s, to twice that size.

    Yields:
        uint8 ``[2s, 2s, 3 or 4]``, with the picture's transparency resampled.
    """
    size, picture = edit.model.config.image_size, as_picture(picture)
    alpha = np.zeros((2 * size, 2 * size, 0), np.uint8)
    if picture.pixels.shape[2] == 4:
        channel = Image.fromarray(picture.pixels[..., 3])
        alpha = np.asarray(ImageOps.fit(channel, (2 * size, 2 * size), Image.Resampling.LANCZOS))[..., None]
    images = to_images(Image.fromarray(to_square(picture.rgb(), size))).to(edit.model.device)
    for indices in edit.batches():
        copies, labels = images.expand(len(indices), -1, -1, -1), edit.labels(len(indices))
        results = upsample(edit.model, copies, labels, edit.seed, indices, edit.decoding, edit.watch)
        for image in results.cpu().split(1):
            yield np.concatenate([resized(image, 2 * size, 2 * size), alpha], axis=2)


def extend_picture(
    edit: Edit, picture: AnyPicture, sides: Sides, feather: int = 2, composite: bool = True
) -> Iterator[np.ndarray]:
    """Extend a picture past its edges. The model sees it with its shorter side resized to the model's size.

    Args:
        edit: class, number of results and other options.
        picture: to extend.
        sides: extension of each side, in top tokens.
        feather: pixels outside the picture over which its edge fades into the new content.
        composite: keep the picture's own pixels.

    Yields:
        uint8 ``[height, width, 3 or 4]``, larger than the picture.

    Raises:
        PictureError: if no side is extended, or the result would be too large.
    """
    if sides == Sides():
        raise PictureError("extend: give a number of top tokens for at least one side: left, right, up or down")
    edit, picture = edit.base(), as_picture(picture)
    model, device = edit.model, edit.model.device
    canvas = ExtendedCanvas(picture.size, sides, model.config.grids[0])
    canvas.check()
    images, known = canvas.as_model_images(picture, model.config.image_size).to(device), canvas.known().to(device)
    padded = canvas.with_repeated_edges(picture.pixels)
    replaced = canvas.outside() if composite else np.ones(canvas.size, bool)
    for indices in edit.batches():
        copies, labels = images.expand(len(indices), -1, -1, -1), edit.labels(len(indices))
        results = extend(model, copies, sides, labels, edit.seed, indices, edit.decoding, known, edit.watch)
        for image in results.cpu().split(1):
            yield blend(padded, canvas.at_picture_scale(image), replaced, feather if composite else 0)
