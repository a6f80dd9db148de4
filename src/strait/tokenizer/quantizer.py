"""Q: features to codes and back, straight-through, and the care that keeps a codebook alive.

A plain quantizer collapses to a few dozen codes within minutes. Ours starts its codes from data and restarts dead
ones from the features of both levels in equal shares, so that neither level starves in a shared codebook.
Source: StraIT section 3.1; the care is ours (docs/choices.md).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strait.randomness import key, uniform

_ENTROPY_ROWS = 4096
_PIECE = 16384  # rows of the distance matrix computed at once: it never stands in memory whole


def _full_precision(device: torch.device) -> AbstractContextManager[object]:
    """float32 whatever autocast says: rounding here would change ids. (The meta device knows no autocast.)"""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


@dataclass(frozen=True)
class Quantized:
    """One level after the lookup.

    Attributes:
        values: ``[batch, code_dim, h, w]``; the codes, with the features' gradient (straight-through).
        ids: int64 ``[batch, h, w]``.
        features: ``[batch, code_dim, h, w]``, what was compared with the codes (normalised if the codes are).
        codes: ``[batch, code_dim, h, w]``, the chosen codes with the codebook's gradient.
    """

    values: Tensor
    ids: Tensor
    features: Tensor
    codes: Tensor

    def codebook_loss(self) -> Tensor:
        """Moves codes to features: mean of (sg[z] - e)^2."""
        return F.mse_loss(self.codes, self.features.detach())

    def commitment_loss(self) -> Tensor:
        """Holds features to their codes: mean of (z - sg[e])^2. Source: equation 2."""
        return F.mse_loss(self.features, self.codes.detach())


class Codebook(nn.Module):
    """The codes e of one level, or of several that share them: ``[codebook_size, code_dim]``."""

    def __init__(self, codebook_size: int, code_dim: int, normalize: bool) -> None:
        super().__init__()
        self.normalize = normalize
        self.bypass = False
        """While True the features pass unquantized: see ``CodebookConfig.start``."""
        self.weight = nn.Parameter(torch.empty(codebook_size, code_dim))
        nn.init.normal_(self.weight)

    @property
    def codes(self) -> Tensor:
        """float32 ``[codebook_size, code_dim]``, normalised where that is the rule."""
        weight = self.weight.float()
        return F.normalize(weight, dim=-1) if self.normalize else weight

    def prepare(self, features: Tensor) -> Tensor:
        """Features as they are compared with codes: float32, normalised over channels where that is the rule."""
        features = features.float()
        return F.normalize(features, dim=1) if self.normalize else features

    def nearest(self, rows: Tensor) -> Tensor:
        """Ids ``[n]`` of the nearest code to each row ``[n, code_dim]``."""
        codes = self.codes.detach()
        bias = -0.5 * codes.square().sum(-1)  # argmin |z - e|^2 = argmax z.e - |e|^2 / 2
        return torch.cat([torch.addmm(bias, piece, codes.T).argmax(-1) for piece in rows.detach().split(_PIECE)])

    def embed(self, ids: Tensor) -> Tensor:
        """Ids ``[batch, h, w]`` -> codes ``[batch, code_dim, h, w]`` float32."""
        return F.embedding(ids, self.codes).movedim(-1, 1)

    def forward(self, features: Tensor) -> Quantized:
        """Features ``[batch, code_dim, h, w]`` -> the lookup of each."""
        with _full_precision(features.device):
            features = self.prepare(features)
            batch, width, height, columns = features.shape
            rows = features.movedim(1, -1).reshape(-1, width)
            ids = self.nearest(rows).view(batch, height, columns)
            codes = self.embed(ids)
            values = features if self.bypass else features + (codes - features).detach()
        return Quantized(values, ids, features, codes)


def itself(value: Tensor) -> Tensor:
    """What a batch makes alone is what it makes altogether."""
    return value


def rows_at(rows: Tensor, places: Tensor) -> Tensor:
    """Those of ``[n, width]`` that lie at some places in (0, 1) from the first to the last."""
    return rows[(places * rows.shape[0]).long().clamp(max=rows.shape[0] - 1)]


class CodebookHealth(nn.Module):
    """Watches how often each level uses each code of one codebook, and restarts codes that no level uses.

    Only training holds one; it is saved with the training state, not with the model.
    """

    usage: Tensor

    def __init__(self, levels: int, codebook_size: int, dead_below: float, decay: float = 0.95) -> None:
        """``dead_below``: a code is dead when its average use falls below this share of a uniform code's."""
        super().__init__()
        self.dead_below, self.decay = dead_below, decay
        self.register_buffer("usage", torch.full((levels, codebook_size), 1.0 / codebook_size))

    @torch.no_grad()
    def update(self, ids: list[Tensor], total: Callable[[Tensor], Tensor] = itself) -> list[Tensor]:
        """Fold one batch's ids in, one tensor of any shape a level; ``total`` adds up what the parts of a batch count.

        Returns:
            How often each level used each code: ``[codebook_size]`` a level.
        """
        codebook_size = self.usage.shape[1]
        found = [total(torch.bincount(grid.flatten(), minlength=codebook_size)) for grid in ids]
        for level, counts in enumerate(found):
            counts = counts.float()
            self.usage[level].lerp_(counts / counts.sum(), 1 - self.decay)
        return found

    @torch.no_grad()
    def restart(
        self,
        codebook: Codebook,
        features: list[Tensor],
        draw: Tensor,
        pick: Callable[[Tensor, Tensor], Tensor] = rows_at,
    ) -> Tensor:
        """Put features of this batch in the place of dead codes, an equal share from each level.

        Args:
            codebook: whose codes to restart.
            features: ``[batch, code_dim, h, w]`` a level, as the codebook prepared them.
            draw: a key that decides which features are taken.
            pick: takes rows by their places in (0, 1), as ``rows_at`` does, wherever a batch lies.

        Returns:
            bool ``[codebook_size]``: the codes restarted, so that the optimizer can forget them.
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
        # Dead codes take their turn: even ones from one level, odd ones from the other.
        level_of = (dead.cumsum(0) - 1) % levels
        weight = codebook.weight.data
        for level, grid in enumerate(features):
            rows = grid.movedim(1, -1).reshape(-1, grid.shape[1])
            chosen = pick(rows, uniform(key(draw, level, codes)))
            mine = dead & (level_of == level)
            weight.copy_(torch.where(mine[:, None], chosen.to(weight.dtype), weight))
            # A new code is given the time to be found before it can be called dead again.
            self.usage[level].masked_fill_(mine, 1.0 / codebook_size)

    @torch.no_grad()
    def initialise(
        self,
        codebook: Codebook,
        features: list[Tensor],
        draw: Tensor,
        pick: Callable[[Tensor, Tensor], Tensor] = rows_at,
    ) -> None:
        """Start every code from a feature of the first batch; as ``restart``."""
        every = torch.ones_like(self.usage[0], dtype=torch.bool)
        self._replace(codebook, features, draw, every, pick)
        self.usage.fill_(1.0 / self.usage.shape[1])


def soft_assignments(quantized: Quantized, codebook: Codebook, batch_size: int, temperature: float = 0.01) -> Tensor:
    """log p(code | feature) of a few thousand features of a batch, as many of each image, evenly spread: every one is
    compared with every code. ``batch_size`` is the whole batch's, of which these may be a part.

    Returns:
        ``[features, codebook_size]``.
    """
    with _full_precision(quantized.features.device):
        rows = quantized.features.movedim(1, -1).flatten(1, -2)
        each = max(1, _ENTROPY_ROWS // batch_size)
        rows = rows[:, :: -(-rows.shape[1] // each)].flatten(0, 1)
        codes = codebook.codes
        distances = rows.square().sum(-1, keepdim=True) - 2 * rows @ codes.T + codes.square().sum(-1)
        return F.log_softmax(-distances / temperature, dim=-1)


def codebook_entropy_loss(
    quantized: Quantized,
    codebook: Codebook,
    temperature: float = 0.01,
    batch_size: int | None = None,
    over_batch: Callable[[Tensor], Tensor] = itself,
) -> Tensor:
    """Entropy term, optional: each feature decided, all codes used. Lower is better.

    Mean entropy of the soft assignments less the entropy of their mean, as in MaskGIT's quantizer. Where this is but a
    part of a batch, ``over_batch`` turns the mean over the part into the mean over all ``batch_size`` images: the mean
    of the losses of equal parts, and of their gradients, is then the loss of the whole.
    """
    log_p = soft_assignments(quantized, codebook, batch_size or quantized.features.shape[0], temperature)
    with _full_precision(log_p.device):
        p = log_p.exp()
        mean = p.mean(0)
        # d(sum m log m) = sum (log m) dm, since the dm add up to nothing: so log m may be held fixed.
        log_mean = over_batch(mean.detach()).clamp(min=1e-12).log()
        return -(p * log_p).sum(-1).mean() + (mean * log_mean).sum()
