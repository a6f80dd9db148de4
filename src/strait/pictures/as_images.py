"""Pictures in: PIL pictures, numpy arrays and tensors to ``Images`` or to pixels. The only place that knows the kinds.

| what is handed over | shape | values |
|---|---|---|
| PIL picture | any size and mode | as its mode says; turned as EXIF says |
| numpy array | ``[height, width, 3 or 4]``, or ``[height, width]`` for grey | uint8, or floats in [0, 1] |
| tensor | ``[3, height, width]`` | floats in [-1, 1] (``Images``), or uint8 |

An array or a tensor may have a batch dimension in front; a list holds any of these but arrays with one.
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
"""A picture as a user may hand it over: what ``as_images`` understands, or a file's path."""
AnyMask: TypeAlias = Mask | Image.Image | np.ndarray | Tensor | Sequence[Any] | str | Path
"""A mask as a user may hand it over: bools, 8 bits, lists of rows, a picture white where to fill, or its path."""

_SLACK = 1e-3  # what resampling or rounding may add at the ends of a range


def as_images(pictures: Pictures, size: int) -> Images:
    """Whatever pictures were handed over, as ``Images``.

    Args:
        pictures: see above.
        size: PIL pictures and arrays are brought to it as training does: the shorter side resampled, the middle
            square cut out, transparency on white. Tensors stay as large as they are; what else stands in their list
            must then be as large.

    Returns:
        float32 ``[batch, 3, height, width]`` in [-1, 1].

    Raises:
        ValueError: naming the shape or the values that cannot be a picture's.
    """
    if isinstance(pictures, Tensor):
        return _tensor_images(pictures)
    if isinstance(pictures, Image.Image) or (isinstance(pictures, np.ndarray) and pictures.ndim < 4):
        pictures = [pictures]
    if not len(pictures):
        raise ValueError("images: none were given")
    found = [_tensor_images(one) if isinstance(one, Tensor) else _square(one, size) for one in pictures]
    sides = sorted({f"{images.shape[2]}x{images.shape[3]}" for images in found})
    if len(sides) > 1:
        raise ValueError(f"images: those of one list must be equally large, not {' and '.join(sides)}")
    return torch.cat(found)


def pixels_of(picture: Pixels) -> np.ndarray:
    """One picture at its own size: uint8 ``[height, width, 3 or 4]``.

    Raises:
        ValueError: naming the shape or the values that cannot be a picture's.
    """
    if isinstance(picture, Tensor):
        images = _tensor_images(picture)
        if len(images) != 1:
            raise ValueError(f"images: one picture is wanted here, not {len(images)}")
        picture = to_pictures(images)[0]
    if isinstance(picture, np.ndarray):
        picture = _from_array(picture)
    if not isinstance(picture, Image.Image):
        raise ValueError(f"images: {type(picture).__name__} is no picture; give a PIL picture, an array or a tensor")
    return np.array(eight_bits(picture))


def as_picture(picture: AnyPicture) -> Picture:
    """Whatever picture was handed over.

    Raises:
        ValueError: if it is none.
    """
    if isinstance(picture, Picture):
        return picture
    return read_picture(picture) if isinstance(picture, str | Path) else Picture(pixels_of(picture))


def as_mask(mask: AnyMask, size: tuple[int, int]) -> np.ndarray:
    """Whatever mask was handed over, bool ``[height, width]`` of the picture's ``size``; of integers those of 128 and
    above are to be filled, or where none is above 1 those of 1. Dimensions of one in front (a batch, a
    channel) or behind are left aside.

    Raises:
        PictureError: if it is none, or of another size.
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
        raise ValueError(f"images: an array of shape {array.shape} is no picture; it must be [height, width, 3]")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.dtype == np.uint8:
        return Image.fromarray(np.ascontiguousarray(array))
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(f"images: an array of {array.dtype} is no picture; it must be uint8, or floats in [0, 1]")
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
    # Written so that what is no number is refused.
    if not (floor - _SLACK <= lowest and highest <= 1 + _SLACK):
        raise ValueError(f"images: {what} must lie in [{floor}, 1]; this one reaches from {lowest:g} to {highest:g}")
