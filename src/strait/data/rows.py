"""Rules shared by all readers: which files are pictures, where a row's picture and class are, what is ignored.

Readers of folders, parquet files, tars and hubs, copied or streamed, all use these functions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath, PurePosixPath
from typing import Any

import numpy as np

from strait.data.classes import MOST_CLASSES
from strait.runtime.files import parse_json

SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .bmp .dib .tif .tiff .gif .ppm .pgm .pbm .pnm".split()  # noqa: SIM905
)
"""Suffixes of picture files, in any case."""
LABELS = ("label", "labels", "fine_label", "cls")
"""Columns that can hold a picture's class, by priority."""
LARGEST_LABEL_FILE = 256
"""Largest size in bytes of a tar's ``cls`` member."""
_CURES = (
    ((".zip", ".7z", ".rar"), "unpack the archive first, and name the folder"),
    ((".gz", ".tgz", ".bz2", ".xz", ".zst"), "unpack the archive first (tar -xf), and name the folder"),
    ((".arrow",), "what save_to_disk of the library datasets wrote is read once to_parquet has written it"),
    ((".tfrecord", ".tfrecords", ".h5", ".hdf5", ".npz", ".npy", ".mat"), "write the pictures as PNG files first"),
    ((".heic", ".heif", ".avif", ".jxl"), "convert the pictures to JPEG or PNG first"),
)
_PICTURES = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp")
_SYSTEM = frozenset(
    ("__macosx", "@eadir", "$recycle.bin", "thumbs.db", "desktop.ini", "lost+found", "system volume information")
)
NO_LABEL = -1


class DataError(ValueError):
    """Data that cannot be used; the message is one line for the user."""


def is_picture(name: str) -> bool:
    """Whether a file's name is that of a picture."""
    return PurePath(name).suffix.lower() in SUFFIXES


def is_label(name: str) -> bool:
    """Whether a member of a tar holds a class."""
    return PurePosixPath(name).suffix.lower() == ".cls"


def is_hidden(name: str) -> bool:
    """Whether any part of a relative path is hidden or a system file: ``__MACOSX``, ``._x.jpg``, a leading dot."""
    return any(part.startswith(".") or part.lower() in _SYSTEM for part in PurePosixPath(name).parts if part != "..")


def cure(names: Iterable[str]) -> str:
    """What to do about files that hold pictures and cannot be read, as the end of a message; empty for others."""
    suffixes = {PurePath(name).suffix.lower() for name in names}
    return next((f"; {words}" for kinds, words in _CURES if suffixes & set(kinds)), "")


def picture_kinds() -> str:
    """The suffixes, for a message."""
    return ", ".join(sorted(SUFFIXES))


# Columns of a table.


def features_of(schema: Any) -> dict[str, Any]:
    """The column types that the library datasets stores in the schema of files it wrote; empty for other files."""
    try:
        features = parse_json(schema.metadata[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, UnicodeDecodeError):
        return {}
    return (
        {name: kind for name, kind in features.items() if isinstance(kind, dict)} if isinstance(features, dict) else {}
    )


def picture_column(schema: Any, where: str) -> str:
    """The column of an Arrow schema that holds pictures: one declared as such, else a struct of bytes and path, else
    bytes. Among several, one with a usual name is preferred, else the first.

    Raises:
        DataError: if there is none.
    """
    import pyarrow as arrow

    def is_struct(name: str) -> bool:
        kind = schema.field(name).type
        return arrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0

    def is_bytes(name: str) -> bool:
        kind = schema.field(name).type
        return arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind)

    declared = features_of(schema)
    checks: list[Callable[[str], bool]] = [
        lambda name: declared.get(name, {}).get("_type") == "Image" and (is_struct(name) or is_bytes(name)),
        is_struct,
        is_bytes,
    ]
    for check in checks:
        names = [name for name in schema.names if check(name)]
        if names:
            return min(names, key=lambda name: name.lower() not in _PICTURES)
    raise DataError(f"--data: {where} has no column of images; its columns are {', '.join(schema.names)}")


def label_column(schema: Any) -> tuple[str | None, list[str]]:
    """The column of an Arrow schema that holds classes, and the class names stored in the file."""
    column = next((name for name in LABELS if name in schema.names), None)
    names = features_of(schema).get(column, {}).get("names") if column else None
    return column, [str(name) for name in names] if isinstance(names, list) else []


def picture_bytes(value: Any) -> bytes:
    """The encoded picture in a cell of a table. A path in the cell is only a name: no file is opened.

    Raises:
        ValueError: if the cell has no picture.
    """
    content = value.get("bytes") if isinstance(value, dict) else value
    if content is None:
        path = value.get("path") if isinstance(value, dict) else None
        raise ValueError(f"the row holds a path ({path}) and no image" if path else "the row holds no image")
    return content


# Members of a tar.


