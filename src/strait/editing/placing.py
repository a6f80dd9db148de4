"""The square of a picture that the model sees, and pasting the edited square back.

The square around the mask is resized to the model's size, edited and resized back; outside the mask the picture's own
pixels are kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from strait.editing.masks import dilate, inward_ramp
from strait.pictures.images import to_images, to_pictures
from strait.pictures.reading import PictureError, on_white
from strait.types import Images


@dataclass(frozen=True)
class Window:
    """A square of a picture, in pixels. It may extend beyond the edges, where everything is unknown."""

    top: int
    left: int
    side: int


def centre_window(size: tuple[int, int]) -> Window:
    """The largest central square of a picture of ``size`` (height, width)."""
    side = min(size)
    return Window((size[0] - side) // 2, (size[1] - side) // 2, side)


def window_around(mask: np.ndarray, model_size: int, context: float, tokens: int, cover: float = 0.0) -> Window:
    """The square to use for filling a mask, placed so that the mask makes as few top tokens unknown as possible.

    Args:
        mask: bool ``[height, width]``; if it is empty, the central square is used.
        model_size: side of the model's images.
        context: side of the square as a multiple of the mask's extent, limited by the picture's shorter side.
        tokens: top tokens along a side of the square.
        cover: share of a token, in [0, 1), that may be masked.

    Raises:
        PictureError: if the mask is so long that the square around it would have too many pixels.
    """
    if not mask.any():
        return centre_window((mask.shape[0], mask.shape[1]))
    ends = [np.flatnonzero(mask.any(axis)) for axis in (1, 0)]
    starts, extents = [int(end[0]) for end in ends], [int(end[-1] - end[0] + 1) for end in ends]
    # Limited before it becomes an integer: the context may be any float.
    side = max(int(min(context * max(extents), max(mask.shape))), model_size)
    side = max(min(side, *mask.shape), *extents)
    if Image.MAX_IMAGE_PIXELS and side * side > Image.MAX_IMAGE_PIXELS:
        raise PictureError(f"mask: the square around its {side} pixels is too large; fill a shorter area")
    scale = _Scale(side, model_size, tokens)
    top, left = (_window_start(*axis, scale, cover) for axis in zip(starts, extents, mask.shape, strict=True))
    return Window(top, left, side)


@dataclass(frozen=True)
class _Scale:
    """The side of a square in the picture's pixels, in the model's pixels and in top tokens."""

    side: int
    model_size: int
    tokens: int

    def covered(self, begins: np.ndarray, extent: int) -> np.ndarray:
        """The share of each token that a range of pixels covers, after resizing as in ``cut``.

        Args:
            begins: first pixels of n ranges, relative to the square, ``[n]``.
            extent: length of each range.

        Returns:
            float ``[n, tokens]``.
        """
        pixels = np.arange(self.model_size)
        first = pixels * self.side // self.model_size
        end = -(-(pixels + 1) * self.side // self.model_size)
        overlaps = (begins[:, None] < end) & (begins[:, None] + extent > first)
        return overlaps.reshape(len(begins), self.tokens, -1).mean(2)


def _window_start(start: int, extent: int, length: int, scale: _Scale, cover: float) -> int:
    """The start of the window along one axis: the mask makes the fewest tokens unknown, then it is most central.

    Args:
        start: first masked pixel.
        extent: of the mask, in pixels.
        length: of the picture; a longer window is centred on it.
        scale: of the window.
        cover: share of a token that may be masked.
    """
    side = scale.side
    if side > length:
        return (length - side) // 2
    central = min(max(start + extent // 2 - side // 2, 0), length - side)
    # The coverage repeats after one token in either direction.
    token = -(-side // scale.tokens)
    least, most = max(0, start + extent - side, central - token), min(start, length - side, central + token)
    candidates = np.arange(least, most + 1)
    shares = scale.covered(start - candidates, extent)
    order = np.lexsort((abs(candidates - central), (shares > 0).sum(1), (shares > cover).sum(1)))
    return int(candidates[order[0]])


def cut(
    picture: Image.Image, mask: np.ndarray, window: Window, model_size: int, hide: bool = False
) -> tuple[Images, Tensor]:
    """The picture's window at the model's size.

    Args:
        picture: RGB.
        mask: bool ``[height, width]``, True where to fill.
        window: of the picture.
        model_size: side of the result.
        hide: replace masked pixels by the mean colour of the others first, so that resampling does not spread them.

    Returns:
        ``[1, 3, size, size]`` in [-1, 1], and bool ``[1, size, size]``: True where any contributing pixel is masked or
        outside the picture.
    """
    pixels, side = np.asarray(picture), window.side
    rows, columns, inside = _indices(window, mask.shape)
    visible, unknown = pixels[rows][:, columns], mask[rows][:, columns] | ~inside
    if hide and not unknown.all():
        visible[unknown] = visible[~unknown].mean(0).round().astype(np.uint8)
    square = Image.fromarray(visible)
    if side != model_size:
        square = square.resize((model_size, model_size), Image.Resampling.LANCZOS)
    return to_images(square), cut_mask(mask, window, model_size)


def cut_mask(mask: np.ndarray, window: Window, model_size: int) -> Tensor:
    """Only the mask of ``cut``: bool ``[1, size, size]``."""
    rows, columns, inside = _indices(window, mask.shape)
    unknown = torch.from_numpy(mask[rows][:, columns] | ~inside)[None, None]
    return F.adaptive_max_pool2d(unknown.float(), model_size)[:, 0] > 0


def _indices(window: Window, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The window's row and column indices, clipped to the picture, and which of its pixels are inside the picture."""
    rows, columns = (np.arange(start, start + window.side) for start in (window.top, window.left))
    inside = ((rows >= 0) & (rows < size[0]))[:, None] & ((columns >= 0) & (columns < size[1]))
    return rows.clip(0, size[0] - 1), columns.clip(0, size[1] - 1), inside


