"""What keeps a codebook in use: codes that start from data, and restarts of dead ones.

A plain quantizer collapses to a few dozen codes within minutes. Ours initialises codes from data and replaces dead
ones by features of both levels in equal shares, so that both levels keep their part of a shared codebook. Beyond the
paper (docs/choices.md).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from strait.randomness import key, uniform
from strait.tokenizer.quantizer import Codebook, identity


def rows_at(rows: Tensor, places: Tensor) -> Tensor:
    """The rows of ``[n, width]`` at relative places in (0, 1) from the first row to the last."""
    return rows[(places * rows.shape[0]).long().clamp(max=rows.shape[0] - 1)]


class CodebookHealth(nn.Module):
    """Counts how often each level uses each code of a codebook, and restarts codes that no level uses.

    Part of the training state, not of the model.
    """

    usage: Tensor

    def __init__(self, levels: int, codebook_size: int, dead_below: float, decay: float = 0.95) -> None:
        """``dead_below``: a code is dead when its average use falls below this share of a uniform code's."""
        super().__init__()
        self.dead_below, self.decay = dead_below, decay
        self.register_buffer("usage", torch.full((levels, codebook_size), 1.0 / codebook_size))

    @torch.no_grad()
    def update(self, ids: list[Tensor], total: Callable[[Tensor], Tensor] = identity) -> list[Tensor]:
        """Add a batch's ids, one tensor of any shape for each level; ``total`` sums counts over processes.

        Returns:
            The uses of each code by each level, ``[codebook_size]`` each.
        """
        codebook_size = self.usage.shape[1]
        counts = [total(torch.bincount(grid.flatten(), minlength=codebook_size)) for grid in ids]
        for level, count in enumerate(counts):
            self.usage[level].lerp_(count.float() / count.float().sum(), 1 - self.decay)
        return counts

    @torch.no_grad()
    def restart(
        self,
        codebook: Codebook,
        features: list[Tensor],
        draw: Tensor,
        pick: Callable[[Tensor, Tensor], Tensor] = rows_at,
    ) -> Tensor:
        """Replace dead codes by features of this batch, in equal shares from each level.

        Args:
            codebook: to restart codes of.
            features: ``[batch, code_dim, h, w]`` for each level, as prepared by the codebook.
            draw: random key of the choice of features.
            pick: ``rows_at``, or the same over the features of all processes.

        Returns:
            bool ``[codebook_size]``, the restarted codes.
        """
        dead = self.usage.amax(0) * self.usage.shape[1] < self.dead_below
        self._replace(codebook, features, draw, dead, pick)
        return dead

    def _replace(
        self,
        codebook: Codebook,
        features: list[Tensor],
        draw: Tensor,
        dead: Tensor,
        pick: Callable[[Tensor, Tensor], Tensor],
    ) -> None:
        levels, codebook_size = self.usage.shape
        codes = torch.arange(codebook_size, device=dead.device)
        # Dead codes alternate between the levels.
        level_of = (dead.cumsum(0) - 1) % levels
        weight = codebook.weight.data
        for level, grid in enumerate(features):
            rows = grid.movedim(1, -1).reshape(-1, grid.shape[1])
            picked = pick(rows, uniform(key(draw, level, codes)))
            replaced = dead & (level_of == level)
            weight.copy_(torch.where(replaced[:, None], picked.to(weight.dtype), weight))
            # A new code starts with uniform use: it has time to be used before it counts as dead again.
            self.usage[level].masked_fill_(replaced, 1.0 / codebook_size)

    @torch.no_grad()
    def initialise(
        self,
        codebook: Codebook,
        features: list[Tensor],
        draw: Tensor,
        pick: Callable[[Tensor, Tensor], Tensor] = rows_at,
    ) -> None:
        """Initialise all codes from features of a batch; see ``restart``."""
        all_codes = torch.ones_like(self.usage[0], dtype=torch.bool)
        self._replace(codebook, features, draw, all_codes, pick)
        self.usage.fill_(1.0 / self.usage.shape[1])
