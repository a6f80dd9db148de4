"""Shards of photographs read where they lie: parquet files and WebDataset tars, on a disk or on a hub.

Nothing is copied: a shard is asked for a block of consecutive rows (a row group, or a stretch of a tar), which is read
at once, and for rows out of it.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from strait.data.sources import SUFFIXES, DataError

TAR_ROWS = 128
"""Pictures of a tar that are read at once."""
_LABELS = ("label", "labels", "fine_label", "cls")
_NO_LABEL = -1


@dataclass(frozen=True)
class StoredFile:
    """A file on the disk, or on a hub as ``huggingface_hub.HfFileSystem`` names it."""

    path: str
    on_hub: bool = False

    def open(self) -> BinaryIO:
        if self.on_hub:
            return hub().open(self.path, "rb")
        return Path(self.path).open("rb")

    @property
    def size(self) -> int:
        return int(hub().size(self.path)) if self.on_hub else Path(self.path).stat().st_size


def hub() -> Any:
    """The hub as a file system (one for each process: the library sees to that)."""
    from huggingface_hub import HfFileSystem

    return HfFileSystem()


class Shard(Protocol):
    """One file of many pictures.

    Attributes:
        ends: int64 ``[blocks]``: where each block of rows ends, the last at the number of rows.
        labels: int64 ``[rows]``, or strings, or None without labels.
        names: of the classes, where the file itself says them.
    """

    ends: np.ndarray
    labels: np.ndarray | None
    names: list[str]

    def name(self, row: int) -> str: ...

    def fingerprint(self) -> str:
        """Changes when the file does."""
        ...

    def load(self, block: int) -> Any:
        """A block as it is stored, read whole."""
        ...

    def pick(self, loaded: Any, block: int, row: int) -> bytes | None:
        """The encoded picture of a row (counted from the file's beginning) out of its loaded block."""
        ...


class ParquetShard:
    """A parquet file with a column of pictures (their bytes, or the struct of bytes and path that hubs use)."""

    def __init__(self, file: StoredFile) -> None:
        import pyarrow.parquet as parquet

        self.file = file
        with file.open() as handle:
            opened = parquet.ParquetFile(handle)
            self._about, schema = opened.metadata, opened.schema_arrow
            features = _features(schema)
            self._picture = _picture_column(schema, features)
            if self._picture is None:
                raise DataError(
                    f"--data: {file.path} has no column of images; its columns are {', '.join(schema.names)}"
                )
            label = next((name for name in _LABELS if name in schema.names), None)
            self.names: list[str] = list((features.get(label) or {}).get("names") or []) if label else []
            self.labels: np.ndarray | None = None
            if label is not None:
                column = opened.read(columns=[label], use_threads=False)[label].to_pylist()
                missing = "" if any(isinstance(value, str) for value in column) else _NO_LABEL
                self.labels = np.array([missing if value is None else value for value in column])
        groups = [self._about.row_group(number).num_rows for number in range(self._about.num_row_groups)]
        self.ends = np.cumsum(np.array(groups, np.int64))

    def name(self, row: int) -> str:
        return f"row {row} of {self.file.path}"

    def fingerprint(self) -> str:
        sizes = [self._about.row_group(number).total_byte_size for number in range(self._about.num_row_groups)]
        text = f"{Path(self.file.path).name} {self.file.size} {self.ends.tolist()} {sizes}"
        return hashlib.sha256(text.encode()).hexdigest()

    def load(self, block: int) -> Any:
        import pyarrow.parquet as parquet

        with self.file.open() as handle:
            opened = parquet.ParquetFile(handle, metadata=self._about)
            # Without threads of its own, which would not survive a fork.
            return opened.read_row_group(block, columns=[self._picture], use_threads=False)[self._picture]

    def pick(self, loaded: Any, block: int, row: int) -> bytes | None:
        value = loaded[row - (int(self.ends[block - 1]) if block else 0)].as_py()
        return value.get("bytes") if isinstance(value, dict) else value


def _features(schema: Any) -> dict[str, Any]:
    """What the library datasets wrote down of the columns, if it made the file."""
    try:
        return json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}


def _picture_column(schema: Any, features: dict[str, Any]) -> str | None:
    import pyarrow as arrow

    for name in schema.names:
        if (features.get(name) or {}).get("_type") == "Image":
            return name
    for name in schema.names:
        kind = schema.field(name).type
        if arrow.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            return name
    binary = (arrow.types.is_binary, arrow.types.is_large_binary)
    return next((name for name in schema.names if any(check(schema.field(name).type) for check in binary)), None)


class TarShard:
    """A WebDataset tar: members that share a name up to its first dot are one row, a picture and perhaps a ``cls``.

    Making one reads all headers, and nothing of the pictures where the file can be sought in.
    """

    names: Sequence[str] = ()

    def __init__(self, file: StoredFile) -> None:
        self.file = file
        rows: dict[str, list[int]] = {}  # where the picture begins, its size, its label
        with file.open() as handle:
            archive = tarfile.open(fileobj=handle, mode="r:")  # noqa: SIM115 - closed with its file
            while (member := archive.next()) is not None:
                archive.members = []  # pyright: ignore - or it would remember them all
                folder, _, base = member.name.rpartition("/")
                key, _, suffix = base.partition(".")
                if not member.isfile() or not key:
                    continue
                row = rows.setdefault(f"{folder}/{key}", [0, 0, _NO_LABEL])
                if f".{suffix.lower().rpartition('.')[2]}" in SUFFIXES:
                    row[:2] = member.offset_data, member.size
                elif suffix == "cls":
                    content = archive.extractfile(member)
                    row[2] = int(content.read()) if content is not None else _NO_LABEL
        self._begin, self._size, labels = np.array(list(rows.values()), np.int64).reshape(-1, 3).T
        if not self._size.any():
            raise DataError(f"--data: {file.path} holds no pictures ({', '.join(sorted(SUFFIXES))})")
        self.labels: np.ndarray | None = labels if (labels != _NO_LABEL).any() else None
        count = len(labels)
        self.ends = np.append(np.arange(TAR_ROWS, count, TAR_ROWS), count).astype(np.int64)

    def name(self, row: int) -> str:
        if not self._size[row]:
            return f"row {row} of {self.file.path}"
        with self.file.open() as handle:
            handle.seek(int(self._begin[row]) - tarfile.BLOCKSIZE)
            header = tarfile.TarInfo.frombuf(handle.read(tarfile.BLOCKSIZE), "utf-8", "replace")
        return f"{self.file.path}/{header.name}"

    def fingerprint(self) -> str:
        digest = hashlib.sha256(f"{Path(self.file.path).name} {self.file.size}".encode())
        for array in (self._begin, self._size, *([] if self.labels is None else [self.labels])):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def load(self, block: int) -> tuple[int, bytes]:
        """Where the stretch begins in the file, and its bytes."""
        rows = slice(int(self.ends[block - 1]) if block else 0, int(self.ends[block]))
        there = self._size[rows] > 0
        if not there.any():
            return 0, b""
        first = int(self._begin[rows][there].min())
        last = int((self._begin[rows] + self._size[rows])[there].max())
        with self.file.open() as handle:
            handle.seek(first)
            return first, handle.read(last - first)

    def pick(self, loaded: tuple[int, bytes], block: int, row: int) -> bytes | None:
        first, content = loaded
        begin = int(self._begin[row]) - first
        return content[begin : begin + int(self._size[row])] if self._size[row] else None
