"""Write edits: a PNG per result with its settings, and the decoding process as a strip, an animation and maps."""

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
    """The settings that a file of an edit stores."""
    decoding = edit.decoding or edit.model.default_decoding()
    label = None if edit.label == NULL_LABEL else edit.model.classes[edit.label]
    digest = edit.model.weights_hash()
    return recipe(digest, edit.seed, dataclasses.asdict(decoding), label=label, edit=action, **options)


def _name(stem: str, settings: dict[str, Any], index: int) -> str:
    return f"{usable_stem(stem)}-{settings['edit']}-seed{settings['seed']}-{index:04d}"


def write_results(
    results: Iterable[np.ndarray], output: Path, stem: str, settings: dict[str, Any], overwrite: bool
) -> Iterator[Path]:
    """Write each result as soon as it is decoded; yields its path.

    Raises:
        FileExistsError: if a file exists with different content, unless ``overwrite`` is set.
    """
    for index, pixels in enumerate(results):
        path = output / f"{_name(stem, settings, index)}.png"
        write_new(path, png_bytes(Image.fromarray(pixels), {**settings, "index": index}), overwrite)
        yield path


def process_of(
    edit: Edit, index: int, source: tuple[Picture, np.ndarray, EditConfig] | None = None
) -> tuple[list[Frame], list[Redrawing]]:
    """Decode result ``index`` with all its steps: its frames, and the stability of its final tokens.

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
    """Write the strip, the animation (``gif`` or ``webp``) and the maps of a process; yields their paths.

    Raises:
        FileExistsError: if a file exists with different content, unless ``overwrite`` is set.
    """
    steps, redrawn = process
    name = _name(stem, settings, settings["index"])
    for path, content in (
        (output / f"{name}-strip.png", png_bytes(strip(steps, codebook_size), settings)),
        (output / f"{name}.{kind}", animation(steps, codebook_size, kind)),
        (output / f"{name}-redrawn.png", png_bytes(redrawing_maps(steps[-1].image, redrawn), settings)),
    ):
        write_new(path, content, overwrite)
        yield path
