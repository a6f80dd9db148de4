"""Pictures that two data sets share, compared by their bytes: test photographs should not be training photographs."""

from __future__ import annotations

import hashlib
import io
import sys
from contextlib import suppress

import numpy as np
from tqdm import tqdm

from strait.data.sources import ImageSource
from strait.runtime.files import cache_folder, write_bytes


def in_both(first: ImageSource, second: ImageSource) -> int:
    """How many pictures of the first set are also in the second, byte for byte."""
    return int(np.isin(_hashes(first), np.setdiff1d(_hashes(second), [0])).sum())


def _hashes(source: ImageSource) -> np.ndarray:
    """A hash of every picture, uint64 ``[count]``, 0 for an unreadable one; cached, since every byte is read."""
    cached = cache_folder() / "fingerprints" / f"{source.fingerprint()}-pictures.npy"
    with suppress(OSError, ValueError, EOFError):  # a missing or damaged cache is computed again
        hashes = np.load(cached, allow_pickle=False)
        if hashes.dtype == np.uint64 and hashes.shape == (len(source),):
            return hashes
    hashes = np.zeros(len(source), np.uint64)
    bar = tqdm(
        range(len(source)), desc="comparing pictures", unit="image", file=sys.stderr, dynamic_ncols=True, delay=2
    )
    for index in bar:
        with suppress(OSError, ValueError):
            hashes[index] = int.from_bytes(hashlib.sha256(source.content(index)).digest()[:8]) or 1
    buffer = io.BytesIO()
    np.save(buffer, hashes)
    with suppress(OSError):
        cached.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(cached, buffer.getvalue())
    return hashes
