"""What a page may be asked for: those of the service, but for pictures, which may be a telephone's photographs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from strait.apps.jobs import Action, EditOptions, Wanted, passes_of
from strait.editing.edits import Edit
from strait.editing.extended_canvas import ExtendedCanvas
from strait.pictures.reading import Picture

MOST_IMAGES = 16
MOST_STEPS = 64
"""Of one image, all levels together."""
MOST_PASSES = 512
"""Through the model at one press of a button, each image's counted; known before the work begins."""
MEGABYTES = 20
"""Of a file."""
PIXELS = 25_000_000
"""Of a picture; the results of an edit together may have ``RESULTS`` times as many."""
RESULTS = 4
MOST_WAITING = 32
"""Presses of buttons that wait for their turn; a further one is sent away."""
MOST_SESSIONS = 32
"""Open pages whose process is kept; the one used longest ago goes first."""
KEPT_SECONDS = 3600
"""After which pictures and processes are forgotten."""


def check_generation(wanted: Sequence[Wanted]) -> None:
    """Refuse images that take too long.

    Raises:
        ValueError: naming the limit.
    """
    most = max(sum(image.decoding.steps) for image in wanted)
    if most > MOST_STEPS:
        raise ValueError(f"steps: {most} for an image, and the page takes {MOST_STEPS} at most")
    _check_passes(sum(sum(image.decoding.steps) for image in wanted))


def check_edit(edit: Edit, action: Action, picture: Picture, mask: np.ndarray | None, options: EditOptions) -> None:
    """Refuse an edit that takes too long, or too much memory.

    Raises:
        ValueError: naming the limit.
    """
    assert edit.decoding is not None
    if sum(edit.decoding.steps) > MOST_STEPS:
        raise ValueError(f"steps: {sum(edit.decoding.steps)} for a result, and the page takes {MOST_STEPS} at most")
    _check_passes(passes_of(edit, action, picture, mask, options, MOST_PASSES))
    height, width = picture.size
    if action == "extend":
        height, width = ExtendedCanvas(picture.size, options.sides, edit.model.config.grids[0]).size
    if edit.count * height * width > RESULTS * PIXELS:
        raise ValueError(
            f"images: {edit.count} results of {width}x{height} pixels are more than {RESULTS * PIXELS / 1e6:.0f} "
            "million pixels together; ask for fewer"
        )


def _check_passes(count: int) -> None:
    if count > MOST_PASSES:
        raise ValueError(
            f"steps: {'at least ' if count == MOST_PASSES + 1 else ''}{count} passes through the model, counted for "
            f"each image, and the page takes {MOST_PASSES} at most; ask for fewer images or steps"
        )
