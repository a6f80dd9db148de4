"""PIL pictures, numpy arrays and tensors to ``Images`` or to pixels. Only this module distinguishes these types.

| input | shape | values |
|---|---|---|
| PIL picture | any size and mode | as its mode says; rotated as EXIF says |
| numpy array | ``[height, width, 3 or 4]``, or ``[height, width]`` for grey | uint8, or floats in [0, 1] |
| tensor | ``[3, height, width]`` | floats in [-1, 1] (``Images``), or uint8 |

An array or a tensor may have a leading batch dimension. A list may hold any of these except batched arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from strait.pictures.images import from_bytes, to_pictures
from strait.pictures.reading import (
    Mask,
    Picture,
    PictureError,
    eight_bits,
    is_filled,
    is_white,
    read_mask,
    read_picture,
    to_square,
)
from strait.types import Images

Pixels: TypeAlias = Image.Image | np.ndarray | Tensor
Pictures: TypeAlias = Pixels | Sequence[Pixels]

AnyPicture: TypeAlias = Picture | Image.Image | np.ndarray | Tensor | str | Path
"""A picture from a user: anything that ``as_images`` accepts, or a file's path."""
AnyMask: TypeAlias = Mask | Image.Image | np.ndarray | Tensor | Sequence[Any] | str | Path
"""A mask from a user: bools, 8-bit values, lists of rows, a picture that is white where to fill, or a file's path."""

_TOLERANCE = 1e-3  # resampling and rounding may overshoot a range by this much


def as_images(pictures: Pictures, size: int) -> Images:
    """Convert pictures of any accepted type to ``Images``.

    Args:
        pictures: see the table above.
        size: PIL pictures and arrays are resized to it as in training: the shorter side is resampled, the central
            square is cropped and transparency becomes white. Tensors keep their size; a list that contains tensors
            must be uniform in size.

    Returns:
        float32 ``[batch, 3, height, width]`` in [-1, 1].

    Raises:
        ValueError: if a shape or a value range is not that of a picture.
    """
    if isinstance(pictures, Tensor):
        return _tensor_images(pictures)
    if isinstance(pictures, Image.Image) or (isinstance(pictures, np.ndarray) and pictures.ndim < 4):
        pictures = [pictures]
    if not len(pictures):
        raise ValueError("images: none were given")
    batches = [_tensor_images(item) if isinstance(item, Tensor) else _square(item, size) for item in pictures]
    sides = sorted({f"{images.shape[2]}x{images.shape[3]}" for images in batches})
    if len(sides) > 1:
        raise ValueError(f"images: all pictures in a list must have the same size, not {' and '.join(sides)}")
    return torch.cat(batches)


def pixels_of(picture: Pixels) -> np.ndarray:
    """One picture at its original size: uint8 ``[height, width, 3 or 4]``.

    Raises:
        ValueError: if the shape or the value range is not that of a picture.
    """
    if isinstance(picture, Tensor):
        images = _tensor_images(picture)
        if len(images) != 1:
            raise ValueError(f"images: expected one picture, not {len(images)}")
        picture = to_pictures(images)[0]
    if isinstance(picture, np.ndarray):
        picture = _from_array(picture)
    if not isinstance(picture, Image.Image):
        raise ValueError(
            f"images: {type(picture).__name__} is not a picture; pass a PIL picture, an array or a tensor"
        )
    return np.array(eight_bits(picture))


def as_picture(picture: AnyPicture) -> Picture:
    """Convert a picture of any accepted type, or read it from its path.

    Raises:
        ValueError: if it is not a picture.
    """
    if isinstance(picture, Picture):
        return picture
    return read_picture(picture) if isinstance(picture, str | Path) else Picture(pixels_of(picture))


def as_mask(mask: AnyMask, size: tuple[int, int]) -> np.ndarray:
    """Convert a mask of any accepted type to bool ``[height, width]``, True where to fill.

    Args:
        mask: integers are thresholded as in ``is_filled``. Dimensions of size one in front (batch, channel) or at the
            end are dropped.
        size: height and width of the picture.

    Raises:
        PictureError: if it is not a mask, or its size is not the picture's.
    """
    if isinstance(mask, str | Path):
        mask = read_mask(mask, size, "mask")
    if isinstance(mask, Mask):
        mask = mask.fill
    if isinstance(mask, Image.Image):
        mask = is_white(eight_bits(mask))
    values = mask.cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    while values.ndim > 2 and 1 in (values.shape[0], values.shape[-1]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if np.issubdtype(values.dtype, np.integer):
        if values.size and not 0 <= values.min() <= values.max() <= 255:
            raise PictureError(f"mask: integers must lie in [0, 255], not [{values.min()}, {values.max()}]")
        values = is_filled(values)
    if values.dtype != bool:
        hint = "; for floats say mask > 0.5, for logits mask > 0" if np.issubdtype(values.dtype, np.floating) else ""
        raise PictureError(f"mask: it must hold bools, True where to fill, or integers, not {values.dtype}{hint}")
    if values.shape != size:
        raise PictureError(f"mask: its shape is {values.shape}, and the picture's (height, width) {size}")
    return values


def _square(picture: Any, size: int) -> Images:
    pixels = torch.from_numpy(to_square(Image.fromarray(pixels_of(picture)), size).copy())
    return _tensor_images(pixels.permute(2, 0, 1))


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim not in (2, 3) or 0 in array.shape or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise ValueError(f"images: an array of shape {array.shape} is not a picture; it must be [height, width, 3]")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(array))
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"images: an array of {array.dtype} is not a picture; it must be uint8, or floats in [0, 1]")
    _check_range(float(array.min()), float(array.max()), 0, "an array of floats")
    return Image.fromarray((array * 255).round().clip(0, 255).astype(np.uint8))


def _tensor_images(tensor: Tensor) -> Images:
    images = tensor[None] if tensor.ndim == 3 else tensor
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images: a tensor must be [batch, 3, height, width], not {list(tensor.shape)}")
    if images.dtype == torch.uint8:
        return from_bytes(images)
    if not images.is_floating_point():
        raise ValueError(f"images: a tensor must hold floats in [-1, 1] or uint8, not {images.dtype}")
    if images.numel():
        _check_range(float(images.min()), float(images.max()), -1, "a tensor of floats")
    return images.float()


def _check_range(lowest: float, highest: float, floor: int, what: str) -> None:
    # Written so that NaN fails the check.
    if not (floor - _TOLERANCE <= lowest and highest <= 1 + _TOLERANCE):
        raise ValueError(f"images: {what} must lie in [{floor}, 1]; this one ranges from {lowest:g} to {highest:g}")
