"""Small files, replaced whole: after a kill there is the old one or the new one; and the folder of what is kept."""

from __future__ import annotations

import os
from pathlib import Path


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Put a text file in place whole."""
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(text, encoding="utf-8")
    flush(aside)
    aside.replace(path)


def cache_folder() -> Path:
    """Where what can be worked out again is kept: ``$STRAIT_CACHE``, or ``~/.cache/strait``."""
    return Path(os.environ.get("STRAIT_CACHE") or Path.home() / ".cache" / "strait")
