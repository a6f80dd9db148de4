"""A user's picture in, edited pictures out: every edit at the picture's own size.

A picture may be a file's path, a PIL picture, an array or a tensor; a mask the same, or bools.
Result k of a seed is the same however many are asked for.
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
from strait.editing.placing import Window, blend, centre_window, cut, cut_mask, enlarged, put_back, window_around
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
    """What every edit is asked for.

    Args:
        model: with the parts that the edit needs.
        label: index of the class; ``NULL_LABEL`` for none.
        count: results.
        seed: of the results.
        decoding: steps, temperature, guidance; the model's own by default.
        batch_size: results decoded at once.
        first: index of the first result.
        watch: is told of every decoding step.
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
        """The same at the model's base size, for edits that need no upsampler."""
        return replace(self, decoding=base_decoding(self.model, self.decoding))

    def labels(self, count: int) -> Tensor:
        """The label, ``[count]``."""
        return torch.full((count,), self.label, dtype=torch.int64)

    def batches(self) -> Iterator[Tensor]:
        """Indices of the results, batch by batch."""
        yield from torch.arange(self.first, self.first + self.count).split(self.batch_size)

    def results(self, canvases_of: Callable[[Tensor], list[Canvas]]) -> Iterator[Images]:
        """Each result ``[1, 3, size, size]``, from the first canvases of a batch of indices ``[batch]``."""
        for indices in self.batches():
            canvases, labels = canvases_of(indices), self.labels(len(indices))
            made = finish(self.model, canvases, labels, self.seed, indices, self.decoding, self.watch)
            yield from made.cpu().split(1)

    def seeds(self, indices: Tensor) -> Tensor:
        return image_seeds(self.seed, indices.to(self.model.device))


def expanded(tokens: Tokens, count: int) -> Tokens:
    """The tokens of one image, ``count`` times."""
    return Tokens(tuple(grid.expand(count, -1, -1) for grid in tokens.levels))


def infilling_window(model: StraIT, mask: np.ndarray, config: EditConfig) -> Window:
    """The square of a picture that the model sees when it fills a mask."""
    return window_around(mask, model.config.image_size, config.context, model.config.grids[0][0], config.cover)


def infilling_note(model: StraIT, mask: np.ndarray, config: EditConfig) -> str | None:
    """What a user should know before a mask is filled; None where there is nothing."""
    if not mask.any():
        return None
    seen = cut_mask(mask, infilling_window(model, mask, config), model.config.image_size)
    (unknown,) = token_masks(seen, model.config.grids[:1], config.margin, config.cover)
    if not unknown.all():
        return None
    return (
        "mask: no top token stays known, so what is drawn cannot follow the picture around it; "
        "fill a smaller part, or in several parts"
    )


def picture_canvases(
    edit: Edit, picture: Picture, mask: np.ndarray, config: EditConfig
) -> Callable[[Tensor], list[Canvas]]:
    """The first canvases of filling a part of a picture, by the indices ``[batch]`` of the results."""
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
    """Fill a part of a picture; under a label that is not the picture's, a relabelling.

    Args:
        edit: how many, which class.
        picture: the user's.
        mask: True or white where to fill. Where it is empty the picture comes back bit for bit.
        config: strength, margin, context, cover, feather, seam, composite.

    Yields:
        uint8 of the shape of the picture's pixels, one result after the other.
    """
    edit, config, picture = edit.base(), config or EditConfig(), as_picture(picture)
    mask = as_mask(mask, picture.size)
    window = infilling_window(edit.model, mask, config)
    composite = config.composite
    place = mask if composite else _inside(window, mask.shape)
    feather, seam = (config.feather, config.seam) if composite else (0, 0)
    for made in edit.results(picture_canvases(edit, picture, mask, config)):
        yield put_back(picture.pixels, made, place, window, feather, seam)


