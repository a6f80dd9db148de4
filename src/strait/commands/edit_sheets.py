"""An edit under several classes: each result as a file, and all of them on one sheet.

OUTPUT/STEM-CLASS-EDIT-seedS-0000.png   each result
OUTPUT/STEM-EDIT-sheet-seedS.png        the sheet

The sheet of a transfer (Figure 6) shows the source and the classes, in one row with the bottom re-predicted and in one
with it kept. The sheet of an infilling (Figure 10) has a row for each class: the picture, its known part, the results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from strait.commands.edited_files import settings_of, write_results
from strait.editing.edits import Edit
from strait.pictures.as_images import as_images
from strait.pictures.reading import Picture
from strait.pictures.recipe import png_bytes
from strait.pictures.sheets import contact_sheet
from strait.runtime.files import write_new

Results = Iterable[np.ndarray]
_GREY = 128


def write_transfers(
    edit: Edit,
    labels: Sequence[int],
    picture: Picture,
    transfer: Callable[..., Results],
    options: dict[str, Any],
    output: Path,
    stem: str,
    overwrite: bool,
) -> Iterator[Path]:
    """Transfer a picture to each class; write the results, then the sheet; yields each path.

    Args:
        edit: options of the edit; its label is ignored.
        labels: the classes.
        picture: to edit.
        transfer: ``transfer_picture`` with everything bound except the edit, the picture and ``keep_bottom``.
        options: of the transfer, stored in the files.
        output: folder.
        stem: beginning of the file names.
        overwrite: replace files of the same name.

    Raises:
        FileExistsError: if a file exists with different content, unless ``overwrite`` is set.
    """
    source = np.asarray(picture.rgb())
    rows = {"bottom re-predicted": [source], "bottom kept": [source]}
    for label in labels:
        each = replace(edit, label=label)
        for (_, cells), keep_bottom in zip(rows.items(), (False, True), strict=True):
            results = list(transfer(each, picture, keep_bottom=keep_bottom))
            cells.append(results[0])
            if keep_bottom == options["keep_bottom"]:
                yield from _write_files(each, results, "transfer", options, output, stem, overwrite)
    yield _write_sheet(edit, labels, rows, "transfer", options, output, stem, overwrite)


def write_infillings(
    edit: Edit,
    labels: Sequence[int],
    picture: Picture,
    fill: np.ndarray,
    infill: Callable[[Edit], Results],
    action: str,
    options: dict[str, Any],
    output: Path,
    stem: str,
    overwrite: bool,
) -> Iterator[Path]:
    """Infill a picture under each class; write the results, then the sheet; yields each path.

    Args:
        edit: options of the edit; its label is ignored.
        labels: the classes.
        picture: to edit.
        fill: bool ``[height, width]``, True where to fill.
        infill: the edit -> its results.
        action: ``infill`` or ``relabel``.
        options: of the infilling, stored in the files.
        output: folder.
        stem: beginning of the file names.
        overwrite: replace files of the same name.

    Raises:
        FileExistsError: if a file exists with different content, unless ``overwrite`` is set.
    """
    source = np.asarray(picture.rgb())
    known = np.where(fill[..., None], _GREY, source).astype(np.uint8)
    rows: dict[str, list[np.ndarray]] = {}
    for label in labels:
        each = replace(edit, label=label)
        results = list(infill(each))
        yield from _write_files(each, results, action, options, output, stem, overwrite)
        rows[edit.model.classes.title(label)] = [source, known, *results]
    yield _write_sheet(edit, labels, rows, action, options, output, stem, overwrite)


def _write_files(
    edit: Edit, results: Results, action: str, options: dict[str, Any], output: Path, stem: str, overwrite: bool
) -> Iterator[Path]:
    letters = (letter if letter.isalnum() else "-" for letter in edit.model.classes[edit.label])
    yield from write_results(
        results, output, f"{stem}-{''.join(letters)}", settings_of(edit, action, options), overwrite
    )


def _write_sheet(
    edit: Edit,
    labels: Sequence[int],
    rows: dict[str, list[np.ndarray]],
    action: str,
    options: dict[str, Any],
    output: Path,
    stem: str,
    overwrite: bool,
) -> Path:
    cells = [cell for row in rows.values() for cell in row]
    columns = len(next(iter(rows.values())))
    sheet = contact_sheet(as_images(cells, edit.model.config.image_size), columns, list(rows))
    settings = {**settings_of(edit, action, options), "label": [edit.model.classes[label] for label in labels]}
    path = output / f"{stem}-{action}-sheet-seed{edit.seed}.png"
    write_new(path, png_bytes(sheet, settings), overwrite)
    return path
