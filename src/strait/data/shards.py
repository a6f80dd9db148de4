"""Shards of photographs: parquet files and WebDataset tars, on a disk or on a hub.

A stream copies nothing: it asks a shard for a block of consecutive rows (a row group, or a stretch of a tar), which is
read at once, and for rows out of it. A tar on the disk gives any row by itself; a parquet file needs a copy for that.
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

from strait.data.errors import DataError
from strait.data.rows import (
    LARGEST_LABEL_FILE,
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
"""Pictures of a tar that are read at once."""


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
        labels: a whole number, a word or None for each row as ``rows.numbered`` takes them; None without labels.
        names: of the classes, where the file itself says them.
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
        """A block as it is stored, read whole."""
        ...

    def pick(self, loaded: Any, block: int, row: int) -> bytes:
        """The encoded picture of a row (counted from the file's beginning) out of its loaded block.

        Raises:
            ValueError: if the row holds none.
        """
        ...


class StoredShard(Shard, Protocol):
    """A shard any row of which can be read by itself."""

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
            # Without threads of its own, which would not survive a fork.
            return opened.read_row_group(block, columns=[self.picture], use_threads=False)[self.picture]

    def pick(self, loaded: Any, block: int, row: int) -> bytes:
        return picture_bytes(loaded[row - (int(self.ends[block - 1]) if block else 0)].as_py())


class CopiedShard:
    """A parquet file whose pictures lie in a copy that gives any row at once.

    Args:
        shard: the file.
        table: the copy, of which the file may be a part: an Arrow table that is mapped, not read.
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
    """A table of a hub, as the library datasets has copied it.

    Args:
        table: an Arrow table that is mapped, not read.
        origin: what it is called in messages.
        digest: changes when it does.
        read_path: the content of a file that the library has stored beside it.
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
    """A WebDataset tar: a row is a picture and perhaps a ``cls``, by ``rows.tar_rows``.

    Making one reads all headers, and nothing of the pictures where the file can be sought in.
    """

    names: Sequence[str] = ()

    def __init__(self, file: StoredFile) -> None:
        self.file = file
        members: list[tuple[str, int, int]] = []
        links: dict[int, str] = {}  # which of the members is another name of an earlier one
        left_out = 0
        small: dict[int, bytes] = {}  # read in passing: going back costs a request each on a hub
        with file.open() as handle:
            if handle.read(2) == b"\x1f\x8b":
                raise DataError(f"--data: {file.path} is compressed; unpack it first (gunzip)")
            handle.seek(0)
            archive = tarfile.open(fileobj=handle, mode="r:")  # noqa: SIM115 - closed with its file
            while (member := archive.next()) is not None:
                archive.members = []  # pyright: ignore - or it would remember them all
                if member.isreg() and not member.issparse():
                    members.append((member.name, member.offset_data, member.size))
                    content = archive.extractfile(member) if is_label(member.name) else None
                    if content is not None:
                        small[member.offset_data] = content.read(LARGEST_LABEL_FILE + 1)
                elif member.islnk():
                    links[len(members)] = member.linkname
                    members.append((member.name, 0, 0))
                elif member.issym() and is_picture(member.name):
                    left_out += 1
        if links:
            places = {name: (place, size) for name, place, size in members if size}
            for number, name in links.items():
                members[number] = (members[number][0], *places.get(name, (0, 0)))
        if left_out:
            say_once(f"{file.path}: {left_out} symbolic links to pictures are left out; write the tar with -h")
        rows = tar_rows(members, file.path)
        self.labels: Sequence[Any] | None = None
        if any(place for _, _, _, place in rows):
            self.labels = [
                tar_label(small[place], f"{file.path}/{name}") if place else None for name, _, _, place in rows
            ]
        self._begin = np.array([place for _, place, _, _ in rows], np.int64)
        self._size = np.array([size for _, _, size, _ in rows], np.int64)
        self._names = [name for name, *_ in rows]
        if not self._size.any():
            raise DataError(f"--data: {file.path} holds no pictures ({picture_kinds()})")
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

    def pick(self, loaded: tuple[int, bytes], block: int, row: int) -> bytes:
        first, content = loaded
        begin = int(self._begin[row]) - first
        return _some(content[begin : begin + int(self._size[row])])

    def read(self, row: int) -> bytes:
        """A row's picture by itself.

        Raises:
            ValueError: if it holds none.
        """
        with self.file.open() as handle:
            handle.seek(int(self._begin[row]))
            return _some(handle.read(int(self._size[row])))


def _some(content: bytes) -> bytes:
    if not content:
        raise ValueError("the row holds no image")
    return content
