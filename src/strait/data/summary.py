"""The summary of the data before training: what there is, what looks wrong, and what has changed."""

from __future__ import annotations

import json
from pathlib import Path

from strait.data.sources import ImageSource
from strait.runtime.files import read_json, write_text

_SHOWN = 3
_CLASSES_AT_LEAST = 10
"""Up to this many classes, no warning about too many classes."""


def summary(source: ImageSource, validation: ImageSource | None) -> list[str]:
    """Lines that describe the data.

    Args:
        source: the training images.
        validation: the validation images, if there are any.
    """
    classes, count = source.classes, len(source)
    kinds = "without classes"
    if len(classes):
        shown = ", ".join(list(classes)[:_SHOWN]) + (", ..." if len(classes) > _SHOWN else "")
        kinds = f"of {_counted(len(classes), 'class', 'classes')} ({shown})"
    held_out = "none for validation" if validation is None else f"{len(validation):,} for validation"
    lines = [f"--data: {_counted(count, 'picture', 'pictures')} {kinds} for training, {held_out}"]
    if len(classes) > max(_CLASSES_AT_LEAST, count // 2):
        lines.append(
            f"--data: {len(classes):,} classes for {count:,} pictures; if these are not classes, set data.unlabelled "
            "to true"
        )
    numbered = classes.numbers_as_names()
    if numbered is not None:
        lines.append(f"--data: {numbered}")
    return lines


def changes(note: Path, source: ImageSource, fingerprint: str) -> str | None:
    """A line about changes of the data since the last run; None without changes or in the first run. Updates ``note``.

    Args:
        note: the file that holds the state.
        source: the training images.
        fingerprint: of the source.

    Raises:
        ValueError: if the file is damaged.
    """
    now = {"pictures": len(source), "fingerprint": fingerprint}
    before = read_json(note, None)
    if before == now:
        return None
    write_text(note, json.dumps(now) + "\n")
    if not isinstance(before, dict):
        return None
    return (
        f"--data: the pictures have changed since the last run (then {before.get('pictures')} with fingerprint "
        f"{before.get('fingerprint')}; now {now['pictures']} with {fingerprint}); trained weights are kept, tokens "
        "are encoded again"
    )


def _counted(count: int, singular: str, plural: str) -> str:
    return f"{count:,} {singular if count == 1 else plural}"
