"""Extend an image past its edges, or generate one of any size: a window of the model's size slides over larger grids.

Each window keeps the known tokens and draws the others. The finished grids are larger than those of training, and are
decoded at once, since the tokenizer is convolutional. So transformers need no more memory than for a square. Source:
StraIT section 4.4 (extrapolation).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from strait.decoding.config import DecodingConfig
from strait.decoding.stratified import final_tokens
from strait.editing.infilling import base_decoding
from strait.editing.masks import refined
from strait.model.strait import StraIT
from strait.randomness import as_seed
from strait.types import Canvas, DecodingStep, Grid, Images, Tokens

MOST_SQUARES = 64
"""The largest area of a result, in images of the model's size: its pixels are decoded at once."""
_WINDOW_STREAM = 32


@dataclass(frozen=True)
class Sides:
    """The extension of each side, in top tokens."""

    left: int = 0
    right: int = 0
    up: int = 0
    down: int = 0

    def __post_init__(self) -> None:
        for name in ("left", "right", "up", "down"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} must not be negative")

    def padding(self, scale: int = 1) -> tuple[int, int, int, int]:
        """(left, right, up, down) in a unit of which ``scale`` make up the side of a top token."""
        return self.left * scale, self.right * scale, self.up * scale, self.down * scale


def windows(known: Tensor, window: Grid) -> Iterator[tuple[int, int]]:
    """The positions of the window, in order, until every token is known.

    Each position is the one with the most unknown tokens among those that are at least half known; if there is none,
    the one with the most known tokens.

    Args:
        known: bool ``[height, width]`` of the top grid, True for at least one token.
        window: (h, w), at most the size of the grid.

    Yields:
        (row, column) of the window's corner.
    """
    known, area = known.clone(), window[0] * window[1]
    while not known.all():
        counts = F.avg_pool2d(known.double()[None], window, stride=1)[0].mul(area).round()
        unfinished = counts < area
        half_known = unfinished & (counts >= area / 2)
        if half_known.any():
            scores = (area - counts).masked_fill(~half_known, -1)
        else:
            scores = counts.masked_fill(~unfinished, -1)
        row, column = divmod(int(scores.argmax()), scores.shape[1])
        known[row : row + window[0], column : column + window[1]] = True
        yield row, column


def extend_tokens(
    model: StraIT,
    tokens: Tokens,
    known: Tensor,
    labels: Tensor,
    seed: int = 0,
    indices: Tensor | None = None,
    decoding: DecodingConfig | None = None,
    watch: Callable[[DecodingStep], None] | None = None,
) -> Tokens:
    """Fill the unknown part of large token grids.

    Args:
        model: with all its parts.
        tokens: grids at least as large as the model's; unknown positions may hold any ids.
        known: bool ``[height, width]`` over the top grid, shared by the batch. If no token is known, the window at the
            top left comes first, under the user's seed: it has the tokens of an image of the model's size.
        labels: int64 ``[batch]``, ``NULL_LABEL`` for no class.
        seed: the user's seed; each window derives its own from it.
        indices: int64 ``[batch]``, the index of each result under the seed; 0, 1, ... by default.
        decoding: of each window; the model's defaults if None.
        watch: called after every step of every window.

    Raises:
        ValueError: if the grids are smaller than the model's.
    """
    settings, grids = base_decoding(model, decoding), model.config.grids[: len(tokens.levels)]
    if known.shape[0] < grids[0][0] or known.shape[1] < grids[0][1]:
        raise ValueError(
            f"extend: a canvas of {known.shape[0]}x{known.shape[1]} top tokens must be at least "
            f"{grids[0][0]}x{grids[0][1]}"
        )
    levels = [grid.clone() for grid in tokens.levels]
    masks = [~refined(known[None], grid.shape[1:])[0] for grid in tokens.levels]
    for number, (row, column) in enumerate(windows(known.cpu(), grids[0])):
        canvases, windows_of_levels = [], []
        for (height, width), grid, masked in zip(grids, levels, masks, strict=True):
            top, left = row * height // grids[0][0], column * width // grids[0][1]
            window = (..., slice(top, top + height), slice(left, left + width))
            windows_of_levels.append(window)
            canvases.append(Canvas.known(grid[window], masked[window].expand(len(grid), -1, -1)))
        window_seed = seed if masks[0].all() else as_seed(seed, _WINDOW_STREAM, number)
        drawn = final_tokens(model.decoding_steps(labels, window_seed, indices, settings, canvases), watch)
        for window, grid, masked, new in zip(windows_of_levels, levels, masks, drawn.levels, strict=True):
            grid[window], masked[window] = new, False
    return Tokens(tuple(levels))


