"""Pictures stored in shards, read by index."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
from PIL import Image

from strait.data.classes import ClassNames
from strait.data.fingerprint import fingerprint_of
from strait.data.rows import DataError, numbered
from strait.data.shards import Shard, StoredShard
from strait.pictures.reading import open_picture


class ShardSource(ABC):
    """Pictures stored in shards.

    Args:
        shards: in order.
        unlabelled: ignore their labels.

    Raises:
        DataError: if labels are not classes, or only some shards have labels.
    """

    def __init__(self, shards: Sequence[Shard], unlabelled: bool = False) -> None:
        self._shards = list(shards)
        counts = [int(shard.ends[-1]) if len(shard.ends) else 0 for shard in self._shards]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        names, self._labels = self._classes() if not unlabelled else ([], np.full(len(self), -1))
        self.classes = ClassNames(names)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def fingerprint(self) -> str:
        digest = sha256("\n".join(self.classes).encode("utf-8", "surrogateescape"))
        for shard in self._shards:
            digest.update(shard.fingerprint().encode())
        return digest.hexdigest()[:12]

    def name(self, index: int) -> str:
        shard, row = self._locate(index)
        return self._shards[shard].name(row)

    def labels(self) -> np.ndarray:
        return self._labels

    def content(self, index: int) -> bytes:
        shard, row = self._locate(index)
        return self._content(shard, row)

    def read(self, index: int) -> tuple[Image.Image, int]:
        return open_picture(self.content(index)), int(self._labels[index])

    @abstractmethod
    def _content(self, shard: int, row: int) -> bytes:
        """The encoded picture in a row of a shard (by its number)."""

    def _locate(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return shard, index - int(self._starts[shard])

    def _classes(self) -> tuple[list[str], np.ndarray]:
        with_labels = [shard for shard in self._shards if shard.labels is not None]
        if not with_labels:
            return [], np.full(len(self), -1)
        without = next((shard for shard in self._shards if shard.labels is None), None)
        if without is not None:
            raise DataError(
                f"--data: some shards have labels and others, such as {without.file.path}, have none; to ignore all "
                "labels, set data.unlabelled to true"
            )
        names = list(with_labels[0].names)
        differing = next((shard for shard in with_labels if list(shard.names) != names), None)
        if differing is not None:
            raise DataError(
                f"--data: the class names of {differing.file.path} differ from those of {with_labels[0].file.path}; "
                "write both with the same names"
            )
        labels = [label for shard in with_labels for label in shard.labels or ()]
        return numbered(labels, names, self.name)


class StoredSource(ShardSource):
    """Local shards with random access to rows: tars, and copies of parquet files.

    Args:
        shards: in order.
        unlabelled: ignore their labels.
        files: to fingerprint; empty for a hub table, which is identified by its name and revision.
    """

    def __init__(self, shards: Sequence[StoredShard], unlabelled: bool = False, files: Sequence[Path] = ()) -> None:
        super().__init__(shards, unlabelled)
        self._rows, self._files, self._unlabelled = list(shards), list(files), unlabelled

    def fingerprint(self) -> str:
        if not self._files:
            return super().fingerprint()
        meaning = "unlabelled" if self._unlabelled else ""
        return fingerprint_of(self._files, [meaning] * len(self._files))

    def _content(self, shard: int, row: int) -> bytes:
        return self._rows[shard].read(row)
