"""Edits to files: one PNG a result with its settings inside; the decoding process as a strip and an animation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from strait.editing.config import EditConfig
from strait.editing.edits import Edit, picture_canvases
from strait.editing.process import Frame, Redrawing, frames, redrawings
from strait.editing.process_pictures import animation, redrawing_maps, strip
from strait.pictures.reading import Picture
from strait.pictures.recipe import png_bytes, recipe
from strait.runtime.files import usable_stem, write_new
from strait.types import NULL_LABEL, Canvas


def settings_of(edit: Edit, action: str, options: dict[str, Any]) -> dict[str, Any]:
    """What a file says of its making."""
    decoding = edit.decoding or edit.model.default_decoding()
    label = None if edit.label == NULL_LABEL else edit.model.classes[edit.label]
    digest = edit.model.weights_hash()
    return recipe(digest, edit.seed, dataclasses.asdict(decoding), label=label, edit=action, **options)


def _name(stem: str, settings: dict[str, Any], index: int) -> str:
    return f"{usable_stem(stem)}-{settings['edit']}-seed{settings['seed']}-{index:04d}"


def write_results(
    results: Iterable[np.ndarray], output: Path, stem: str, settings: dict[str, Any], overwrite: bool
) -> Iterator[Path]:
    """Write each result as it is made; yields its path.

    Raises:
        FileExistsError: rather than replace a file whose content differs.
    """
    for index, pixels in enumerate(results):
        path = output / f"{_name(stem, settings, index)}.png"
        write_new(path, png_bytes(Image.fromarray(pixels), {**settings, "index": index}), overwrite)
        yield path


def process_of(
    edit: Edit, index: int, source: tuple[Picture, np.ndarray, EditConfig] | None = None
) -> tuple[list[Frame], list[Redrawing]]:
    """Result ``index`` decoded with every step kept: its frames, and what would be drawn again at the end.

    Args:
        edit: as for the result itself.
        index: of the result.
        source: picture, mask and settings of an infilling; None for generation.
    """
    edit = edit.base()
    assert edit.decoding is not None
    model, indices = edit.model, torch.tensor([index])
    labels = edit.labels(1).to(model.device)
    if source is None:
        canvases = [Canvas.blank(1, grid, model.device) for grid in model.config.grids[: len(edit.decoding.steps)]]
    else:
        canvases = picture_canvases(edit, *source)(indices)
    steps = list(model.decoding_steps(labels, edit.seed, indices, edit.decoding, canvases))
    return list(frames(model, steps, edit.seed)), redrawings(model, canvases, steps, labels, edit.decoding.guidance)


def write_process(
    process: tuple[list[Frame], list[Redrawing]],
    codebook_size: int,
    output: Path,
    stem: str,
    settings: dict[str, Any],
    kind: str,
    overwrite: bool,
) -> Iterator[Path]:
    """Write the strip, the animation (``gif`` or ``webp``) and the maps of one process; yields their paths.

    Raises:
        FileExistsError: rather than replace a file whose content differs.
    """
    made, found = process
    name = _name(stem, settings, settings["index"])
    for path, content in (
        (output / f"{name}-strip.png", png_bytes(strip(made, codebook_size), settings)),
        (output / f"{name}.{kind}", animation(made, codebook_size, kind)),
        (output / f"{name}-redrawn.png", png_bytes(redrawing_maps(made[-1].image, found), settings)),
    ):
        write_new(path, content, overwrite)
        yield path
