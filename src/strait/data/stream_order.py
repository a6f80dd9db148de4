"""The shuffled order of a streamed source: mostly sequential reads, and a function of (seed, step).

The blocks of an epoch are permuted and concatenated, and the result is cut into lanes of equal length. Lanes are read
sequentially, images are delayed at random by up to a buffer's length, and a batch takes equally many from each. So

- every image is drawn once an epoch, whatever the number of processes and workers;
- a process reads only the lanes of its share of the batch, and a worker those of its piece of that share;
- positions are computed, so a run is resumed without reading earlier images.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

from strait.randomness import key, permutation, uniform
from strait.runtime.ranks import ALONE, Ranks

_BLOCKS, _DELAY = 3, 4


def lanes_for(batch_size: int, images: int, limit: int) -> int:
    """The largest number of lanes, up to ``limit``, that divides a batch."""
    return max(lanes for lanes in range(1, min(limit, batch_size, images) + 1) if batch_size % lanes == 0)


def lane_order(blocks: np.ndarray, lane: int, lanes: int, buffer: int, seed: int, epoch: int) -> np.ndarray:
    """The image indices of one lane in one epoch, in order: int64.

    Args:
        blocks: first image of each block, then the number of images, int64 ``[blocks + 1]``.
        lane: number of the lane, from 0.
        lanes: number of lanes; together they contain each image once.
        buffer: images from which the next one is drawn, and so the largest delay of an image.
        seed: of the run.
        epoch: number of the epoch, from 0; each is shuffled differently.
    """
    sizes = np.diff(blocks)
    shuffled = permutation(len(sizes), seed, _BLOCKS, epoch).numpy()
    ends = np.cumsum(sizes[shuffled])
    total = int(ends[-1])
    places = np.arange(lane * total // lanes, (lane + 1) * total // lanes)
    number = np.searchsorted(ends, places, side="right")
    images = blocks[shuffled[number]] + places - (ends - sizes[shuffled])[number]
    draws = uniform(key(key(seed, _DELAY, epoch), torch.from_numpy(places))).double().numpy()
    return images[np.argsort(places + draws * max(1, buffer), kind="stable")]


class StreamedPositions(Sampler[list[tuple[int, int]]]):
    """Batches of (image, position in the stream), or this process's share of each, cut into one piece a worker: each
    worker then always reads the same lanes."""

    def __init__(
        self,
        blocks: np.ndarray,
        batch_size: int,
        seed: int,
        first_step: int,
        lanes: int,
        buffer: int,
        pieces: int = 1,
        ranks: Ranks = ALONE,
    ) -> None:
        self.blocks, self.batch_size, self.pieces = blocks, batch_size, pieces
        self.seed, self.first_step = seed, first_step
        self.share = ranks.share(batch_size)
        self.lanes = lanes_for(batch_size, int(blocks[-1]), lanes)
        self.buffer = -(-buffer // self.lanes)
        self._orders: dict[int, tuple[int, np.ndarray]] = {}

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        step = self.first_step
        while True:
            for piece in np.array_split(np.asarray(self.share), self.pieces):
                yield [(self._image(step, place), step * self.batch_size + place) for place in piece.tolist()]
            step += 1

    def _image(self, step: int, place: int) -> int:
        """The image at a place of a step's batch (all processes together)."""
        each = self.batch_size // self.lanes
        lane, within = divmod(place, each)
        total = int(self.blocks[-1])
        length = (lane + 1) * total // self.lanes - lane * total // self.lanes
        epoch, item = divmod(step * each + within, length)
        if self._orders.get(lane, (-1, None))[0] != epoch:
            order = lane_order(self.blocks, lane, self.lanes, self.buffer, self.seed, epoch)
            self._orders[lane] = (epoch, order)
        return int(self._orders[lane][1][item])

    def blocks_at_work(self) -> int:
        """How many blocks a worker must hold in memory to read each block once an epoch."""
        lanes = -(-self.lanes * len(self.share) // (self.batch_size * self.pieces))
        has_partial_lane = (self.lanes * len(self.share)) % (self.batch_size * self.pieces) != 0
        block_size = int(np.median(np.diff(self.blocks)))
        return (lanes + has_partial_lane) * (-(-self.buffer // block_size) + 2)
