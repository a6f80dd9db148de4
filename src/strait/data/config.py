"""Where images come from and how they are cut (no torch here)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataConfig:
    """How photographs become model-sized images.

    Args:
        flip: half of the training images are mirrored.
        shift: training images are moved by up to this many pixels, edges repeated.
        smallest_crop: training images are random squares of a photograph, anywhere in it, whose area has at least this
            share of the largest square's; a square is never smaller than the pixels that it becomes, where the
            photograph has them. 1 takes the centre square, as the paper does.
        balance: how often rare classes come in training: 0 as they come, 1 every class equally often, between in
            proportion to n^(1 - balance) for a class of n images.
        workers: processes that decode images; none decides by the machine.
        cache_variants: versions of each image in the token cache, each a draw of its own (crop, flip, shift).
        unlabelled: leave classes aside, whatever folders or labels say: take every picture, at any depth, without one.
        streaming: read parquet files, tars or a hub's data set where they lie, without a copy of them here.
        shuffle_buffer: images among which the next one of a stream is chosen; they lie in memory, encoded.
        stream_lanes: places of a stream that are read along at once, where that divides a batch (else the next smaller
            number that does). Processes and workers divide them among themselves.
    """

    flip: bool = True
    shift: int = 0
    smallest_crop: float = 1.0
    balance: float = 0.0
    workers: int | None = None
    cache_variants: int = 1
    unlabelled: bool = False
    streaming: bool = False
    shuffle_buffer: int = 8192
    stream_lanes: int = 16

    def __post_init__(self) -> None:
        for name in ("shift", "cache_variants", "shuffle_buffer", "stream_lanes"):
            if getattr(self, name) < (name != "shift"):
                raise ValueError(f"data.{name}: {getattr(self, name)} is too small")
        if not 0 < self.smallest_crop <= 1:
            raise ValueError(f"data.smallest_crop: {self.smallest_crop} must lie in (0, 1]")
        if not 0 <= self.balance <= 1:
            raise ValueError(f"data.balance: {self.balance} must lie in [0, 1]")
        if self.cache_variants > 1 and not self.flip and not self.shift and self.smallest_crop == 1:
            raise ValueError(
                f"data.cache_variants: {self.cache_variants} versions of an image would all be the same; set "
                "data.flip, data.shift or data.smallest_crop as well"
            )
        if self.balance and self.streaming:
            raise ValueError("data.balance: a stream is read in the order of its shards; set data.streaming to false")
        if self.balance and self.unlabelled:
            raise ValueError("data.balance: without classes none is rare; set data.unlabelled to false")
        for name in ("shuffle_buffer", "stream_lanes"):
            if not self.streaming and getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"data.{name}: it is for a stream; set data.streaming to true, or leave it out")
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"data.workers: {self.workers} must not be negative")
