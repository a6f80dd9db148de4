"""Fingerprints of data sets: hashes of file contents, independent of paths and times.

Reading every byte of a large set takes minutes, so fingerprints are cached by the paths, sizes and times of the files.
Files changed within the last seconds are not cached: another change could leave the same time.
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

_SETTLED = 2.0  # seconds after which a further change of a file shows in its time, on any file system


def fingerprint_of(files: Sequence[Path], meanings: Sequence[str]) -> str:
    """Twelve hexadecimal digits that depend on the contents, order and meanings of files only.

    Args:
        files: in order.
        meanings: further text hashed for each file, such as its class.
    """
    listing, newest = hashlib.sha256(), 0.0
    for path, meaning in zip(files, meanings, strict=True):
        status = path.stat()
        listing.update(os.fsencode(path.absolute()))  # names are bytes, and need not be UTF-8
        listing.update(f"\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\0".encode())
        listing.update(f"{meaning}\0".encode())
        newest = max(newest, status.st_mtime, status.st_ctime)
    cached = cache_folder() / "fingerprints" / f"{listing.hexdigest()[:24]}.txt"
    with contextlib.suppress(OSError, UnicodeDecodeError):
        fingerprint = cached.read_text(encoding="utf-8").strip()
        if re.fullmatch("[0-9a-f]{12}", fingerprint):
            return fingerprint
    fingerprint = _of_contents(files, meanings)
    if time.time() - newest > _SETTLED:
        with contextlib.suppress(OSError):  # if the cache cannot be written, the next run hashes again
            cached.parent.mkdir(parents=True, exist_ok=True)
            write_text(cached, fingerprint + "\n")
    return fingerprint


def _of_contents(files: Sequence[Path], meanings: Sequence[str]) -> str:
    digest = hashlib.sha256()
    bar = tqdm(files, desc="fingerprint", unit="file", file=sys.stderr, dynamic_ncols=True, delay=2)
    for path, meaning in zip(bar, meanings, strict=True):
        digest.update(f"{meaning}\0".encode())
        digest.update(_content(path))
    return digest.hexdigest()[:12]


def _content(path: Path) -> bytes:
    """The SHA-256 of a file; 32 zero bytes for an unreadable one, which is reported when its image is read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError:
        return bytes(32)
