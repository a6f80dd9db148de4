"""What the data are, as a hash of their bytes: not of where they lie, nor of when they were put there.

Reading every byte takes minutes for a large set, so a fingerprint is kept in the cache folder under the paths, sizes
and times of the files it is of; not while these are so young that another change could bear the same time.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from strait.runtime.files import cache_folder, write_text

_SETTLED = 2.0  # seconds after which another change of a file gets another time, on any file system


def fingerprint_of(files: Sequence[Path], meanings: Sequence[str]) -> str:
    """Twelve digits that change with the bytes of some files, their order or their meanings, and with nothing else.

    Args:
        files: in order.
        meanings: what else counts of each, such as its class, in the same order.
    """
    listing, newest = hashlib.sha256(), 0.0
    for path, meaning in zip(files, meanings, strict=True):
        status = path.stat()
        listing.update(os.fsencode(path.absolute()))  # names are bytes, and need not be UTF-8
        listing.update(f"\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\0".encode())
        listing.update(f"{meaning}\0".encode())
        newest = max(newest, status.st_mtime, status.st_ctime)
    kept = cache_folder() / "fingerprints" / f"{listing.hexdigest()[:24]}.txt"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        found = kept.read_text(encoding="utf-8").strip()
        if re.fullmatch("[0-9a-f]{12}", found):
            return found
    found = _of_contents(files, meanings)
    if time.time() - newest > _SETTLED:
        with contextlib.suppress(OSError):  # without a place to keep it, it is worked out again the next time
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_text(kept, found + "\n")
    return found


def _of_contents(files: Sequence[Path], meanings: Sequence[str]) -> str:
    digest = hashlib.sha256()
    bar = tqdm(files, desc="fingerprint", unit="file", file=sys.stderr, dynamic_ncols=True, delay=2)
    for path, meaning in zip(bar, meanings, strict=True):
        digest.update(f"{meaning}\0".encode())
        digest.update(_content(path))
    return digest.hexdigest()[:12]


def _content(path: Path) -> bytes:
    """The SHA-256 of a file; of one that cannot be read, 32 zeros: it is skipped and counted where images are read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return bytes(32)
