"""Code noise: in training, the decoder sees some tokens replaced by similar ones, as if a transformer had drawn them.

Beyond the paper. Source: RobustTok, which perturbs latent tokens so that errors of sampling cost less.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from strait.randomness import key, uniform
from strait.tokenizer.quantizer import Codebook, Quantized

_NEAR = 32
"""A token is replaced by one of so many nearest codes."""


@dataclass(frozen=True)
class CodeNoise:
    """The noise of a batch.

    Args:
        shares: of the tokens of each sample to replace, ``[batch]`` in [0, 1].
        keys: of the random choices, int64 ``[batch]``.
    """

    shares: Tensor
    keys: Tensor

    def values(self, codebook: Codebook, quantized: Quantized, level: int) -> Tensor:
        """The values of a level with noise, ``[batch, code_dim, h, w]``; the gradient is that without noise."""
        if codebook.bypass:
            return quantized.values
        ids = noisy_ids(codebook, quantized.ids, self.shares, key(self.keys, level))
        return quantized.values + (codebook.embed(ids) - codebook.embed(quantized.ids)).detach()

    def chunk(self, pieces: int) -> list[CodeNoise]:
        """The noise of consecutive pieces of the batch."""
        parts = zip(self.shares.chunk(pieces), self.keys.chunk(pieces), strict=True)
        return [CodeNoise(shares, keys) for shares, keys in parts]


@torch.no_grad()
def noisy_ids(codebook: Codebook, ids: Tensor, shares: Tensor, keys: Tensor) -> Tensor:
    """Ids ``[batch, h, w]``, each replaced with its sample's probability by one of the codes nearest to it, never by
    itself; ``shares`` and ``keys`` are ``[batch]``."""
    flat = ids.flatten(1)
    places = torch.arange(flat.shape[1], device=ids.device)
    replaced = uniform(key(keys[:, None], 0, places)) < shares[:, None]
    codes = codebook.codes.detach()
    count = min(_NEAR, len(codes) - 1)
    distances = torch.cdist(codes[flat[replaced]], codes)
    distances.scatter_(1, flat[replaced][:, None], torch.inf)
    near = distances.topk(count, largest=False).indices
    picks = (uniform(key(keys[:, None], 1, places))[replaced] * count).long().clamp(max=count - 1)
    return flat.masked_scatter(replaced, near.gather(1, picks[:, None])).view_as(ids)


def noise_shares(uniforms: Tensor, largest: float) -> Tensor:
    """The share of each sample: 0 for a third of them, otherwise uniform up to ``largest``; from uniform numbers."""
    return largest * (1.5 * uniforms - 0.5).clamp(min=0)
