"""Some rows of a sequence."""

from __future__ import annotations

from torch import Tensor


def pick(x: Tensor, positions: Tensor | None) -> Tensor:
    """Rows ``positions`` ``[batch, count]`` of ``[batch, length, width]``; all of them if None."""
    if positions is None:
        return x
    return x.gather(1, positions[..., None].expand(-1, -1, x.shape[-1]))
