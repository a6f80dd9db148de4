"""Limits of the page: as for the service, except that pictures may be as large as photographs of a phone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from strait.apps.jobs import Action, EditOptions, ImageRequest, passes_of
from strait.editing.edits import Edit
from strait.editing.extended_canvas import ExtendedCanvas
from strait.pictures.reading import Picture

MOST_IMAGES = 16
MOST_STEPS = 64
"""Per image, all levels together."""
MOST_PASSES = 512
"""Forward passes per click, counted per image; known before the work begins."""
MEGABYTES = 20
"""Of a file."""
PIXELS = 25_000_000
"""Of a picture; all results of an edit together may have ``RESULTS`` times as many."""
RESULTS = 4
MOST_WAITING = 32
"""Clicks that wait for their turn; further ones are refused."""
MOST_SESSIONS = 32
"""Open pages whose process is kept; the least recently used is dropped first."""
KEPT_SECONDS = 3600
"""Lifetime of pictures and processes."""


def check_generation(requests: Sequence[ImageRequest]) -> None:
    """Refuse images that take too long.

    Raises:
        ValueError: naming the limit.
    """
    most = max(sum(request.decoding.passes) for request in requests)
    if most > MOST_STEPS:
        raise ValueError(f"steps: {most} for an image, but the page accepts at most {MOST_STEPS}")
    _check_passes(sum(sum(request.decoding.passes) for request in requests))


def check_edit(edit: Edit, action: Action, picture: Picture, mask: np.ndarray | None, options: EditOptions) -> None:
    """Refuse an edit that takes too long, or too much memory.

    Raises:
        ValueError: naming the limit.
    """
    assert edit.decoding is not None
    if sum(edit.decoding.passes) > MOST_STEPS:
        raise ValueError(f"steps: {sum(edit.decoding.passes)} for a result, but the page accepts at most {MOST_STEPS}")
    _check_passes(passes_of(edit, action, picture, mask, options, MOST_PASSES))
    height, width = picture.size
    if action == "extend":
        height, width = ExtendedCanvas(picture.size, options.sides, edit.model.config.grids[0]).size
    if edit.count * height * width > RESULTS * PIXELS:
        raise ValueError(
            f"images: {edit.count} results of {width}x{height} pixels exceed {RESULTS * PIXELS / 1e6:.0f} million "
            "pixels in total; ask for fewer"
        )


def _check_passes(count: int) -> None:
    if count > MOST_PASSES:
        raise ValueError(
            f"steps: {'at least ' if count == MOST_PASSES + 1 else ''}{count} passes through the model, counted for "
            f"each image, but the page accepts at most {MOST_PASSES}; ask for fewer images or steps"
        )
