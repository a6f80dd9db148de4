"""Equation 5: perplexity, the effective number of codes in use, and its sampling error."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def perplexity(counts: Tensor) -> Tensor:
    """2 to the power of the entropy, in bits, of a distribution of codes.

    Args:
        counts: ``[..., codebook_size]``, how often each code was used; not all zero.

    Returns:
        ``[...]`` float64 in [1, codebook_size].

    Source: StraIT equation 5.
    """
    p = counts.to(torch.float64)
    p = p / p.sum(-1, keepdim=True)
    return torch.exp2(-(p * torch.log2(p.clamp(min=torch.finfo(torch.float64).tiny))).sum(-1))


def perplexity_error(samples: Tensor, codebook_size: int) -> float:
    """Standard error of a perplexity over a random sample of images, by the delta method.

    To first order, an image changes the entropy by the mean of -log p(code) over its tokens, minus the entropy. Images
    are independent; the tokens of an image are not. The bias of a small sample (too low a perplexity) is not included.

    Args:
        samples: int64 ``[images, tokens]``, the codes of at least two images.
        codebook_size: number of codes.
    """
    counts = torch.bincount(samples.flatten(), minlength=codebook_size).double()
    surprise = -torch.log((counts / counts.sum()).clamp(min=torch.finfo(torch.float64).tiny))
    means = surprise[samples].mean(1)
    return float(perplexity(counts) * means.std() / math.sqrt(len(means)))
