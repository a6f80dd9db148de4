"""Extend an image past its edges, as wide as one likes: a window of the model's size slides over larger token grids.

Each window keeps the tokens that are already there and draws the others; the finished grids, larger than any the
transformers were trained on, are decoded at once, since the tokenizer is convolutional. Source: StraIT section 4.4
(extrapolation).
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
from strait.model.strait import StraIT
from strait.randomness import as_seed
from strait.types import Canvas, DecodingStep, Grid, Images, Tokens

_WINDOW_STREAM = 32


@dataclass(frozen=True)
class Sides:
    """By how many top tokens to extend each side."""

    left: int = 0
    right: int = 0
    up: int = 0
    down: int = 0

    def __post_init__(self) -> None:
        for name in ("left", "right", "up", "down"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} must not be negative")

    def padding(self, scale: int = 1) -> tuple[int, int, int, int]:
        """(left, right, up, down) in units of which a top token has ``scale`` along a side."""
        return self.left * scale, self.right * scale, self.up * scale, self.down * scale


def windows(known: Tensor, window: Grid) -> Iterator[tuple[int, int]]:
    """Where to put the window, one place after the other, until every token is known.

    Each time the place with the most unknown tokens among those that at least half know; where no place knows half,
    the one that knows most.

    Args:
        known: bool ``[height, width]`` of the top grid, some of it True.
        window: (h, w), at most as large.

    Yields:
        (row, column) of the window's corner.
    """
    known, area = known.clone(), window[0] * window[1]
    while not known.all():
        counts = F.avg_pool2d(known.double()[None], window, stride=1)[0].mul(area).round()
        open_places = counts < area
        half = open_places & (counts >= area / 2)
        scores = (area - counts).masked_fill(~half, -1) if half.any() else counts.masked_fill(~open_places, -1)
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
        tokens: grids at least as large as the model's own; what stands at unknown places has no meaning.
        known: bool ``[height, width]`` over the top grid, the same for the whole batch.
        labels: int64 ``[batch]``, ``NULL_LABEL`` for none.
        seed: the user's; every window draws from a seed of its own.
        indices: int64 ``[batch]``, which result of the seed each is; 0, 1, ... by default.
        decoding: of each window; the model's own by default.
        watch: is told of every step of every window.

    Raises:
        ValueError: if nothing is known, or the grids are smaller than the model's.
    """
    settings, grids = base_decoding(model, decoding), model.config.grids[: len(tokens.levels)]
    if known.shape[0] < grids[0][0] or known.shape[1] < grids[0][1] or not known.any():
        raise ValueError(
            f"extend: a canvas of {known.shape[0]}x{known.shape[1]} top tokens must be at least "
            f"{grids[0][0]}x{grids[0][1]}, some of them known"
        )
    levels, masks = [grid.clone() for grid in tokens.levels], [~_raised(known, grid) for grid in tokens.levels]
    for number, (row, column) in enumerate(windows(known.cpu(), grids[0])):
        canvases, cuts = [], []
        for (height, width), grid, masked in zip(grids, levels, masks, strict=True):
            down, right = row * height // grids[0][0], column * width // grids[0][1]
            part = (..., slice(down, down + height), slice(right, right + width))
            cuts.append(part)
            canvases.append(Canvas.known(grid[part], masked[part].expand(len(grid), -1, -1)))
        window_seed = as_seed(seed, _WINDOW_STREAM, number)
        made = final_tokens(model.decoding_steps(labels, window_seed, indices, settings, canvases), watch)
        for part, grid, masked, new in zip(cuts, levels, masks, made.levels, strict=True):
            grid[part], masked[part] = new, False
    return Tokens(tuple(levels))


def _raised(known: Tensor, grid: Tensor) -> Tensor:
    rows, columns = grid.shape[1] // known.shape[0], grid.shape[2] // known.shape[1]
    return known.repeat_interleave(rows, 0).repeat_interleave(columns, 1)


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
        images: ``[batch, 3, height, width]`` in [-1, 1], sides multiples of the downsampling.
        sides: how far, in top tokens.
        labels: int64 ``[batch]``, ``NULL_LABEL`` for none.
        seed: the user's.
        indices: int64 ``[batch]``, which result of the seed each is; 0, 1, ... by default.
        decoding: of each window; the model's own by default.
        known: bool over the images' own top tokens ``[height, width]``, where some of them are to be drawn, too.
        watch: is told of every step of every window.

    Returns:
        The larger images, decoded from tokens everywhere.

    Raises:
        ValueError: if the images are smaller than the model's even when extended.
    """
    tokens = model.encode(images)
    top = tokens.levels[0]
    own = torch.ones(top.shape[1:], dtype=torch.bool, device=top.device) if known is None else known.to(top.device)
    padded = Tokens(tuple(F.pad(grid, sides.padding(grid.shape[1] // top.shape[1])) for grid in tokens.levels))
    grown = F.pad(own, sides.padding())
    return model.decode(extend_tokens(model, padded, grown, labels, seed, indices, decoding, watch))
