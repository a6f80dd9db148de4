"""Settings of the tokenizer's networks, and of the classifier for its perceptual loss (no torch here)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

_MOST_BLOCKS, _MOST_RESOLUTIONS, _LARGEST_WIDTH = 100, 16, 2**28
"""More are a mistake: a block costs memory before its weights do, and no product of two widths may overflow."""

LARGEST_IMAGE = 2**16
"""Pixels a side; the area of a larger one is beyond what any transformer here could hold positions of."""

TokenizerKind = Literal["vqgan2-r", "vqgan2-c-deep", "vqgan2-c-shallow", "vqgan", "cascade"]


@dataclass(frozen=True)
class TokenizerConfig:
    """A stratified tokenizer (VQGAN2) or its single-scale baseline (VQGAN). Defaults are the paper's Table 11.

    Args:
        kind: fusion of the levels: vqgan2-r (stratified residual fusion), vqgan2-c-deep (the same stem, then
            concatenation), vqgan2-c-shallow (VQVAE-2's concatenation); vqgan (a single scale); or cascade (Table 6:
            two separate VQGANs, the fine one without the last multiplier).
        channels: width of the first layers.
        multipliers: width of each resolution, in multiples of ``channels``; f is ``patch * 2^(number of multipliers
            - 1)``.
        res_blocks: residual blocks at each resolution and in the middle.
        decoder_blocks: the same for the decoder; none uses ``res_blocks``.
        patch: side in pixels of the squares that become input channels (space to depth), a power of two. 1 starts at
            full resolution, as in the paper; with 4 nearly all work is in wide convolutions at a quarter of the
            resolution, which suits a CPU.
        stem_blocks: residual blocks of the latent conditional layer, between the top codes and the bottom features
            (vqgan2 only).
        codebook_size: number of codes; of the top only if the bottom has its own codebook.
        bottom_codebook_size: number of codes of a separate bottom codebook (Table 8); none shares the top's. A cascade
            always has two codebooks, by default of the same size.
        code_dim: width of a code.
        normalize_codes: compare features and codes after L2 normalisation.
        zero_init_bottom: the bottom's projection into the decoder starts at zero (vqgan2-r only).
    """

    kind: TokenizerKind = "vqgan2-r"
    channels: int = 128
    multipliers: tuple[int, ...] = (1, 1, 2, 2, 4)
    res_blocks: int = 2
    decoder_blocks: int | None = None
    patch: int = 1
    stem_blocks: int = 3
    codebook_size: int = 8192
    bottom_codebook_size: int | None = None
    code_dim: int = 32
    normalize_codes: bool = False
    zero_init_bottom: bool = True

    def __post_init__(self) -> None:
        if self.kind not in get_args(TokenizerKind):
            raise ValueError(f"tokenizer.kind: {self.kind!r} is not one of {', '.join(get_args(TokenizerKind))}")
        for name in ("channels", "res_blocks", "stem_blocks", "codebook_size", "code_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"tokenizer.{name}: {getattr(self, name)} must be at least 1")
        if self.decoder_blocks is not None and self.decoder_blocks < 1:
            raise ValueError(f"tokenizer.decoder_blocks: {self.decoder_blocks} must be at least 1")
        for name in ("res_blocks", "stem_blocks", "decoder_blocks"):
            if (getattr(self, name) or 1) > _MOST_BLOCKS:
                raise ValueError(f"tokenizer.{name}: {getattr(self, name)} must be at most {_MOST_BLOCKS}")
        if self.patch < 1 or self.patch & (self.patch - 1):
            raise ValueError(f"tokenizer.patch: {self.patch} must be a power of two")
        if len(self.multipliers) > _MOST_RESOLUTIONS:
            raise ValueError(
                f"tokenizer.multipliers: {len(self.multipliers)} of them are too many, at most {_MOST_RESOLUTIONS}"
            )
        if len(self.multipliers) < (2 if self.kind == "vqgan" else 3) or min(self.multipliers) < 1:
            raise ValueError(
                f"tokenizer.multipliers: {self.multipliers} must be positive, two or more (three for two levels)"
            )
        if max(self.channels * max(self.multipliers), self.code_dim) > _LARGEST_WIDTH:
            raise ValueError(
                "tokenizer.channels: their product with the largest of the multipliers, and code_dim, must be at most "
                f"{_LARGEST_WIDTH}"
            )
        if self.bottom_codebook_size is not None and self.bottom_codebook_size < 1:
            raise ValueError(f"tokenizer.bottom_codebook_size: {self.bottom_codebook_size} must be at least 1")
        if max(self.codebook_sizes) > 65536:
            raise ValueError(f"tokenizer.codebook_size: {max(self.codebook_sizes)} is more than 65536 codes")
        if self.kind == "vqgan" and self.bottom_codebook_size is not None:
            raise ValueError("tokenizer.bottom_codebook_size: a single-scale vqgan has no bottom level")

    @property
    def downsampling(self) -> int:
        """f of the top (or only) level: the side of a token in pixels."""
        return self.patch * 2 ** (len(self.multipliers) - 1)

    @property
    def num_levels(self) -> int:
        """Number of token grids of an image: 1 or 2."""
        return 1 if self.kind == "vqgan" else 2

    @property
    def fuses(self) -> bool:
        """Whether the bottom is brought into the decoder that pixels come from: not by two separate VQGANs."""
        return self.kind not in ("vqgan", "cascade")

    @property
    def shared_codebook(self) -> bool:
        """Whether both levels use one codebook."""
        return self.kind != "cascade" and self.num_levels == 2 and self.bottom_codebook_size is None

    @property
    def codebook_sizes(self) -> tuple[int, ...]:
        """Number of codes of each level, coarse to fine."""
        if self.num_levels == 1:
            return (self.codebook_size,)
        return (self.codebook_size, self.bottom_codebook_size or self.codebook_size)

    def grids(self, image_size: int) -> tuple[tuple[int, int], ...]:
        """The token grids of a square image, coarse to fine.

        Raises:
            ValueError: if the downsampling does not divide the size.
        """
        if image_size > LARGEST_IMAGE:
            raise ValueError(f"image_size: {image_size} must be at most {LARGEST_IMAGE}")
        if image_size < 1 or image_size % self.downsampling:
            raise ValueError(f"image_size: {image_size} is not a multiple of the downsampling {self.downsampling}")
        side = image_size // self.downsampling
        return tuple((side * 2**level, side * 2**level) for level in range(self.num_levels))


@dataclass(frozen=True)
class ClassifierConfig:
    """A classifier of the training classes for a tokenizer's perceptual loss.

    Args:
        channels: width of the first stage, at half the image's size.
        multipliers: width of each stage, in multiples of ``channels``; each stage after the first halves the
            resolution.
        res_blocks: residual blocks of each stage.
    """

    channels: int = 32
    multipliers: tuple[int, ...] = (1, 2, 4, 6)
    res_blocks: int = 1

    def __post_init__(self) -> None:
        if self.channels < 1 or self.res_blocks < 1 or not self.multipliers or min(self.multipliers) < 1:
            raise ValueError(f"classifier: {self} must have channels, multipliers and res_blocks of at least 1")

    @property
    def smallest_image(self) -> int:
        """Side in pixels of the smallest image that can be halved in every stage."""
        return 2 ** len(self.multipliers)
