"""Q: features to codes, with a straight-through gradient. Source: StraIT section 3.1."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_ENTROPY_ROWS = 4096
_PIECE = 16384
"""Rows of the distance matrix computed at once, so that it is never in memory as a whole."""
_CACHED = 2**20
"""Distances computed at once on a CPU, so that they stay in its cache: they are read as soon as they are written."""


def _full_precision(device: torch.device) -> AbstractContextManager[object]:
    """float32 even under autocast: rounding would change ids. (The meta device has no autocast.)"""
    return nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


@dataclass(frozen=True)
class Quantized:
    """One level after quantization.

    Attributes:
        values: ``[batch, code_dim, h, w]``; the codes, with the features' gradient (straight-through).
        ids: int64 ``[batch, h, w]``.
        features: ``[batch, code_dim, h, w]`` that were compared with the codes (normalised if the codes are).
        codes: ``[batch, code_dim, h, w]``, the nearest codes, with the codebook's gradient.
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
        """If True, features pass unquantized: see ``CodebookConfig.start``."""
        self.weight = nn.Parameter(torch.empty(codebook_size, code_dim))
        nn.init.normal_(self.weight)

    @property
    def codes(self) -> Tensor:
        """float32 ``[codebook_size, code_dim]``, normalised if ``normalize``."""
        weight = self.weight.float()
        return F.normalize(weight, dim=-1) if self.normalize else weight

    def prepare(self, features: Tensor) -> Tensor:
        """Features for the comparison with codes: float32, normalised over channels if ``normalize``."""
        features = features.float()
        return F.normalize(features, dim=1) if self.normalize else features

    def nearest(self, rows: Tensor) -> Tensor:
        """Ids ``[n]`` of the nearest code to each row ``[n, code_dim]``."""
        codes = self.codes.detach()
        bias = -0.5 * codes.square().sum(-1)  # argmin |z - e|^2 = argmax z.e - |e|^2 / 2
        at_once = max(128, _CACHED // len(codes)) if rows.device.type == "cpu" else _PIECE
        return torch.cat([torch.addmm(bias, piece, codes.T).argmax(-1) for piece in rows.detach().split(at_once)])

    def embed(self, ids: Tensor) -> Tensor:
        """Ids ``[batch, h, w]`` -> codes ``[batch, code_dim, h, w]`` float32."""
        return F.embedding(ids, self.codes).movedim(-1, 1)

    def forward(self, features: Tensor) -> Quantized:
        """Quantize features ``[batch, code_dim, h, w]``."""
        with _full_precision(features.device):
            features = self.prepare(features)
            batch, width, height, columns = features.shape
            rows = features.movedim(1, -1).reshape(-1, width)
            ids = self.nearest(rows).view(batch, height, columns)
            codes = self.embed(ids)
            values = features if self.bypass else features + (codes - features).detach()
        return Quantized(values, ids, features, codes)


def identity(value: Tensor) -> Tensor:
    """Identity: with one process there is nothing to reduce."""
    return value


def soft_assignments(quantized: Quantized, codebook: Codebook, batch_size: int, temperature: float = 0.01) -> Tensor:
    """log p(code | feature) of a few thousand features, evenly spaced and equally many from each image. ``batch_size``
    is that of the whole batch, of which ``quantized`` can be a part.

    Returns:
        ``[features, codebook_size]``.
    """
    with _full_precision(quantized.features.device):
        rows = quantized.features.movedim(1, -1).flatten(1, -2)
        count = max(1, _ENTROPY_ROWS // batch_size)
        rows = rows[:, :: -(-rows.shape[1] // count)].flatten(0, 1)
        codes = codebook.codes
        distances = rows.square().sum(-1, keepdim=True) - 2 * rows @ codes.T + codes.square().sum(-1)
        return F.log_softmax(-distances / temperature, dim=-1)


def codebook_entropy_loss(
    quantized: Quantized,
    codebook: Codebook,
    temperature: float = 0.01,
    batch_size: int | None = None,
    over_batch: Callable[[Tensor], Tensor] = identity,
) -> Tensor:
    """Entropy term, optional: lower for confident assignments and for uniform use of the codes.

    Mean entropy of the soft assignments minus the entropy of their mean, as in MaskGIT's quantizer. For a part of a
    batch, ``over_batch`` turns the mean over the part into the mean over all ``batch_size`` images; losses and
    gradients of equal parts then average to those of the whole batch.
    """
    log_p = soft_assignments(quantized, codebook, batch_size or quantized.features.shape[0], temperature)
    with _full_precision(log_p.device):
        p = log_p.exp()
        mean = p.mean(0)
        # d(sum m log m) = sum (log m) dm, since the dm sum to zero: log m can be held constant.
        log_mean = over_batch(mean.detach()).clamp(min=1e-12).log()
        return -(p * log_p).sum(-1).mean() + (mean * log_mean).sum()