def _inside(window: Window, size: tuple[int, ...]) -> np.ndarray:
    """The window as a mask: what comes back where nothing of the picture's own is put in."""
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
    """Move the middle square of a picture to another class.

    Args:
        edit: how many, which class.
        picture: the user's.
        keep: share of its top tokens that stay.
        choose: which: random ones, others for each result, or those that the new class finds most likely.
        region: a mask in place of a share: the top tokens that it touches go, all others stay.
        keep_bottom: without bottom-level re-prediction.

    Yields:
        uint8 ``[side, side, 3 or 4]``, the square at the picture's own size; its transparency is the picture's own.

    Raises:
        ValueError: if ``keep`` is no share, or ``choose`` neither of its words.
    """
    if choose not in ("random", "confidence"):
        raise ValueError(f"choose: {choose!r} is not one of random, confidence")
    edit, size, picture = edit.base(), edit.model.config.image_size, as_picture(picture)
    window = centre_window(picture.size)
    chosen = np.zeros(picture.size, bool) if region is None else as_mask(region, picture.size)
    images, masks = cut(picture.rgb(), chosen, window, size)
    tokens = edit.model.encode(images.to(edit.model.device))
    top = tokens.levels[0]
    same: Tensor | None = None
    if region is not None:
        same = ~token_masks(masks.to(top.device), edit.model.config.grids[:1])[0]
    elif choose == "confidence":
        guidance = base_decoding(edit.model, edit.decoding).guidance
        same = confident_kept(edit.model, top, edit.labels(1).to(top.device), keep, guidance)

    def canvases(indices: Tensor) -> list[Canvas]:
        some = expanded(tokens, len(indices))
        own = some.levels[0]
        kept = random_kept(own, keep, edit.seeds(indices)) if same is None else same.expand_as(own)
        return transfer_canvases(some, kept, keep_bottom)

    square = slice(window.top, window.top + window.side), slice(window.left, window.left + window.side)
    for made in edit.results(canvases):
        yield np.concatenate([enlarged(made, window.side, window.side), picture.pixels[square][..., 3:]], axis=2)


def upsample_picture(edit: Edit, picture: AnyPicture) -> Iterator[np.ndarray]:
    """Draw the middle square of a picture, brought to the model's size, at twice that size.

    Yields:
        uint8 ``[2s, 2s, 3 or 4]``; the transparency is the picture's own, resampled.
    """
    size, picture = edit.model.config.image_size, as_picture(picture)
    alpha = np.zeros((2 * size, 2 * size, 0), np.uint8)
    if picture.pixels.shape[2] == 4:
        channel = Image.fromarray(picture.pixels[..., 3])
        alpha = np.asarray(ImageOps.fit(channel, (2 * size, 2 * size), Image.Resampling.LANCZOS))[..., None]
    images = to_images(Image.fromarray(to_square(picture.rgb(), size))).to(edit.model.device)
    for indices in edit.batches():
        many, labels = images.expand(len(indices), -1, -1, -1), edit.labels(len(indices))
        results = upsample(edit.model, many, labels, edit.seed, indices, edit.decoding, edit.watch)
        for made in results.cpu().split(1):
            yield np.concatenate([enlarged(made, 2 * size, 2 * size), alpha], axis=2)


def extend_picture(
    edit: Edit, picture: AnyPicture, sides: Sides, feather: int = 2, composite: bool = True
) -> Iterator[np.ndarray]:
    """Extend a picture past its edges.

    The picture's shorter side is brought to the model's size; a top token is then so many of the picture's pixels.

    Args:
        edit: how many, which class.
        picture: the user's.
        sides: how far, in top tokens.
        feather: pixels outside the picture over which its edge fades into the new.
        composite: put the picture's own pixels back.

    Yields:
        uint8 ``[height, width, 3 or 4]``, larger.

    Raises:
        PictureError: if nothing is to be extended, or the result would be too large.
    """
    if sides == Sides():
        raise PictureError("extend: say by how many top tokens, on one side at least: left, right, up or down")
    edit, picture = edit.base(), as_picture(picture)
    model, device = edit.model, edit.model.device
    canvas = ExtendedCanvas(picture.size, sides, model.config.grids[0])
    canvas.check()
    images, known = canvas.as_model_images(picture, model.config.image_size).to(device), canvas.known().to(device)
    old = canvas.with_repeated_edges(picture.pixels)
    drawn = canvas.outside() if composite else np.ones(canvas.size, bool)
    for indices in edit.batches():
        copies, labels = images.expand(len(indices), -1, -1, -1), edit.labels(len(indices))
        results = extend(model, copies, sides, labels, edit.seed, indices, edit.decoding, known, edit.watch)
        for result in results.cpu().split(1):
            yield blend(old, canvas.at_picture_scale(result), drawn, feather if composite else 0)
