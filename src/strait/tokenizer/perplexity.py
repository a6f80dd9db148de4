"""Equation 5: perplexity, how many codes a tokenizer effectively uses, and its sampling error."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def perplexity(counts: Tensor) -> Tensor:
    """2 to the entropy, in bits, of a distribution of codes.

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
    """Standard error of a perplexity that comes from having drawn just these images, by the delta method.

    To first order an image moves the entropy by the mean of -log p(code) over its own tokens, less the entropy; the
    tokens of one image are not independent, images are. That too few tokens give too low a perplexity is not part of
    it.

    Args:
        samples: int64 ``[images, tokens]``, the codes of each image, of at least two images.
        codebook_size: ids there are.
    """
    counts = torch.bincount(samples.flatten(), minlength=codebook_size).double()
    surprise = -torch.log((counts / counts.sum()).clamp(min=torch.finfo(torch.float64).tiny))
    each = surprise[samples].mean(1)
    return float(perplexity(counts) * each.std() / math.sqrt(len(each)))
