"""Equation 5, and the stratification report that judges a tokenizer.

Perplexity saturates when measured over few tokens: over a batch it says little. So it is counted here over all images
that are given, over the same number of tokens at each level, and the report says how many that is per code: below a
hundred it comes out too low. The training log keeps the per-batch figure apart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from strait.randomness import permutation
from strait.types import Images, Tokenizer, Tokens


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


def peak_signal_to_noise(images: Images, others: Images) -> Tensor:
    """PSNR in dB of each image ``[batch]``, for values in [-1, 1] (a peak of 2)."""
    error = (images - others).square().flatten(1).mean(1).clamp(min=1e-10)
    return 10 * torch.log10(4 / error)


def thumbnail(images: Images, grid: tuple[int, int]) -> Images:
    """The yardstick of a level: the images averaged down to its grid, and smoothly up again."""
    small = F.adaptive_avg_pool2d(images, grid)
    return F.interpolate(small, size=images.shape[-2:], mode="bicubic", align_corners=False).clamp(-1, 1)


def _shuffled(tokens: Tokens, level: int, order: Tensor) -> Tokens:
    levels = list(tokens.levels)
    levels[level] = levels[level][order]
    return Tokens(tuple(levels))


@torch.no_grad()
def stratification_report(
    tokenizer: Tokenizer,
    codebook_sizes: tuple[int, ...],
    batches: Iterable[Images],
    shared: bool,
    seen: Callable[[Images, Images], object] = lambda images, reconstructions: None,
) -> dict[str, float]:
    """Which level carries what.

    Args:
        tokenizer: of one or two levels.
        codebook_sizes: ids of each level.
        batches: images on the tokenizer's device, in no order of classes, several to a batch: levels are exchanged
            within one, and a batch of one image has nothing to exchange.
        shared: whether the levels share one codebook, and so can overlap.
        seen: called with each batch and its reconstructions: for a progress bar, or for further scores.

    Returns:
        The number of ``images``; each level's ``perplexity``, ``usage`` (share of codes used), ``tokens_counted``
        for them, and how many those are for each code of the larger codebook (``tokens_per_code``); the ``overlap``
        (share of used codes that both levels use); PSNR in dB of the full image, the top alone, the bottom or the
        top exchanged between images, and the thumbnails of the grids. Beside each perplexity and PSNR, from two
        images on, its sampling error (``psnr_error`` ...).

    Raises:
        ValueError: if there are no images.
    """
    names = ("top", "bottom") if tokenizer.levels == 2 else ("tokens",)
    seen_codes: list[list[Tensor]] = [[] for _ in codebook_sizes]
    ratios: dict[str, list[Tensor]] = {}
    total = 0

    def add(name: str, images: Images, others: Images) -> None:
        ratios.setdefault(name, []).append(peak_signal_to_noise(images, others).double().cpu())

    for images in batches:
        batch = images.shape[0]
        tokens = tokenizer.encode(images)
        # The same number of tokens at each level: the bottom gives as many as the top has, from all over its grid.
        length = tokens.levels[0].shape[1] * tokens.levels[0].shape[2]
        for codes, grid in zip(seen_codes, tokens.levels, strict=True):
            flat = grid.flatten(1)
            # Four bytes each: those of a large data set are held until the end.
            codes.append(flat[:, permutation(flat.shape[1], 0)[:length].to(flat.device)].int().cpu())
        reconstructions = tokenizer.decode(tokens)
        add("psnr", images, reconstructions)
        for name, grid in zip(names, tokens.levels, strict=True):
            add(f"psnr_{name}_thumbnail", images, thumbnail(images, (grid.shape[1], grid.shape[2])))
        if tokenizer.levels == 2:
            add("psnr_top_alone", images, tokenizer.decode(tokens, levels=1))
        if tokenizer.levels == 2 and batch > 1:
            # Each gets its neighbour's, so none keeps its own.
            order = torch.arange(batch, device=images.device).roll(1)
            add("psnr_bottom_shuffled", images, tokenizer.decode(_shuffled(tokens, 1, order)))
            add("psnr_top_shuffled", images, tokenizer.decode(_shuffled(tokens, 0, order)))
        total += batch
        seen(images, reconstructions)
    if total == 0:
        raise ValueError("stratification report: there are no images")

    report: dict[str, float] = {"images": total}
    counts = []
    for name, size, codes in zip(names, codebook_sizes, seen_codes, strict=True):
        samples = torch.cat(codes).long()
        count = torch.bincount(samples.flatten(), minlength=size)
        counts.append(count)
        report[f"perplexity_{name}"] = float(perplexity(count))
        if total > 1:
            report[f"perplexity_{name}_error"] = perplexity_error(samples, size)
        report[f"usage_{name}"] = float((count > 0).double().mean())
        report[f"tokens_counted_{name}"] = int(count.sum())
    report["tokens_per_code"] = float(counts[0].sum()) / max(codebook_sizes)
    if tokenizer.levels == 2 and shared:
        used = [count > 0 for count in counts]
        report["overlap"] = float((used[0] & used[1]).sum() / (used[0] | used[1]).sum())
    for name, parts in ratios.items():
        values = torch.cat(parts)
        report[name] = float(values.mean())
        if len(values) > 1:
            report[f"{name}_error"] = float(values.std()) / math.sqrt(len(values))
    return report
