"""Settings of an edit (no torch here)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class EditConfig:
    """How a mask over pixels becomes an edit, and how the edit comes back into the picture.

    Args:
        strength: share of the masked top tokens that are drawn anew, in (0, 1]; the bottom tokens below them follow.
            Below 1 the old content of the rest is kept.
        margin: by how many pixels of the model's size the mask is grown before tokens are chosen: the encoder looks
            further than a token's own pixels.
        context: side of the square that the model sees, in extents of the mask; never less than the model's own size,
            never more than the picture's shorter side unless the mask itself is longer.
        feather: over how many pixels of the picture, inside the mask, the new fades into the old.
        composite: put the picture's own pixels back outside the mask.
        cover: share of a top token, in [0, 1), above which the mask makes it unknown; at 0 one pixel is enough.
            Finer tokens are unknown wherever a pixel of theirs is masked.
        seam: over how many pixels of the picture, outside the mask, the new may fade out; at 0 all pixels outside come
            back bit for bit.
    """

    strength: float = 1.0
    margin: int = 0
    context: float = 2.0
    feather: int = 2
    composite: bool = True
    cover: float = 0.25
    seam: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength: {self.strength} must be above 0 and at most 1")
        for name in ("margin", "feather", "seam"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: {getattr(self, name)} must not be negative")
        if not 0 <= self.cover < 1:
            raise ValueError(f"cover: {self.cover} must be at least 0 and below 1")
        if not 1 <= self.context < math.inf:
            raise ValueError(f"context: {self.context} must be at least 1")
