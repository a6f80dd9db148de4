"""The stratification report: how much each level of a tokenizer carries.

Perplexity over few tokens, such as those of a batch, is biased low. Here it is measured over all given images, with
the same number of tokens at each level; the report has the number of tokens per code, and below a hundred the bias
matters. The per-batch perplexity is in the training log.
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


def peak_signal_to_noise(images: Images, reconstructions: Images) -> Tensor:
    """PSNR in dB of each image ``[batch]``, for values in [-1, 1] (a peak of 2)."""
    error = (images - reconstructions).square().flatten(1).mean(1).clamp(min=1e-10)
    return 10 * torch.log10(4 / error)


def thumbnail(images: Images, grid: tuple[int, int]) -> Images:
    """A baseline for a level: the images averaged down to its grid, then upsampled (bicubic)."""
    small = F.adaptive_avg_pool2d(images, grid)
    return F.interpolate(small, size=images.shape[-2:], mode="bicubic", align_corners=False).clamp(-1, 1)


@dataclass(frozen=True)
class Decoded:
    """A tokenizer's reconstructions of a batch.

    Attributes:
        images: ``[batch, 3, height, width]`` in [-1, 1], from all levels.
        top_alone: the same from the top only; None for one level.
    """

    images: Images
    top_alone: Images | None


class Stratification:
    """Accumulates the report over batches.

    Args:
        tokenizer: of one or two levels.
        codebook_sizes: number of codes of each level.
        shared: whether the levels share a codebook, so that their codes can overlap.
    """

    def __init__(self, tokenizer: Tokenizer, codebook_sizes: tuple[int, ...], shared: bool) -> None:
        self.tokenizer, self.codebook_sizes, self.shared = tokenizer, codebook_sizes, shared
        self.images = 0
        self._names = ("top", "bottom") if tokenizer.levels == 2 else ("tokens",)
        self._codes: list[list[Tensor]] = [[] for _ in codebook_sizes]
        self._ratios: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def add(self, images: Images) -> Decoded:
        """Tokenize, decode and count a batch.

        Args:
            images: on the tokenizer's device, with classes mixed: levels are exchanged between the images of a batch
                (not in a batch of one image).
        """
        tokens = self.tokenizer.encode(images)
        self.images += len(images)
        self._count_codes(tokens)
        top_alone = self.tokenizer.decode(tokens, levels=1) if self.tokenizer.levels == 2 else None
        decoded = Decoded(self.tokenizer.decode(tokens), top_alone)
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
        """The scores over all batches.

        Returns:
            The number of ``images``; each level's ``perplexity``, ``usage`` (share of codes used) and
            ``tokens_counted``; ``tokens_per_code`` of the larger codebook; ``overlap`` (share of used codes that both
            levels use); PSNR in dB of the full image, of the top only, with the bottom or the top exchanged between
            images, and of the thumbnails. With two images or more, the sampling error of each perplexity and PSNR
            (``psnr_error`` ...).

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

    def _count_codes(self, tokens: Tokens) -> None:
        # The same number of tokens at each level: as many as the top has, at random positions of the bottom.
        length = tokens.levels[0].shape[1] * tokens.levels[0].shape[2]
        for codes, grid in zip(self._codes, tokens.levels, strict=True):
            flat = grid.flatten(1)
            # int32, since the tokens of the whole data set are held until the end.
            codes.append(flat[:, permutation(flat.shape[1], 0)[:length].to(flat.device)].int().cpu())

    def _compare(self, name: str, images: Images, reconstructions: Images) -> None:
        self._ratios.setdefault(name, []).append(peak_signal_to_noise(images, reconstructions).double().cpu())


def _exchanged(tokens: Tokens, level: int) -> Tokens:
    """Tokens in which each image has those of its neighbour at a level."""
    levels = list(tokens.levels)
    levels[level] = levels[level].roll(1, 0)
    return Tokens(tuple(levels))


def stratification_report(
    tokenizer: Tokenizer, codebook_sizes: tuple[int, ...], batches: Iterable[Images], shared: bool
) -> dict[str, float]:
    """The ``Stratification.report`` of all batches.

    Raises:
        ValueError: if there are no images.
    """
    stratification = Stratification(tokenizer, codebook_sizes, shared)
    for images in batches:
        stratification.add(images)
    return stratification.report()
