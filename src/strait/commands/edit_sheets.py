"""An edit under several classes: each result as a file, and all of them on one sheet.

OUTPUT/STEM-CLASS-EDIT-seedS-0000.png   each result
OUTPUT/STEM-EDIT-sheet-seedS.png        the sheet

The sheet of a transfer (Figure 6) shows the source and the classes, in one row with the bottom re-predicted and in one
with it kept. The sheet of an infilling (Figure 10) has a row for each class: the picture, its known part, the results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from strait.commands.class_names_in_files import class_slugs
from strait.commands.edited_files import settings_of, write_results
from strait.editing.edits import Edit
from strait.pictures.as_images import as_images
from strait.pictures.reading import Picture
from strait.pictures.recipe import png_bytes
from strait.pictures.sheets import contact_sheet
from strait.runtime.files import usable_stem, write_new

Results = Iterable[np.ndarray]
_GREY = 128
_LONGEST_STEM, _LONGEST_CLASS = 90, 59  # bytes and letters: with a hyphen 150, the limit of usable_stem


@dataclass(frozen=True)
class EditSheet:
    """An edit under several classes.

    Args:
        edit: options of the edit; its label is ignored.
        labels: the classes.
        action: the kind of edit.
        options: of the action, stored in the files.
        output: folder.
        stem: beginning of the file names.
        overwrite: replace files of the same name.
    """

    edit: Edit
    labels: Sequence[int]
    action: str
    options: dict[str, Any]
    output: Path
    stem: str
    overwrite: bool

    def edits(self) -> list[Edit]:
        """The edit under each class."""
        return [replace(self.edit, label=label) for label in self.labels]

    def write_results(self, edit: Edit, results: Results) -> Iterator[Path]:
        # The picture's name is cut here, so that a long one leaves room for the class.
        slug = class_slugs(edit.model.classes)[edit.label][:_LONGEST_CLASS]
        stem, settings = (
            f"{usable_stem(self.stem, _LONGEST_STEM)}-{slug}",
            settings_of(edit, self.action, self.options),
        )
        yield from write_results(results, self.output, stem, settings, self.overwrite)

    def write(self, rows: Sequence[tuple[str, list[np.ndarray]]]) -> Path:
        """Write the sheet: rows of a title, which need not be unique, and pictures."""
        model = self.edit.model
        cells = [cell for _, row in rows for cell in row]
        columns = len(rows[0][1])
        sheet = contact_sheet(as_images(cells, model.config.image_size), columns, [title for title, _ in rows])
        classes = [model.classes[label] for label in self.labels]
        settings = {**settings_of(self.edit, self.action, self.options), "label": classes}
        path = self.output / f"{usable_stem(self.stem)}-{self.action}-sheet-seed{self.edit.seed}.png"
        write_new(path, png_bytes(sheet, settings), self.overwrite)
        return path


def write_transfers(sheet: EditSheet, picture: Picture, transfer: Callable[..., Results]) -> Iterator[Path]:
    """Transfer a picture to each class; write the results, then the sheet; yields each path.

    Args:
        sheet: the classes, and where to write.
        picture: to edit.
        transfer: ``transfer_picture`` with everything bound except the edit, the picture and ``keep_bottom``.

    Raises:
        FileExistsError: if a file exists with different content, unless ``overwrite`` is set.
    """
    source = np.asarray(picture.rgb())
    rows = [("bottom re-predicted", [source]), ("bottom kept", [source])]
    for edit in sheet.edits():
        for (_, cells), keep_bottom in zip(rows, (False, True), strict=True):
            results = list(transfer(edit, picture, keep_bottom=keep_bottom))
            cells.append(results[0])
            if keep_bottom == sheet.options["keep_bottom"]:
                yield from sheet.write_results(edit, results)
    yield sheet.write(rows)


def write_infillings(
    sheet: EditSheet, picture: Picture, fill: np.ndarray, infill: Callable[[Edit], Results]
) -> Iterator[Path]:
    """Infill a picture under each class; write the results, then the sheet; yields each path.

    Args:
        sheet: the classes, and where to write.
        picture: to edit.
        fill: bool ``[height, width]``, True where to fill.
        infill: the edit -> its results.

    Raises:
        FileExistsError: if a file exists with different content, unless ``overwrite`` is set.
    """
    source = np.asarray(picture.rgb())
    known = np.where(fill[..., None], _GREY, source).astype(np.uint8)
    rows: list[tuple[str, list[np.ndarray]]] = []
    for edit in sheet.edits():
        results = list(infill(edit))
        yield from sheet.write_results(edit, results)
        rows.append((edit.model.classes.title(edit.label), [source, known, *results]))
    yield sheet.write(rows)
