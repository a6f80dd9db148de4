"""Photographs streamed from shards, wherever they lie, without a copy of them on this machine.

A streamed source can be read by number like any other, but what lies in one block of a shard is read at once, and so
should be asked for at about the same time: ``stream_order`` sees to that.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strait.data.errors import DataError
from strait.data.hub_data import hub_shards, is_hub_id, refuse_missing
from strait.data.shard_source import ShardSource
from strait.data.shards import ParquetShard, StoredFile, StreamedShard, TarShard
from strait.data.sources import (
    ImageSource,
    has_split,
    names_one_of_two,
    names_split,
    open_images,
    readable,
    shard_files,
)

_KINDS = {".parquet": ParquetShard, ".tar": TarShard}


class StreamedSource(ShardSource):
    """The pictures of some shards, by number; ``blocks`` are the numbers at which a block of them begins, int64
    ``[blocks + 1]`` with the count of all at the end."""

    def __init__(self, shards: Sequence[StreamedShard], unlabelled: bool = False) -> None:
        super().__init__(shards, unlabelled)
        self._streamed = list(shards)
        ends = [start + shard.ends for start, shard in zip(self._starts, shards, strict=False)]
        self.blocks = np.unique(np.concatenate([[0], *ends])).astype(np.int64)
        self._held: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._hold = 2

    def hold(self, blocks: int) -> None:
        """Keep so many of the blocks read last in memory."""
        self._hold = max(1, blocks)
        self._held.clear()

    def _content(self, number: int, row: int) -> bytes:
        shard = self._streamed[number]
        block = int(np.searchsorted(shard.ends, row, side="right"))
        return shard.pick(self._loaded(number, block), block, row)

    def _loaded(self, shard: int, block: int) -> Any:
        key = (shard, block)
        if key not in self._held:
            while len(self._held) >= self._hold:
                self._held.popitem(last=False)
            self._held[key] = self._streamed[shard].load(block)
        self._held.move_to_end(key)
        return self._held[key]


def open_stream(data: str, split: str, unlabelled: bool = False) -> ImageSource:
    """``open_images`` without a copy of parquet files, tars or a hub; folders of pictures are read as they are.

    Raises:
        DataError: if there is nothing there, or it cannot be read.
    """
    files = _files(data, split)
    if not files:
        return open_images(data, split, unlabelled)
    kind = _KINDS[Path(files[0].path).suffix.lower()]
    source = readable(data, lambda: StreamedSource([kind(file) for file in files], unlabelled))
    if not len(source):
        raise DataError(f"--data: {data} holds no pictures")
    return source


def stream_has_split(data: str, split: str) -> bool:
    """``has_split`` for what ``open_stream`` opens."""
    if Path(data).exists() or not is_hub_id(data):
        return has_split(data, split)
    return names_one_of_two([file.path for file in hub_shards(data, tuple(_KINDS))], split)


def _files(data: str, split: str) -> list[StoredFile]:
    if Path(data).exists():
        return [StoredFile(str(file)) for file in shard_files(data, split)]
    refuse_missing(data)
    files = hub_shards(data, tuple(_KINDS))
    if not files:
        raise DataError(f"--data: {data} holds neither parquet nor tar files, which alone can be streamed")
    return [file for file in files if names_split(file.path, split)] or files