def blank_tokens(model: StraIT, size: tuple[int, int], batch: int) -> Tokens:
    """The grids of images of a size, with no token known.

    Args:
        model: whose tokens they are.
        size: (height, width) in pixels.
        batch: number of images.

    Raises:
        ValueError: unless both sides are multiples of the side of a top token and at least the model's size, and the
            area is at most ``MOST_SQUARES`` of the model's images.
    """
    side, grids = model.config.image_size, model.config.grids[: model.config.tokenizer.num_levels]
    token, asked = side // grids[0][0], f"size: {size[1]}x{size[0]}"
    if min(size) < side or any(length % token for length in size):
        raise ValueError(f"{asked}: width and height must be multiples of {token} and at least {side}")
    if size[0] * size[1] > MOST_SQUARES * side * side:
        raise ValueError(f"{asked} has more pixels than {MOST_SQUARES} images of the model's size, {side}x{side}")
    shapes = [(batch, size[0] * height // side, size[1] * width // side) for height, width in grids]
    return Tokens(tuple(torch.zeros(shape, dtype=torch.int64, device=model.device) for shape in shapes))


def generate_sized(
    model: StraIT,
    labels: Tensor,
    size: tuple[int, int],
    seed: int = 0,
    indices: Tensor | None = None,
    decoding: DecodingConfig | None = None,
    watch: Callable[[DecodingStep], None] | None = None,
) -> Images:
    """Generate images of other sizes and aspect ratios than the model's square.

    Args:
        model: with all its parts.
        labels: int64 ``[batch]``, ``NULL_LABEL`` for no class.
        size: (height, width) in pixels, as for ``blank_tokens``.
        seed: the user's seed.
        indices: int64 ``[batch]``, the index of each image under the seed; 0, 1, ... by default.
        decoding: of each window; the model's defaults if None.
        watch: called after every step of every window.

    Returns:
        ``[batch, 3, height, width]`` in [-1, 1]; at the model's size, those of ``StraIT.generate``.

    Raises:
        ValueError: if the model has no such size.
    """
    tokens = blank_tokens(model, size, len(labels))
    known = torch.zeros(tokens.levels[0].shape[1:], dtype=torch.bool, device=model.device)
    return model.decode(extend_tokens(model, tokens, known, labels, seed, indices, decoding, watch))


def extend(
    model: StraIT,
    images: Images,
    sides: Sides,
    labels: Tensor,
    seed: int = 0,
    indices: Tensor | None = None,
    decoding: DecodingConfig | None = None,
    known: Tensor | None = None,
    watch: Callable[[DecodingStep], None] | None = None,
) -> Images:
    """Extend images.

    Args:
        model: with all its parts.
        images: ``[batch, 3, height, width]`` in [-1, 1]; height and width are multiples of the downsampling.
        sides: extension of each side, in top tokens.
        labels: int64 ``[batch]``, ``NULL_LABEL`` for no class.
        seed: the user's seed.
        indices: int64 ``[batch]``, the index of each result under the seed; 0, 1, ... by default.
        decoding: of each window; the model's defaults if None.
        known: bool over the images' top tokens ``[height, width]``, False for those to redraw; all known by default.
        watch: called after every step of every window.

    Returns:
        The extended images, decoded entirely from tokens.

    Raises:
        ValueError: if the extended images are smaller than the model's.
    """
    tokens = model.encode(images)
    top = tokens.levels[0]
    known = torch.ones(top.shape[1:], dtype=torch.bool) if known is None else known
    padded = Tokens(tuple(F.pad(grid, sides.padding(grid.shape[1] // top.shape[1])) for grid in tokens.levels))
    padded_known = F.pad(known.to(top.device), sides.padding())
    return model.decode(extend_tokens(model, padded, padded_known, labels, seed, indices, decoding, watch))
