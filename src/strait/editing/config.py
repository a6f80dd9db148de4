"""Settings of an edit (no torch here)."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class EditConfig:
    """How a mask over pixels selects tokens, and how the result is pasted back into the picture.

    Args:
        strength: share of the masked top tokens that are redrawn, in (0, 1], together with the bottom tokens below
            them. The other masked tokens keep their content.
        margin: pixels, at the model's size, by which the mask is dilated before tokens are selected: the encoder's
            receptive field is larger than a token.
        context: side of the square that the model sees, as a multiple of the mask's extent; at least the model's
            size, and at most the picture's shorter side unless the mask itself is longer.
        feather: pixels of the picture, inside the mask, over which the new content fades in.
        composite: keep the picture's own pixels outside the mask.
        cover: share of a top token, in [0, 1), above which the mask makes it unknown; at 0 one pixel is enough.
            A finer token is unknown if any of its pixels is masked.
        seam: pixels of the picture, outside the mask, over which the new content fades out; at 0 all pixels outside
            stay bit-identical.
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
