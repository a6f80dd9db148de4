"""What is said of the data before training begins: what was found, what looks odd, and what changed since."""

from __future__ import annotations

import json
from pathlib import Path

from strait.data.sources import ImageSource
from strait.runtime.files import read_json, write_text

_SHOWN = 3
_CLASSES_AT_LEAST = 10
"""Fewer classes than these are never too many for their pictures."""


def summary(source: ImageSource, validation: ImageSource | None) -> list[str]:
    """Lines that say what was found.

    Args:
        source: what is trained on.
        validation: what is kept apart, if anything is.
    """
    classes, count = source.classes, len(source)
    of = "without classes"
    if len(classes):
        shown = ", ".join(list(classes)[:_SHOWN]) + (", ..." if len(classes) > _SHOWN else "")
        of = f"of {_counted(len(classes), 'class', 'classes')} ({shown})"
    apart = "none kept apart to validate" if validation is None else f"{len(validation):,} to validate"
    lines = [f"--data: {_counted(count, 'picture', 'pictures')} {of} to train on, {apart}"]
    if len(classes) > max(_CLASSES_AT_LEAST, count // 2):
        lines.append(
            f"--data: {len(classes):,} classes for {count:,} pictures; if these are no classes, set data.unlabelled "
            "to true"
        )
    numbered = classes.numbers_as_names()
    if numbered is not None:
        lines.append(f"--data: {numbered}")
    return lines


def changes(note: Path, source: ImageSource, fingerprint: str) -> str | None:
    """What differs of the data since a model was begun, as a line; None if nothing does, or nothing was noted. What
    they are now is noted for the next time.

    Args:
        note: the file that holds it.
        source: what is trained on.
        fingerprint: the source's.

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
        f"--data: the pictures differ from those before ({before.get('pictures')} of fingerprint "
        f"{before.get('fingerprint')}; now {now['pictures']} of {fingerprint}); what was learned is kept, and tokens "
        "are made again"
    )


def _counted(count: int, one: str, several: str) -> str:
    return f"{count:,} {one if count == 1 else several}"
