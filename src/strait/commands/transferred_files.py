"""A picture moved to several classes, and all of them on one sheet (Figure 6).

OUTPUT/STEM-CLASS-transfer-seedS-0000.png   each result, its bottom predicted anew (or kept, with --keep-bottom)
OUTPUT/STEM-transfers-seedS.png             a row with the bottom predicted anew and one with it kept; source, classes
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from strait.commands.edited_files import settings_of, write_results
from strait.editing.edits import Edit, transfer_picture
from strait.pictures.reading import Picture
from strait.pictures.recipe import png_bytes
from strait.pictures.sheets import contact_sheet
from strait.pictures.images import to_images
from strait.runtime.files import write_new

ROWS = ("bottom predicted anew", "bottom kept")


def write_transfers(
    edit: Edit,
    labels: Sequence[int],
    picture: Picture,
    transfer: dict[str, Any],
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
        transfer: further arguments of ``transfer_picture``.
        options: what the files say of them.
        output: folder.
        stem: what the files' names begin with.
        overwrite: replace files of the same name.

    Raises:
        FileExistsError: rather than replace a file whose content differs.
    """
    kept = transfer.pop("keep_bottom")
    rows: dict[bool, list[np.ndarray]] = {False: [], True: []}
    for label in labels:
        each = replace(edit, label=label)
        for keep_bottom, cells in rows.items():
            results = list(transfer_picture(each, picture, **transfer, keep_bottom=keep_bottom))
            cells.append(results[0])
            if keep_bottom == kept:
                name = f"{stem}-{_in_a_name(edit.model.classes[label])}"
                settings = settings_of(each, "transfer", options)
                yield from write_results(results, output, name, settings, overwrite)
    side = edit.model.config.image_size
    source = _square(np.asarray(picture.rgb()), side)
    cells = [cell for row in rows.values() for cell in (source, *(_square(one, side) for one in row))]
    sheet = contact_sheet(to_images(cells), len(labels) + 1, ROWS)
    names = [edit.model.classes[label] for label in labels]
    settings = {**settings_of(edit, "transfer", options), "label": names, "keep_bottom": [False, True]}
    path = output / f"{stem}-transfers-seed{edit.seed}.png"
    write_new(path, png_bytes(sheet, settings), overwrite)
    yield path


def _in_a_name(label: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in label)


def _square(pixels: np.ndarray, side: int) -> np.ndarray:
    """The middle square of pixels, on white where they are transparent, at a side."""
    picture = Image.fromarray(pixels)
    if picture.mode == "RGBA":
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture)
    least = min(picture.size)
    left, top = (picture.width - least) // 2, (picture.height - least) // 2
    box = (left, top, left + least, top + least)
    return np.asarray(picture.convert("RGB").resize((side, side), Image.Resampling.LANCZOS, box=box))
