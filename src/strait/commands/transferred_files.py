"""A picture moved to several classes, and all of them on one sheet (Figure 6).

OUTPUT/STEM-CLASS-transfer-seedS-0000.png   each result, its bottom predicted anew (or kept, with --keep-bottom)
OUTPUT/STEM-transfers-seedS.png             a row with the bottom predicted anew and one with it kept; source, classes
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

ROWS = ("bottom predicted anew", "bottom kept")


def write_transfers(
    edit: Edit,
    labels: Sequence[int],
    picture: Picture,
    transfer: Callable[..., Iterable[np.ndarray]],
    options: dict[str, Any],
    output: Path,
    stem: str,
    overwrite: bool,
) -> Iterator[Path]:
    """Move a picture to each class and write the results, then the sheet; yields each path.

    Args:
        edit: how many of each class, seed, settings; its own label is not used.
        labels: the classes.
        picture: the user's.
        transfer: ``transfer_picture`` with all but the edit, the picture and ``keep_bottom``.
        options: what the files say of them.
        output: folder.
        stem: what the files' names begin with.
        overwrite: replace files of the same name.

    Raises:
        FileExistsError: rather than replace a file whose content differs.
    """
    rows: dict[bool, list[np.ndarray]] = {False: [], True: []}
    for label in labels:
        each = replace(edit, label=label)
        for keep_bottom, cells in rows.items():
            results = list(transfer(each, picture, keep_bottom=keep_bottom))
            cells.append(results[0])
            if keep_bottom == options["keep_bottom"]:
                name = f"{stem}-{_in_a_name(edit.model.classes[label])}"
                settings = settings_of(each, "transfer", options)
                yield from write_results(results, output, name, settings, overwrite)
    cells = [cell for row in rows.values() for cell in (picture.rgb(), *row)]
    sheet = contact_sheet(as_images(cells, edit.model.config.image_size), len(labels) + 1, ROWS)
    names = [edit.model.classes[label] for label in labels]
    settings = {**settings_of(edit, "transfer", options), "label": names, "keep_bottom": [False, True]}
    path = output / f"{stem}-transfers-seed{edit.seed}.png"
    write_new(path, png_bytes(sheet, settings), overwrite)
    yield path


def _in_a_name(label: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in label)
