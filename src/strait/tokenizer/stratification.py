"""The stratification report: which level of a tokenizer carries what.

Perplexity saturates when measured over few tokens: over a batch it says little. So it is counted here over all images
that are given, over the same number of tokens at each level, and the report says how many that is per code: below a
hundred it comes out too low. The training log keeps the per-batch figure apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from strait.randomness import permutation
from strait.tokenizer.perplexity import perplexity, perplexity_error
from strait.types import Images, Tokenizer, Tokens


def peak_signal_to_noise(images: Images, others: Images) -> Tensor:
    """PSNR in dB of each image ``[batch]``, for values in [-1, 1] (a peak of 2)."""
    error = (images - others).square().flatten(1).mean(1).clamp(min=1e-10)
    return 10 * torch.log10(4 / error)


def thumbnail(images: Images, grid: tuple[int, int]) -> Images:
    """The yardstick of a level: the images averaged down to its grid, and smoothly up again."""
    small = F.adaptive_avg_pool2d(images, grid)
    return F.interpolate(small, size=images.shape[-2:], mode="bicubic", align_corners=False).clamp(-1, 1)


@dataclass(frozen=True)
class Decoded:
    """What a tokenizer gives back of a batch.

    Attributes:
        images: ``[batch, 3, height, width]`` in [-1, 1], from all levels.
        top_alone: the same from the top alone; None for one level.
    """

    images: Images
    top_alone: Images | None


class Stratification:
    """Gathers batch by batch what each level carries.

    Args:
        tokenizer: of one or two levels.
        codebook_sizes: ids of each level.
        shared: whether the levels share one codebook, and so can overlap.
    """

    def __init__(self, tokenizer: Tokenizer, codebook_sizes: tuple[int, ...], shared: bool) -> None:
        self.tokenizer, self.codebook_sizes, self.shared = tokenizer, codebook_sizes, shared
        self.images = 0
        self._names = ("top", "bottom") if tokenizer.levels == 2 else ("tokens",)
        self._codes: list[list[Tensor]] = [[] for _ in codebook_sizes]
        self._ratios: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def add(self, images: Images) -> Decoded:
        """Tokenize and decode a batch, and count it.

        Args:
            images: on the tokenizer's device, in no order of classes, several to a batch: levels are exchanged within
                it, and a batch of one image has nothing to exchange.
        """
        tokens = self.tokenizer.encode(images)
        self.images += len(images)
        self._count_codes(tokens)
        decoded = Decoded(self.tokenizer.decode(tokens), self._top_alone(tokens))
        self._compare("psnr", images, decoded.images)
        for name, grid in zip(self._names, tokens.levels, strict=True):
            self._compare(f"psnr_{name}_thumbnail", images, thumbnail(images, (grid.shape[1], grid.shape[2])))
        if decoded.top_alone is not None:
            self._compare("psnr_top_alone", images, decoded.top_alone)
            if len(images) > 1:
                for level, name in ((1, "bottom"), (0, "top")):
                    self._compare(f"psnr_{name}_shuffled", images, self.tokenizer.decode(_exchanged(tokens, level)))
        return decoded

    def report(self) -> dict[str, float]:
        """Which level carries what.

        Returns:
            The number of ``images``; each level's ``perplexity``, ``usage`` (share of codes used), ``tokens_counted``
            for them, and how many those are for each code of the larger codebook (``tokens_per_code``); the
            ``overlap`` (share of used codes that both levels use); PSNR in dB of the full image, the top alone, the
            bottom or the top exchanged between images, and the thumbnails of the grids. Beside each perplexity and
            PSNR, from two images on, its sampling error (``psnr_error`` ...).

        Raises:
            ValueError: if there were no images.
        """
        if not self.images:
            raise ValueError("stratification report: there are no images")
        report: dict[str, float] = {"images": self.images}
        counts: list[Tensor] = []
        for name, size, codes in zip(self._names, self.codebook_sizes, self._codes, strict=True):
            samples = torch.cat(codes).long()
            count = torch.bincount(samples.flatten(), minlength=size)
            counts.append(count)
            report[f"perplexity_{name}"] = float(perplexity(count))
            if self.images > 1:
                report[f"perplexity_{name}_error"] = perplexity_error(samples, size)
            report[f"usage_{name}"] = float((count > 0).double().mean())
            report[f"tokens_counted_{name}"] = int(count.sum())
        report["tokens_per_code"] = float(counts[0].sum()) / max(self.codebook_sizes)
        if self.tokenizer.levels == 2 and self.shared:
            used_by_top, used_by_bottom = (count > 0 for count in counts)
            report["overlap"] = float((used_by_top & used_by_bottom).sum() / (used_by_top | used_by_bottom).sum())
        for name, parts in self._ratios.items():
            ratios = torch.cat(parts)
            report[name] = float(ratios.mean())
            if len(ratios) > 1:
                report[f"{name}_error"] = float(ratios.std()) / math.sqrt(len(ratios))
        return report

    def _top_alone(self, tokens: Tokens) -> Images | None:
        return self.tokenizer.decode(tokens, levels=1) if self.tokenizer.levels == 2 else None

    def _count_codes(self, tokens: Tokens) -> None:
        # The same number of tokens at each level: the bottom gives as many as the top has, from all over its grid.
        length = tokens.levels[0].shape[1] * tokens.levels[0].shape[2]
        for codes, grid in zip(self._codes, tokens.levels, strict=True):
            flat = grid.flatten(1)
            # Four bytes each: those of a large data set are held until the end.
            codes.append(flat[:, permutation(flat.shape[1], 0)[:length].to(flat.device)].int().cpu())

    def _compare(self, name: str, images: Images, others: Images) -> None:
        self._ratios.setdefault(name, []).append(peak_signal_to_noise(images, others).double().cpu())


def _exchanged(tokens: Tokens, level: int) -> Tokens:
    """Tokens of which each image has its neighbour's at a level: none keeps its own."""
    levels = list(tokens.levels)
    levels[level] = levels[level].roll(1, 0)
    return Tokens(tuple(levels))


def stratification_report(
    tokenizer: Tokenizer, codebook_sizes: tuple[int, ...], batches: Iterable[Images], shared: bool
) -> dict[str, float]:
    """``Stratification`` of all batches.

    Raises:
        ValueError: if there are no images.
    """
    stratification = Stratification(tokenizer, codebook_sizes, shared)
    for images in batches:
        stratification.add(images)
    return stratification.report()
