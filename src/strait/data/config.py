"""Where images come from and how they are cut (no torch here)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataConfig:
    """How photographs become model-sized images.

    Args:
        flip: half of the training images are mirrored.
        shift: training images are moved by up to this many pixels, edges repeated.
        workers: processes that decode images; none decides by the machine.
        cache_variants: versions of each image in the token cache (flipped, shifted).
    """

    flip: bool = True
    shift: int = 0
    workers: int | None = None
    cache_variants: int = 1

    def __post_init__(self) -> None:
        for name in ("shift", "cache_variants"):
            if getattr(self, name) < (name == "cache_variants"):
                raise ValueError(f"data.{name}: {getattr(self, name)} is too small")
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"data.workers: {self.workers} must not be negative")
