"""Shards of photographs: parquet files and WebDataset tars, on disk or on a hub.

A stream reads a shard in blocks of consecutive rows (a row group, or a stretch of a tar) and picks rows from them,
without a local copy. Random access to rows works on a tar directly; for a parquet file it needs a copy.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np

from strait.data.rows import (
    LARGEST_LABEL_FILE,
    DataError,
    is_label,
    is_picture,
    label_column,
    picture_bytes,
    picture_column,
    picture_kinds,
    tar_label,
    tar_rows,
)
from strait.runtime.messages import say_once

TAR_ROWS = 128
"""Pictures in a block of a tar."""


@dataclass(frozen=True)
class StoredFile:
    """A file on disk, or on a hub under its path in ``huggingface_hub.HfFileSystem``."""

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
    """The hub as a file system (the library keeps one for each process)."""
    from huggingface_hub import HfFileSystem

    return HfFileSystem()


class Shard(Protocol):
    """One file of many pictures.

    Attributes:
        ends: int64 ``[blocks]``: the row after each block; the last is the number of rows.
        labels: an integer, a word or None for each row (see ``rows.numbered``); None without labels.
        names: class names stored in the file.
    """

    @property
    def file(self) -> StoredFile: ...

    @property
    def ends(self) -> np.ndarray: ...

    @property
    def labels(self) -> Sequence[Any] | None: ...

    @property
    def names(self) -> Sequence[str]: ...

    def name(self, row: int) -> str: ...

    def fingerprint(self) -> str:
        """Changes when the file does."""
        ...


class StreamedShard(Shard, Protocol):
    """A shard that is read in blocks."""

    def load(self, block: int) -> Any:
        """Read a whole block, in its stored form."""
        ...

    def pick(self, loaded: Any, block: int, row: int) -> bytes:
        """The encoded picture of a row (counted from the start of the file) from its loaded block.

        Raises:
            ValueError: if the row has none.
        """
        ...


class StoredShard(Shard, Protocol):
    """A shard with random access to rows."""

    def read(self, row: int) -> bytes:
        """A row's encoded picture.

        Raises:
            ValueError: if it holds none.
        """
        ...


class ParquetShard:
    """A parquet file with a column of pictures (their bytes, or the struct of bytes and path that hubs use)."""

    def __init__(self, file: StoredFile) -> None:
        import pyarrow.parquet as parquet

        self.file = file
        with file.open() as handle:
            opened = parquet.ParquetFile(handle)
            self._about, schema = opened.metadata, opened.schema_arrow
            self.picture = picture_column(schema, file.path)
            column, self.names = label_column(schema)
            self.labels: Sequence[Any] | None = None
            if column is not None:
                self.labels = opened.read(columns=[column], use_threads=False)[column].to_pylist()
        groups = [self._about.row_group(number).num_rows for number in range(self._about.num_row_groups)]
        self.ends = np.cumsum(np.array(groups, np.int64))

    def name(self, row: int) -> str:
        return f"row {row} of {self.file.path}"

    def fingerprint(self) -> str:
        sizes = [self._about.row_group(number).total_byte_size for number in range(self._about.num_row_groups)]
        digest = hashlib.sha256(os.fsencode(Path(self.file.path).name))
        digest.update(f" {self.file.size} {self.ends.tolist()} {sizes}".encode())
        return digest.hexdigest()

    def load(self, block: int) -> Any:
        import pyarrow.parquet as parquet

        with self.file.open() as handle:
            opened = parquet.ParquetFile(handle, metadata=self._about)
            # No threads: they would not survive a fork.
            return opened.read_row_group(block, columns=[self.picture], use_threads=False)[self.picture]

    def pick(self, loaded: Any, block: int, row: int) -> bytes:
        return picture_bytes(loaded[row - (int(self.ends[block - 1]) if block else 0)].as_py())


class CopiedShard:
    """A parquet file with a copy that gives random access to its rows.

    Args:
        shard: the file.
        table: the copy, a memory-mapped Arrow table, which can hold several files.
        first: the file's first row in it.
    """

    def __init__(self, shard: ParquetShard, table: Any, first: int) -> None:
        self._shard, self._table, self._first = shard, table, first
        self.file, self.labels, self.names, self.ends = shard.file, shard.labels, shard.names, shard.ends

    def name(self, row: int) -> str:
        return self._shard.name(row) + _path_of(self._cell(row))

    def fingerprint(self) -> str:
        return self._shard.fingerprint()

    def read(self, row: int) -> bytes:
        return picture_bytes(self._cell(row))

    def _cell(self, row: int) -> Any:
        return self._table.column(self._shard.picture)[self._first + row].as_py()


class HubTable:
    """A table of a hub, downloaded by the library datasets.

    Args:
        table: a memory-mapped Arrow table.
        origin: its name in messages.
        digest: changes when the table does.
        read_path: reads a file that the library stored beside the table.
    """

    def __init__(self, table: Any, schema: Any, origin: str, digest: str, read_path: Callable[[str], bytes]) -> None:
        self.file = StoredFile(origin, on_hub=True)
        self._table, self._digest, self._read_path = table, digest, read_path
        self._picture = picture_column(schema, origin)
        column, self.names = label_column(schema)
        self.labels: Sequence[Any] | None = None if column is None else table.column(column).to_pylist()
        self.ends = np.array([table.num_rows], np.int64)

    def name(self, row: int) -> str:
        return f"row {row} of {self.file.path}" + _path_of(self._cell(row))

    def fingerprint(self) -> str:
        return self._digest

    def read(self, row: int) -> bytes:
        cell = self._cell(row)
        if isinstance(cell, dict) and cell.get("bytes") is None and cell.get("path"):
            return self._read_path(cell["path"])
        return picture_bytes(cell)

    def _cell(self, row: int) -> Any:
        return self._table.column(self._picture)[row].as_py()


def _path_of(cell: Any) -> str:
    path = cell.get("path") if isinstance(cell, dict) else None
    return f" ({path})" if path else ""


class TarShard:
    """A WebDataset tar: a row is a picture and perhaps a ``cls`` (``rows.tar_rows``).

    The constructor reads all headers, and skips the pictures if the file is seekable.
    """

    names: Sequence[str] = ()

    def __init__(self, file: StoredFile) -> None:
        self.file = file
        members: list[tuple[str, int, int]] = []
        links: dict[int, str] = {}  # members that are another name of an earlier one
        ignored = 0
        labels: dict[int, bytes] = {}  # by offset; read on the way, since on a hub going back is a request each
        with file.open() as handle:
            if handle.read(2) == b"\x1f\x8b":
                raise DataError(f"--data: {file.path} is compressed; unpack it first (gunzip)")
            handle.seek(0)
            archive = tarfile.open(fileobj=handle, mode="r:")  # noqa: SIM115 - closed with its file
            while (member := archive.next()) is not None:
                archive.members = []  # pyright: ignore - else it keeps all members in memory
                if member.isreg() and not member.issparse():
                    members.append((member.name, member.offset_data, member.size))
                    content = archive.extractfile(member) if is_label(member.name) else None
                    if content is not None:
                        labels[member.offset_data] = content.read(LARGEST_LABEL_FILE + 1)
                elif member.islnk():
                    links[len(members)] = member.linkname
                    members.append((member.name, 0, 0))
                elif member.issym() and is_picture(member.name):
                    ignored += 1
        if links:
            places = {name: (place, size) for name, place, size in members if size}
            for number, name in links.items():
                members[number] = (members[number][0], *places.get(name, (0, 0)))
        if ignored:
            say_once(f"{file.path}: ignored {ignored} symbolic links to pictures; write the tar with -h")
        rows = tar_rows(members, file.path)
        self.labels: Sequence[Any] | None = None
        if any(offset for _, _, _, offset in rows):
            self.labels = [
                tar_label(labels[offset], f"{file.path}/{name}") if offset else None for name, _, _, offset in rows
            ]
        self._begin = np.array([offset for _, offset, _, _ in rows], np.int64)
        self._size = np.array([size for _, _, size, _ in rows], np.int64)
        self._names = [name for name, *_ in rows]
        if not self._size.any():
            raise DataError(f"--data: {file.path} has no pictures ({picture_kinds()})")
        count = len(rows)
        self.ends = np.append(np.arange(TAR_ROWS, count, TAR_ROWS), count).astype(np.int64)

    def name(self, row: int) -> str:
        return f"{self.file.path}/{self._names[row]}" if self._names[row] else f"row {row} of {self.file.path}"

    def fingerprint(self) -> str:
        digest = hashlib.sha256(os.fsencode(Path(self.file.path).name))
        digest.update(f" {self.file.size}".encode())
        labels = [] if self.labels is None else [repr(list(self.labels)).encode()]
        for content in (self._begin.tobytes(), self._size.tobytes(), *labels):
            digest.update(content)
        return digest.hexdigest()

    def load(self, block: int) -> tuple[int, bytes]:
        """The offset of the block in the file, and its bytes."""
        rows = slice(int(self.ends[block - 1]) if block else 0, int(self.ends[block]))
        has_picture = self._size[rows] > 0
        if not has_picture.any():
            return 0, b""
        first = int(self._begin[rows][has_picture].min())
        last = int((self._begin[rows] + self._size[rows])[has_picture].max())
        with self.file.open() as handle:
            handle.seek(first)
            return first, handle.read(last - first)

    def pick(self, loaded: tuple[int, bytes], block: int, row: int) -> bytes:
        first, content = loaded
        begin = int(self._begin[row]) - first
        return picture_bytes(content[begin : begin + int(self._size[row])] or None)

    def read(self, row: int) -> bytes:
        """A row's encoded picture.

        Raises:
            ValueError: if it has none.
        """
        with self.file.open() as handle:
            handle.seek(int(self._begin[row]))
            return picture_bytes(handle.read(int(self._size[row])) or None)
