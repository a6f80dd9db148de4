"""The order in which a streamed source is trained on: shuffled, yet near at hand; a function of (seed, step).

An epoch's blocks are permuted and laid in a row, which is cut into lanes of equal length. Each lane is read along, its
images delayed by up to a buffer's length, and each batch takes as many of every lane. So

- no image is lost or comes twice in an epoch, whatever the number of processes and workers;
- a process needs only the lanes of its part of the batch, and a worker those of its piece of that part;
- where a position lies is computed, so that a run is resumed without reading what came before it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch.utils.data import Sampler

from strait.randomness import key, permutation, uniform
from strait.runtime.ranks import ALONE, Ranks

_BLOCKS, _DELAY = 3, 4


def lanes_for(batch_size: int, images: int, wanted: int) -> int:
    """The largest number of lanes, up to the wanted one, that divides a batch."""
    return max(lanes for lanes in range(1, min(wanted, batch_size, images) + 1) if batch_size % lanes == 0)


def lane_order(blocks: np.ndarray, lane: int, lanes: int, buffer: int, seed: int, epoch: int) -> np.ndarray:
    """The images of one lane in one epoch, in the order in which they come: int64.

    Args:
        blocks: where each block begins, and the count of all, int64 ``[blocks + 1]``.
        lane: which.
        lanes: how many there are; together they hold each image once.
        buffer: images of the lane among which the next is chosen: none comes more than so many places late.
        seed: of the run.
        epoch: each has an order of its own.
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
    """Batches of (image, position in the stream), or this process's share of each, cut into pieces: as many as there
    are workers, so that each worker gets the same lanes all along."""

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
        self.blocks, self.batch_size, self.seed, self.first_step, self.pieces = (
            blocks,
            batch_size,
            seed,
            first_step,
            pieces,
        )
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
        """The image at a place of a step's batch."""
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
        """How many blocks one worker has to hold so that it reads each of them once an epoch."""
        mine = -(-self.lanes * len(self.share) // (self.batch_size * self.pieces))
        shared = (self.lanes * len(self.share)) % (self.batch_size * self.pieces) != 0
        usual = int(np.median(np.diff(self.blocks)))
        return (mine + shared) * (-(-self.buffer // usual) + 2)
