"""Classes from a file beside the pictures: StyleGAN's ``dataset.json``, and ``metadata.jsonl`` or
``metadata.csv`` as the library datasets has them.

    dataset.json     {"labels": [["00000/img00000000.png", 6], ...]}
    metadata.jsonl   {"file_name": "a.png", "label": "cat"} a line
    metadata.csv     file_name,label
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from strait.data.rows import LABELS, DataError

_FILE = "file_name"


def labels_beside(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The first of these files in a folder that says classes, and what it says: label by the picture's relative path.

    Raises:
        DataError: if one is damaged.
    """
    for name, read in (("dataset.json", _of_stylegan), ("metadata.jsonl", _of_lines), ("metadata.csv", _of_columns)):
        path = folder / name
        if path.is_file():
            try:
                labels = read(path.read_text(encoding="utf-8-sig"))
            except (ValueError, TypeError, AttributeError, RecursionError, csv.Error) as error:
                raise DataError(
                    f"--data: {path} is damaged ({' '.join(str(error).split())}); mend it, or move it away"
                ) from error
            if labels:
                return path, labels
    return None


def _of_stylegan(text: str) -> dict[str, Any]:
    content = json.loads(text)
    labels = content.get("labels") if isinstance(content, dict) else None
    if not isinstance(labels, list):
        return {}
    return {name.replace("\\", "/"): label for name, label in labels}


def _of_lines(text: str) -> dict[str, Any]:
    return _of_rows([json.loads(line) for line in text.splitlines() if line.strip()])


def _of_columns(text: str) -> dict[str, Any]:
    rows: list[dict[str, Any]] = list(csv.DictReader(text.splitlines()))
    column = next((name for name in LABELS if rows and name in rows[0]), None)
    if column is not None:
        for row in rows:
            # A column of numbers is one, though every cell of this format is text.
            row[column] = int(row[column]) if str(row[column]).removeprefix("-").isdecimal() else row[column]
    return _of_rows(rows)


def _of_rows(rows: list[Any]) -> dict[str, Any]:
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError("a line is no JSON object")
    column = next((name for name in LABELS if rows and name in rows[0]), None)
    if column is None or _FILE not in rows[0]:
        return {}
    return {str(row.get(_FILE)).replace("\\", "/"): row.get(column) for row in rows}
