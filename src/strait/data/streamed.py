"""Photographs streamed from shards, wherever they lie, without a copy of them on this machine.

A streamed source can be read by number like any other, but what lies in one block of a shard is read at once, and so
should be asked for at about the same time: ``stream_order`` sees to that.
"""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from strait.data.classes import ClassNames
from strait.data.shards import ParquetShard, Shard, StoredFile, TarShard, hub
from strait.data.sources import (
    DataError,
    ImageSource,
    has_split,
    is_hub_id,
    names_split,
    open_images,
    shards_in,
    split_folder,
)
from strait.pictures.reading import FORMATS

_KINDS = {".parquet": ParquetShard, ".tar": TarShard}


class StreamedSource:
    """The pictures of some shards, by number; ``blocks`` are the numbers at which a block of them begins, int64
    ``[blocks + 1]`` with the count of all at the end."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = list(shards)
        counts = [int(shard.ends[-1]) if len(shard.ends) else 0 for shard in self._shards]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        ends = [start + shard.ends for start, shard in zip(self._starts, self._shards, strict=False)]
        self.blocks = np.unique(np.concatenate([[0], *ends])).astype(np.int64)
        self.classes, self._labels = _classes(self._shards)
        self._held: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._hold = 2

    def hold(self, blocks: int) -> None:
        """Keep so many of the blocks read last in memory."""
        self._hold = max(1, blocks)
        self._held.clear()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def fingerprint(self) -> str:
        digest = sha256("\n".join(self.classes).encode())
        for shard in self._shards:
            digest.update(shard.fingerprint().encode())
        return digest.hexdigest()[:12]

    def name(self, index: int) -> str:
        shard, row = self._place(index)
        return self._shards[shard].name(row)

    def labels(self) -> np.ndarray:
        return np.full(len(self), -1) if self._labels is None else self._labels

    def read(self, index: int) -> tuple[Image.Image, int]:
        number, row = self._place(index)
        shard = self._shards[number]
        block = int(np.searchsorted(shard.ends, row, side="right"))
        content = shard.pick(self._loaded(number, block), block, row)
        if content is None:
            raise ValueError("the row holds no image")
        label = -1 if self._labels is None else int(self._labels[index])
        return Image.open(io.BytesIO(content), formats=FORMATS), label

    def _place(self, index: int) -> tuple[int, int]:
        if not 0 <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return shard, index - int(self._starts[shard])

    def _loaded(self, shard: int, block: int) -> Any:
        key = (shard, block)
        if key not in self._held:
            while len(self._held) >= self._hold:
                self._held.popitem(last=False)
            self._held[key] = self._shards[shard].load(block)
        self._held.move_to_end(key)
        return self._held[key]


def _classes(shards: list[Shard]) -> tuple[ClassNames, np.ndarray | None]:
    """The classes of all shards together and each row's number, int64 ``[rows]``: by the names that the files say, by
    the labels themselves where they are words, else by their numbers."""
    labels = [shard.labels for shard in shards]
    found = [label for label in labels if label is not None]
    if not found:
        return ClassNames([]), None
    if len(found) < len(labels):
        raise DataError("--data: some of the shards have labels and some have none")
    every = np.concatenate(found)
    if every.dtype.kind in "US":
        names = sorted({str(label) for label in every.tolist()} - {""})
        numbers = {name: number for number, name in enumerate(names)}
        return ClassNames(names), np.array([numbers.get(str(label), -1) for label in every.tolist()], np.int64)
    highest = int(every.max(initial=-1))
    names = list(shards[0].names) or [str(number) for number in range(highest + 1)]
    if highest >= len(names):
        raise DataError(f"--data: a label is {highest}, and there are {len(names)} names of classes")
    return ClassNames(names), every.astype(np.int64)


def open_stream(data: str, split: str) -> ImageSource:
    """``open_images`` without a copy of parquet files, tars or a hub; folders of pictures are read as they are.

    Raises:
        DataError: if there is nothing there, or it cannot be read.
    """
    files = _files(data, split)
    if not files:
        return open_images(data, split)
    kind = _KINDS[Path(files[0].path).suffix]
    try:
        source = StreamedSource([kind(file) for file in files])
        if not len(source):
            raise DataError(f"--data: {data} holds no pictures")
        return source
    except DataError:
        raise
    except ImportError as error:
        raise DataError(f"--data: {data} needs the library pyarrow: pip install 'strait[train]'") from error
    except Exception as error:  # what a damaged file can raise inside pyarrow and tarfile has no end
        raise DataError(f"--data: {data} could not be read: {' '.join(str(error).split())}") from error


def stream_has_split(data: str, split: str) -> bool:
    """``has_split`` for what ``open_stream`` opens."""
    if Path(data).exists() or not is_hub_id(data):
        return has_split(data, split)
    files = _on_hub(data)
    return any(names_split(file.path, split) for file in files) and not all(
        names_split(file.path, split) for file in files
    )


def _files(data: str, split: str) -> list[StoredFile]:
    path = Path(data)
    if not path.exists() and is_hub_id(data):
        files = _on_hub(data)
        if not files:
            raise DataError(f"--data: {data} holds neither parquet nor tar files, which alone can be streamed")
    elif path.is_file() and path.suffix in _KINDS:
        files = [StoredFile(str(path))]
    elif path.is_dir():
        files = [StoredFile(str(file)) for file in shards_in(split_folder(path, split))]
    else:
        files = []
    return [file for file in files if names_split(file.path, split)] or files


def _on_hub(data: str) -> list[StoredFile]:
    """The shards of a hub's data set."""
    try:
        found = sorted(str(path) for path in hub().find(f"datasets/{data}"))
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"--data: {data} is no folder here, and no hub gave it: {reason}") from error
    for suffix in _KINDS:
        files = [StoredFile(path, on_hub=True) for path in found if os.path.splitext(path)[1] == suffix]
        if files:
            return files
    return []
