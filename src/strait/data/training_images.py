"""The endless shuffled stream of training images; a function of (seed, step), so it can be resumed at any step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from strait.data.balance import epoch_order
from strait.data.config import DataConfig
from strait.data.images import ImageBatch, collate, read_pixels, training_view
from strait.data.sources import DataError, ImageSource
from strait.data.stream_order import StreamedPositions
from strait.data.streamed import StreamedSource
from strait.data.workers import leave_stopping_to_the_parent
from strait.randomness import as_seed
from strait.runtime.ranks import ALONE, Ranks

_ORDER, _AUGMENT = 1, 2


class ShuffledPositions(Sampler[list[tuple[int, int]]]):
    """Batches of (image, position in the stream), or this process's share of each; every epoch is shuffled anew, with
    rare classes repeated according to ``balance``."""

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        first_step: int,
        ranks: Ranks = ALONE,
        labels: np.ndarray | None = None,
        balance: float = 0.0,
    ) -> None:
        self.length, self.batch_size, self.seed, self.first_step = length, batch_size, seed, first_step
        self.labels, self.balance = labels, balance
        self.share = ranks.share(batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, torch.empty(0)
        position = self.first_step * self.batch_size
        while True:
            batch = []
            for place in range(position + self.share.start, position + self.share.stop):
                if place // self.length != epoch:
                    epoch = place // self.length
                    order = epoch_order(self.length, self.labels, self.balance, self.seed, _ORDER, epoch)
                batch.append((int(order[place % self.length]), place))
            yield batch
            position += self.batch_size


class _AugmentedImages(Dataset[object]):
    """(image, position) -> pixels; an unreadable picture is replaced by the next readable one."""

    def __init__(self, source: ImageSource, size: int, config: DataConfig, seed: int, crop: int | None) -> None:
        self.source, self.size, self.config, self.seed, self.crop = source, size, config, seed, crop

    def __getitem__(self, item: tuple[int, int]) -> tuple[np.ndarray, int, int, list[tuple[str, str]]]:
        index, position = item
        bad: list[tuple[str, str]] = []
        draw = as_seed(self.seed, _AUGMENT, position)

        def cut(picture: Image.Image) -> np.ndarray:
            return training_view(picture, self.size, self.config, draw, self.crop)

        for offset in range(len(self.source)):
            number = (index + offset) % len(self.source)
            first, second = read_pixels(self.source, number, cut)
            if not isinstance(first, str):
                return first, int(second), number, bad
            bad.append((first, str(second)))
        raise DataError(f"--data: none of the {len(self.source)} images can be read (the first: {bad[0][0]})")


def _join(items: list[tuple[np.ndarray, int, int, list[tuple[str, str]]]]) -> ImageBatch:
    bad = [entry for item in items for entry in item[3]]
    return collate([item[:3] for item in items], bad, items[0][0].shape[0])


def _concatenated(pieces: list[ImageBatch]) -> ImageBatch:
    """The batch whose pieces the workers have read."""
    if len(pieces) == 1:
        return pieces[0]
    batch = ImageBatch(
        torch.cat([piece.pixels for piece in pieces]),
        torch.cat([piece.labels for piece in pieces]),
        torch.cat([piece.indices for piece in pieces]),
        [entry for piece in pieces for entry in piece.bad],
    )
    return batch.pin_memory() if torch.cuda.is_available() else batch


def training_batches(
    source: ImageSource,
    size: int,
    batch_size: int,
    config: DataConfig,
    seed: int,
    first_step: int,
    workers: int,
    ranks: Ranks = ALONE,
    crop: int | None = None,
) -> Iterator[ImageBatch]:
    """The endless stream from ``first_step`` on; each process reads its share of every batch.

    ``crop`` is the side in pixels of random squares cut out of the images of side ``size``; none for whole images.

    Raises:
        DataError: if no image of the source can be read.
    """
    labels = source.labels() if config.balance else None
    pieces, order = 1, ShuffledPositions(len(source), batch_size, seed, first_step, ranks, labels, config.balance)
    if isinstance(source, StreamedSource):
        pieces = max(1, min(workers, len(order.share)))
        order = StreamedPositions(
            source.blocks, batch_size, seed, first_step, config.stream_lanes, config.shuffle_buffer, pieces, ranks
        )
        source.hold(order.blocks_at_work())
    loader = DataLoader(
        _AugmentedImages(source, size, config, seed, crop),
        batch_sampler=order,
        num_workers=workers,
        collate_fn=_join,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
        worker_init_fn=leave_stopping_to_the_parent,
    )
    try:
        batches = iter(loader)
        while True:
            yield _concatenated([next(batches) for _ in range(pieces)])
    except DataError as error:
        # A worker's error is wrapped in its traceback; the last line has the message.
        raise DataError(str(error).strip().splitlines()[-1].rpartition("DataError: ")[2]) from None
