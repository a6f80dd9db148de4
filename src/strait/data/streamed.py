"""Photographs streamed from shards, on disk or on a hub, without a local copy.

A streamed source is read by index like any other, but in whole blocks of a shard: ``stream_order`` makes sure that the
images of a block are read at about the same time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from strait.data.hub_data import hub_shards, is_hub_id, refuse_missing
from strait.data.rows import DataError
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
    """Pictures of shards that are read in blocks.

    Attributes:
        blocks: first image of each block, then the number of images, int64 ``[blocks + 1]``.
    """

    def __init__(self, shards: Sequence[StreamedShard], unlabelled: bool = False) -> None:
        super().__init__(shards, unlabelled)
        self._streamed = list(shards)
        ends = [start + shard.ends for start, shard in zip(self._starts, shards, strict=False)]
        self.blocks = np.unique(np.concatenate([[0], *ends])).astype(np.int64)
        self._loaded: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._capacity = 2

    def hold(self, blocks: int) -> None:
        """Keep this many of the most recently read blocks in memory."""
        self._capacity = max(1, blocks)
        self._loaded.clear()

    def _content(self, shard: int, row: int) -> bytes:
        streamed = self._streamed[shard]
        block = int(np.searchsorted(streamed.ends, row, side="right"))
        return streamed.pick(self._block(shard, block), block, row)

    def _block(self, shard: int, block: int) -> Any:
        key = (shard, block)
        if key not in self._loaded:
            while len(self._loaded) >= self._capacity:
                self._loaded.popitem(last=False)
            self._loaded[key] = self._streamed[shard].load(block)
        self._loaded.move_to_end(key)
        return self._loaded[key]


def open_stream(data: str, split: str, unlabelled: bool = False) -> ImageSource:
    """``open_images`` without a local copy of parquet files, tars or hub data; folders of pictures are read directly.

    Raises:
        DataError: if there are no pictures, or the data cannot be read.
    """
    files = _files(data, split)
    if not files:
        return open_images(data, split, unlabelled)
    kind = _KINDS[Path(files[0].path).suffix.lower()]
    source = readable(data, lambda: StreamedSource([kind(file) for file in files], unlabelled))
    if not len(source):
        raise DataError(f"--data: {data} has no pictures")
    return source


def stream_has_split(data: str, split: str) -> bool:
    """``has_split`` for the data that ``open_stream`` opens."""
    if Path(data).exists() or not is_hub_id(data):
        return has_split(data, split)
    return names_one_of_two([file.path for file in hub_shards(data, tuple(_KINDS))], split)


def _files(data: str, split: str) -> list[StoredFile]:
    if Path(data).exists():
        return [StoredFile(str(file)) for file in shard_files(data, split)]
    refuse_missing(data)
    files = hub_shards(data, tuple(_KINDS))
    if not files:
        raise DataError(f"--data: {data} has no parquet or tar files, and only these can be streamed")
    return [file for file in files if names_split(file.path, split)] or files