def tar_rows(members: Iterable[tuple[str, int, int]], where: str) -> list[tuple[str, int, int, int]]:
    """The rows of a WebDataset tar: members whose names are equal up to the first dot; or up to the last dot, if only
    that separates the pictures (``photo.000.jpg``, ``photo.001.jpg``).

    Of several pictures in a row the one with the plain suffix is used: ``7.jpg``, not ``7.seg.png``.

    Args:
        members: name, offset and size of each file, in order.
        where: the tar, for messages.

    Returns:
        For each row the name, offset and size of its picture, then the offset of its label; zeros if missing.

    Raises:
        DataError: if neither rule gives every row a single picture.
    """
    listed = [
        (name, offset, size)
        for name, offset, size in members
        if not is_hidden(name) and (is_picture(name) or is_label(name))
    ]
    twice = ""
    for from_the_end in (False, True):
        rows: dict[str, dict[str, tuple[str, int, int]]] = {}
        twice = ""
        for name, offset, size in listed:
            path = PurePosixPath(name)
            key, _, suffix = path.name.rpartition(".") if from_the_end else path.name.partition(".")
            row = rows.setdefault(f"{path.parent}/{key}", {})
            if suffix in row and is_picture(name):
                raise DataError(f"--data: {where} contains the picture {name} twice; write the tar again")
            row[suffix] = (name, offset, size)
        for row in rows.values():
            pictures = [suffix for suffix in row if is_picture(f"x.{suffix}")]
            plain = [suffix for suffix in pictures if "." not in suffix]
            if len(plain) > 1 or (len(pictures) > 1 and not plain):
                twice = f"{row[pictures[0]][0]} and {row[pictures[1]][0]}"
                break
        if not twice:
            return [_tar_row(row) for row in rows.values()]
    raise DataError(
        f"--data: {where} has two pictures in one row ({twice}); give each row a unique name up to the first dot"
    )


def _tar_row(row: dict[str, tuple[str, int, int]]) -> tuple[str, int, int, int]:
    def best(suffixes: Iterable[str]) -> tuple[str, int, int]:
        chosen = min(suffixes, key=lambda suffix: "." in suffix, default=None)
        return row[chosen] if chosen is not None else ("", 0, 0)

    picture = best(suffix for suffix in row if is_picture(f"x.{suffix}"))
    label = best(suffix for suffix in row if not is_picture(f"x.{suffix}"))
    return (*picture, label[1])


def tar_label(content: bytes, row: str) -> str | int | None:
    """The class in a ``cls`` member: a number, a word, or None.

    Raises:
        DataError: naming the row, if it is not a class.
    """
    if len(content) > LARGEST_LABEL_FILE:
        raise DataError(f"--data: the class of {row} is longer than {LARGEST_LABEL_FILE} bytes; use a short word")
    try:
        text = " ".join(content.decode().split())
    except UnicodeDecodeError as error:
        raise DataError(f"--data: the class of {row} is not UTF-8 text") from error
    return int(text) if text.removeprefix("-").isdecimal() else text or None


# Classes.


def numbered(
    labels: Sequence[Any], names: Sequence[str], row_name: Callable[[int], str]
) -> tuple[list[str], np.ndarray]:
    """The class names of a data set, and the class index of each row.

    Words are classes in alphabetical order. Numbers index ``names``; without names, the numbers that occur are the
    classes, in order. None, an empty word, -1 and NaN (a missing value of pandas) mean no class.

    Args:
        labels: an integer, a word or None for each row.
        names: of the classes, if the data contain them.
        row_name: a row's name in messages.

    Returns:
        The class names, and int64 ``[rows]``, -1 without a class.

    Raises:
        DataError: naming the row, if its label is not a class or has no name; or if there are too many classes.
    """
    values = [_label(value, row, row_name) for row, value in enumerate(labels)]
    known = {value for value in values if value is not None}
    words = [value for value in known if isinstance(value, str)]
    if words and names:
        # Some labels are words although names are declared: they are looked up among these.
        known = set(names) | set(words)
        classes = list(names) + sorted(set(words) - set(names))
        order: dict[Any, int] = {name: number for number, name in reversed(list(enumerate(classes)))}
    elif words:
        values = [None if value is None else str(value) for value in values]
        classes = sorted({value for value in values if value is not None})
        order = {name: number for number, name in enumerate(classes)}
    elif names:
        classes, order = list(names), {number: number for number in range(len(names))}
    else:
        numbers = sorted(value for value in known if isinstance(value, int))
        classes = [str(number) for number in numbers]
        order = {value: number for number, value in enumerate(numbers)}
    if len(classes) > MOST_CLASSES:
        raise DataError(
            f"--data: {len(classes)} classes for {len(values)} pictures are too many (at most {MOST_CLASSES}); if the "
            "labels are not classes, set data.unlabelled to true"
        )
    for row, value in enumerate(values):
        if value is not None and value not in order:
            raise DataError(
                f"--data: {row_name(row)} has the label {value}, but the data name only {len(names)} classes (0 to "
                f"{len(names) - 1}); add its name, or set data.unlabelled to true"
            )
    return classes, np.array([NO_LABEL if value is None else order[value] for value in values], np.int64)


def _label(value: Any, row: int, row_name: Callable[[int], str]) -> str | int | None:
    if isinstance(value, str):
        return " ".join(value.split()) or None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or value < NO_LABEL:
        shown = str(value)[:40]
        raise DataError(
            f"--data: {row_name(row)} has the label {shown}; a class is an integer from 0 or a word. If the labels "
            "are not classes, set data.unlabelled to true"
        )
    return None if value == NO_LABEL else int(value)
