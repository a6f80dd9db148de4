"""Pictures that two sets have in common, by their bytes: a photograph that was trained on tells little in a test."""

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
    """How many pictures of the first set are in the second, too, byte by byte."""
    return int(np.isin(_hashes(first), np.setdiff1d(_hashes(second), [0])).sum())


def _hashes(source: ImageSource) -> np.ndarray:
    """A hash of every picture, uint64 ``[count]``, 0 for one that cannot be read; kept, since every byte is read."""
    kept = cache_folder() / "fingerprints" / f"{source.fingerprint()}-pictures.npy"
    with suppress(OSError, ValueError, EOFError):  # whatever is not what was kept is worked out again
        hashes = np.load(kept, allow_pickle=False)
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
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(kept, buffer.getvalue())
    return hashes
