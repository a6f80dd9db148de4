"""Equation 5, and the stratification report that judges a tokenizer.

Perplexity saturates when measured over few tokens: over a batch it says little, so it is counted here over at least
a hundred tokens per code, the same number at each level, and the training log keeps the per-batch figure apart.
"""

from __future__ import annotations

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
        Each level's ``perplexity``, ``usage`` (share of codes used), ``tokens`` counted for them; the ``overlap``
        (share of used codes that both levels use); PSNR in dB of the full image, the top alone, the bottom or the
        top exchanged between images, and the thumbnails of the grids.
    """
    names = ("top", "bottom") if tokenizer.levels == 2 else ("tokens",)
    counts = [torch.zeros(size, dtype=torch.int64) for size in codebook_sizes]
    sums: dict[str, float] = {}
    numbers: dict[str, int] = {}
    total = 0

    def add(name: str, images: Images, others: Images) -> None:
        sums[name] = sums.get(name, 0.0) + float(peak_signal_to_noise(images, others).sum())
        numbers[name] = numbers.get(name, 0) + images.shape[0]

    for images in batches:
        batch = images.shape[0]
        tokens = tokenizer.encode(images)
        # The same number of tokens at each level: the bottom gives as many as the top has, from all over its grid.
        length = tokens.levels[0].shape[1] * tokens.levels[0].shape[2]
        for count, grid in zip(counts, tokens.levels, strict=True):
            flat = grid.flatten(1)
            sample = flat[:, permutation(flat.shape[1], 0)[:length].to(flat.device)]
            count += torch.bincount(sample.flatten().cpu(), minlength=count.shape[0])
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
    for name, count in zip(names, counts, strict=True):
        report[f"perplexity_{name}"] = float(perplexity(count))
        report[f"usage_{name}"] = float((count > 0).double().mean())
        report[f"tokens_counted_{name}"] = int(count.sum())
    report["tokens_per_code"] = float(counts[0].sum()) / max(codebook_sizes)
    if tokenizer.levels == 2 and shared:
        used = [count > 0 for count in counts]
        report["overlap"] = float((used[0] & used[1]).sum() / (used[0] | used[1]).sum())
    report.update({name: value / numbers[name] for name, value in sums.items()})
    return report
