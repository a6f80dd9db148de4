"""Settings of the data: how images are read, cropped and repeated (no torch here)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataConfig:
    """How photographs become model-sized images.

    Args:
        flip: mirror half of the training images.
        shift: largest random shift of a training image in pixels; edge pixels are repeated.
        smallest_crop: training images are random square crops with at least this share of the area of the largest
            square; a crop is upscaled only if the photograph itself is too small. 1 takes the centre square, as in
            the paper.
        balance: how often rare classes are drawn in training: 0 draws each image once, 1 draws every class equally
            often; between, a class of n images is drawn in proportion to n^(1 - balance).
        workers: processes that decode images for the tokenizer's training and for the token cache; none chooses by
            the machine.
        cache_variants: random versions (crop, flip, shift) of each image in the token cache.
        unlabelled: ignore all classes and labels; take every picture at any depth.
        streaming: read parquet files, tars or a hub's data set in place, without a local copy.
        shuffle_buffer: images from which the next one of a stream is drawn; held in memory, encoded.
        stream_lanes: positions at which a stream is read in parallel; the largest number up to this one that divides
            the batch is used. Processes and workers share the lanes.
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
                f"data.cache_variants: {self.cache_variants} versions of an image would all be identical; also set "
                "data.flip, data.shift or data.smallest_crop"
            )
        if self.balance and self.streaming:
            raise ValueError("data.balance: a stream cannot be balanced; set data.streaming to false")
        if self.balance and self.unlabelled:
            raise ValueError("data.balance: balancing needs classes; set data.unlabelled to false")
        for name in ("shuffle_buffer", "stream_lanes"):
            if not self.streaming and getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"data.{name}: only a stream uses it; set data.streaming to true, or leave it out")
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"data.workers: {self.workers} must not be negative")
