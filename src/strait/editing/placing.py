"""The square of a picture that the model sees, and the edit's way back into the picture.

The square lies around the mask, at the picture's own size; it is brought to the model's size, edited and brought back,
and outside the mask the picture's own pixels are put in its place.
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
    """A square of a picture, in its pixels. It may reach beyond the edges: what lies there is unknown."""

    top: int
    left: int
    side: int


def centre_window(size: tuple[int, int]) -> Window:
    """The largest square in the middle of a picture of (height, width)."""
    side = min(size)
    return Window((size[0] - side) // 2, (size[1] - side) // 2, side)


def window_around(mask: np.ndarray, model_size: int, context: float, tokens: int, cover: float = 0.0) -> Window:
    """The square to look at for filling a mask, placed so that the mask makes as few top tokens unknown as it can.

    Args:
        mask: bool ``[height, width]``; the middle of the picture is taken where it is empty.
        model_size: side of the model's images.
        context: side of the square in extents of the mask, as long as the picture has room for it.
        tokens: top tokens along a side of the square.
        cover: share of a token, in [0, 1), that may be masked.

    Raises:
        PictureError: if the mask is so long that the square around it would be too large to be made.
    """
    if not mask.any():
        return centre_window((mask.shape[0], mask.shape[1]))
    ends = [np.flatnonzero(mask.any(axis)) for axis in (1, 0)]
    starts, extents = [int(end[0]) for end in ends], [int(end[-1] - end[0] + 1) for end in ends]
    # As a float first: no context is too large to be asked for.
    side = max(int(min(context * max(extents), max(mask.shape))), model_size)
    side = max(min(side, *mask.shape), *extents)
    if Image.MAX_IMAGE_PIXELS and side * side > Image.MAX_IMAGE_PIXELS:
        raise PictureError(f"mask: it is {side} pixels long, and the square around it too large; fill a shorter part")
    scale = _Scale(side, model_size, tokens)
    top, left = (_placed(*along, scale, cover) for along in zip(starts, extents, mask.shape, strict=True))
    return Window(top, left, side)


@dataclass(frozen=True)
class _Scale:
    """Along one side of a square: its pixels of the picture, the model's pixels, and the top tokens."""

    side: int
    model_size: int
    tokens: int

    def covered(self, begins: np.ndarray, extent: int) -> np.ndarray:
        """The share of each token that a stretch of pixels covers, as ``cut`` brings it to the model's size.

        Args:
            begins: first pixels of stretches, in the square, ``[n]``.
            extent: of each.

        Returns:
            float ``[n, tokens]``.
        """
        numbers = np.arange(self.model_size)
        first = numbers * self.side // self.model_size
        end = -(-(numbers + 1) * self.side // self.model_size)
        met = (begins[:, None] < end) & (begins[:, None] + extent > first)
        return met.reshape(len(begins), self.tokens, -1).mean(2)


def _placed(start: int, extent: int, length: int, scale: _Scale, cover: float) -> int:
    """Where a window starts: inside the picture where it fits, the mask on few tokens, else near its middle."""
    side = scale.side
    if side > length:
        return (length - side) // 2
    middle = min(max(start + extent // 2 - side // 2, 0), length - side)
    # A token further in either direction there is nothing new.
    token = -(-side // scale.tokens)
    least, most = max(0, start + extent - side, middle - token), min(start, length - side, middle + token)
    places = np.arange(least, most + 1)
    shares = scale.covered(start - places, extent)
    order = np.lexsort((abs(places - middle), (shares > 0).sum(1), (shares > cover).sum(1)))
    return int(places[order[0]])


def cut(
    picture: Image.Image, mask: np.ndarray, window: Window, model_size: int, hide: bool = False
) -> tuple[Images, Tensor]:
    """The window at the model's size.

    Args:
        picture: RGB.
        mask: bool ``[height, width]``, True where to fill.
        window: of the picture.
        model_size: side of the result.
        hide: give the masked pixels the mean colour of the others first, so that resampling spreads nothing of them.

    Returns:
        ``[1, 3, size, size]`` in [-1, 1], and bool ``[1, size, size]``: True wherever a masked pixel, or one beyond
        the picture, has a part in it.
    """
    pixels, side = np.asarray(picture), window.side
    rows, columns, inside = _reach(window, mask.shape)
    seen, unknown = pixels[rows][:, columns], mask[rows][:, columns] | ~inside
    if hide and not unknown.all():
        seen[unknown] = seen[~unknown].mean(0).round().astype(np.uint8)
    square = Image.fromarray(seen)
    if side != model_size:
        square = square.resize((model_size, model_size), Image.Resampling.LANCZOS)
    return to_images(square), cut_mask(mask, window, model_size)


def cut_mask(mask: np.ndarray, window: Window, model_size: int) -> Tensor:
    """The mask of ``cut`` alone: bool ``[1, size, size]``."""
    rows, columns, inside = _reach(window, mask.shape)
    unknown = torch.from_numpy(mask[rows][:, columns] | ~inside)[None, None]
    return F.adaptive_max_pool2d(unknown.float(), model_size)[:, 0] > 0


def _reach(window: Window, size: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns of a window, the picture's edge repeated beyond it, and which of its pixels are inside."""
    rows, columns = (np.arange(start, start + window.side) for start in (window.top, window.left))
    inside = ((rows >= 0) & (rows < size[0]))[:, None] & ((columns >= 0) & (columns < size[1]))
    return rows.clip(0, size[0] - 1), columns.clip(0, size[1] - 1), inside


def put_back(
    pixels: np.ndarray, made: Images, mask: np.ndarray, window: Window, feather: int, seam: int = 0
) -> np.ndarray:
    """An edit in its picture.

    Args:
        pixels: uint8 ``[height, width, 3 or 4]``, the user's; never changed in place.
        made: ``[1, 3, size, size]`` in [-1, 1], the edited window.
        mask: bool ``[height, width]``, inside the window: without a seam every pixel outside it comes back bit for
            bit.
        window: where ``made`` belongs.
        feather: pixels inside the mask over which it fades in.
        seam: pixels outside the mask, inside the window, over which it fades out; they change.

    Returns:
        uint8 of the shape of ``pixels``; where something was filled, nothing is transparent.
    """
    square = enlarged(made, window.side, window.side)
    top, left = max(window.top, 0), max(window.left, 0)
    bottom, right = min(window.top + window.side, mask.shape[0]), min(window.left + window.side, mask.shape[1])
    part = (slice(top, bottom), slice(left, right))
    new = square[top - window.top : bottom - window.top, left - window.left : right - window.left]
    result, place = pixels.copy(), mask[part]
    if seam:
        place = dilate(torch.from_numpy(place)[None], seam)[0].numpy()
    # From the seam's outer edge to the feather's inner one: one ramp.
    result[part] = blend(pixels[part], new, place, feather + seam)
    return result


def enlarged(made: Images, height: int, width: int) -> np.ndarray:
    """One image ``[1, 3, h, w]`` in [-1, 1] as uint8 ``[height, width, 3]``."""
    (picture,) = to_pictures(made)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def blend(old: np.ndarray, new: np.ndarray, mask: np.ndarray, feather: int) -> np.ndarray:
    """The new inside a mask, fading in over ``feather`` pixels; the old, bit for bit, outside.

    Where the old is transparent the new fades into what the model saw there, the old on white: the colour that a
    transparent pixel hides may be any.

    Args:
        old: uint8 ``[height, width, 3 or 4]``.
        new: uint8 ``[height, width, 3]``.
        mask: bool ``[height, width]``.
        feather: as ``masks.inward_ramp`` has it.

    Returns:
        uint8 of the shape of ``old``, opaque inside the mask.
    """
    share = inward_ramp(torch.from_numpy(mask)[None], feather)[0].numpy()[mask][:, None]
    seen = np.asarray(on_white(Image.fromarray(old)))[mask]
    result = old.copy()
    result[mask, :3] = (share * new[mask] + (1 - share) * seen).round().astype(np.uint8)
    result[mask, 3:] = 255
    return result