def put_back(
    pixels: np.ndarray, image: Images, mask: np.ndarray, window: Window, feather: int, seam: int = 0
) -> np.ndarray:
    """Paste an edited window into its picture.

    Args:
        pixels: uint8 ``[height, width, 3 or 4]`` of the picture; not changed.
        image: ``[1, 3, size, size]`` in [-1, 1], the edited window.
        mask: bool ``[height, width]``, inside the window. Without a seam, pixels outside the mask stay bit-identical.
        window: position of ``image`` in the picture.
        feather: pixels inside the mask over which the edit fades in.
        seam: pixels outside the mask, inside the window, over which the edit fades out.

    Returns:
        uint8 of the shape of ``pixels``; replaced pixels are opaque.
    """
    square = resized(image, window.side, window.side)
    top, left = max(window.top, 0), max(window.left, 0)
    bottom, right = min(window.top + window.side, mask.shape[0]), min(window.left + window.side, mask.shape[1])
    part = (slice(top, bottom), slice(left, right))
    new = square[top - window.top : bottom - window.top, left - window.left : right - window.left]
    result, replaced = pixels.copy(), mask[part]
    if seam:
        replaced = dilate(torch.from_numpy(replaced)[None], seam)[0].numpy()
    # One ramp, from the outer edge of the seam to the inner edge of the feather.
    result[part] = blend(pixels[part], new, replaced, feather + seam)
    return result


def resized(image: Images, height: int, width: int) -> np.ndarray:
    """One image ``[1, 3, h, w]`` in [-1, 1] -> uint8 ``[height, width, 3]`` (bicubic)."""
    (picture,) = to_pictures(image)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def blend(old: np.ndarray, new: np.ndarray, mask: np.ndarray, feather: int) -> np.ndarray:
    """Replace the pixels inside a mask, fading in over ``feather`` pixels; pixels outside stay bit-identical.

    Transparent old pixels are blended as white, which is what the model saw: their hidden colour is arbitrary.

    Args:
        old: uint8 ``[height, width, 3 or 4]``.
        new: uint8 ``[height, width, 3]``.
        mask: bool ``[height, width]``.
        feather: in pixels (``masks.inward_ramp``).

    Returns:
        uint8 of the shape of ``old``, opaque inside the mask.
    """
    weight = inward_ramp(torch.from_numpy(mask)[None], feather)[0].numpy()[mask][:, None]
    visible = np.asarray(on_white(Image.fromarray(old)))[mask]
    result = old.copy()
    result[mask, :3] = (weight * new[mask] + (1 - weight) * visible).round().astype(np.uint8)
    result[mask, 3:] = 255
    return result
