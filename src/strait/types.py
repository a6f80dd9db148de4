"""The values that flow between the parts: images, token grids, canvases, conditions and decoding steps.

    Images -> encode -> Tokens -> Canvas + Condition -> logits -> steps -> Tokens -> decode -> Images

Generation and every edit differ only in their first Canvas.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Protocol, TypeAlias

import torch
from torch import Tensor

Images: TypeAlias = Tensor
"""float ``[batch, 3, height, width]`` in [-1, 1]."""

Grid: TypeAlias = tuple[int, int]
"""Height and width of one level, in tokens."""

# The tests check dtype and shape of every field with one of these, by jaxtyping (tests/shapes.py).
GridIds: TypeAlias = Annotated[Tensor, "int batch height width"]
Ids: TypeAlias = Annotated[Tensor, "int64 batch length"]
Mask: TypeAlias = Annotated[Tensor, "bool batch length"]
Scores: TypeAlias = Annotated[Tensor, "float batch length"]
RowInts: TypeAlias = Annotated[Tensor, "int64 batch"]
RowFloats: TypeAlias = Annotated[Tensor, "float batch"]

NULL_LABEL = -1
"""The label of the null class, which label dropping trains and guidance subtracts."""


@dataclass(frozen=True)
class Tokens:
    """The token grids of a batch of images, coarse to fine.

    Attributes:
        levels: integer tensors ``[batch, h, w]``, ids in ``[0, codebook_size)`` of their level.
    """

    levels: tuple[GridIds, ...]

    def __post_init__(self) -> None:
        if not self.levels:
            raise ValueError("tokens: at least one level is needed")
        for grid in self.levels:
            if grid.ndim != 3 or grid.is_floating_point():
                raise ValueError(
                    f"tokens: each level must be integers [batch, h, w], not {grid.dtype} {tuple(grid.shape)}"
                )
        if any(grid.shape[0] != self.batch for grid in self.levels):
            raise ValueError(f"tokens: levels disagree on the batch: {[grid.shape[0] for grid in self.levels]}")

    @property
    def batch(self) -> int:
        return self.levels[0].shape[0]


class StratifiedTokens(Tokens):
    """The linked pair of a stratified tokenizer: Y^t (``top``) and Y^b (``bottom``, twice as high and wide).

    Source: StraIT section 3.1.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.levels) != 2:
            raise ValueError(f"stratified tokens have two levels, not {len(self.levels)}")
        (_, height, width), bottom = self.top.shape, self.bottom.shape
        if bottom[1:] != (2 * height, 2 * width):
            raise ValueError(
                f"stratified tokens: the bottom must be {2 * height}x{2 * width} "
                f"for a top of {height}x{width}, not {bottom[1]}x{bottom[2]}"
            )

    @property
    def top(self) -> Tensor:
        return self.levels[0]

    @property
    def bottom(self) -> Tensor:
        return self.levels[1]


class Tokenizer(Protocol):
    """The interface of stage 1: images to token grids and back."""

    @property
    def levels(self) -> int: ...

    def encode(self, images: Images) -> Tokens: ...

    def decode(self, tokens: Tokens, levels: int | None = None) -> Images: ...


@dataclass(frozen=True)
class Canvas:
    """One level of a batch while it is being filled.

    Attributes:
        tokens: int64 ``[batch, length]``; masked positions may hold any ids.
        masked: bool ``[batch, length]``; True where the token is still unknown (m_i = 1, the sets M and N).
        grid: (h, w) with ``h * w == length``.
        given: bool ``[batch, length]``; True where the user gave the token, so that no revision changes it. Known
            tokens that are not given were drawn and kept. None: all known tokens are given.
    """

    tokens: Ids
    masked: Mask
    grid: Grid
    given: Mask | None = None

    def __post_init__(self) -> None:
        if self.tokens.shape != self.masked.shape or self.tokens.shape[-1] != self.grid[0] * self.grid[1]:
            raise ValueError(
                f"canvas: tokens {tuple(self.tokens.shape)}, masked {tuple(self.masked.shape)} "
                f"and grid {self.grid} do not fit together"
            )

    @classmethod
    def blank(cls, batch: int, grid: Grid, device: torch.device | str = "cpu") -> Canvas:
        """A canvas with every token unknown, the start of generation."""
        tokens = torch.zeros(batch, grid[0] * grid[1], dtype=torch.int64, device=device)
        return cls(tokens, torch.ones_like(tokens, dtype=torch.bool), grid)

    @classmethod
    def known(cls, tokens: Tensor, masked: Tensor | None = None) -> Canvas:
        """A canvas from a grid ``[batch, h, w]`` of tokens, known except where ``masked`` (same shape) is True."""
        batch, height, width = tokens.shape
        flat = tokens.reshape(batch, -1).to(torch.int64)
        masks = torch.zeros_like(flat, dtype=torch.bool) if masked is None else masked.reshape(batch, -1)
        return cls(flat, masks, (height, width))

    @property
    def free(self) -> Tensor:
        """Where tokens may be drawn: bool ``[batch, length]``, all that are not given."""
        return self.masked if self.given is None else ~self.given

    def as_grid(self) -> Tensor:
        """The tokens as ``[batch, h, w]``."""
        return self.tokens.reshape(-1, *self.grid)


@dataclass(frozen=True)
class Condition:
    """The conditions of generating a level.

    Attributes:
        labels: int64 ``[batch]``; a class, or ``NULL_LABEL``.
        context: the coarser grids ``[batch, h, w]`` that guide this level; none for the top, the top for the bottom.
    """

    labels: RowInts
    context: tuple[GridIds, ...] = ()

    def without_label(self) -> Condition:
        """The same condition under the null class."""
        return Condition(torch.full_like(self.labels, NULL_LABEL), self.context)


class LogitsFn(Protocol):
    """A transformer bound to a condition: canvas -> logits ``[batch, length or positions, codebook_size]``."""

    def __call__(self, canvas: Canvas, positions: Tensor | None = None) -> Tensor: ...


Bind: TypeAlias = Callable[[Condition], LogitsFn]
"""Precomputes everything that depends only on the condition, for all steps."""

Drawer: TypeAlias = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""Logits ``[rows, codebook_size]`` and keys ``[rows]`` -> an id for each and its log-probability, ``[rows]``."""


@dataclass(frozen=True)
class Level:
    """One grid of tokens and the network that fills it. MaskGIT has one level, StraIT two, with U four.

    Attributes:
        name: of the level.
        grid: (h, w) of its tokens.
        codebook_size: number of ids it can predict.
        bind: of its network.
        draw_rows: draws its ids; ``decoding.sampling.draw_rows`` if None, or a compiled version of it.
    """

    name: str
    grid: Grid
    codebook_size: int
    bind: Bind
    draw_rows: Drawer | None = None


@dataclass(frozen=True)
class Sampling:
    """The decoding state of each row of a batch; rows may be at different steps and have different settings.

    Attributes:
        step: int64 ``[batch]``, from 0.
        num_steps: int64 ``[batch]``, at least 1.
        temperature: float ``[batch]``, of the noise on the confidences (not of the drawn tokens).
        guidance: float ``[batch]``; 0 for none.
        seed: int64 ``[batch]``; one per image (``randomness.image_seeds``).
    """

    step: RowInts
    num_steps: RowInts
    temperature: RowFloats
    guidance: RowFloats
    seed: RowInts


@dataclass(frozen=True)
class DecodingStep:
    """The result of a decoding step, for generation, figures, progress bars and services.

    Attributes:
        level: the level's name.
        index: the step, from 0.
        num_steps: steps of the level; fewer follow if the pace adapts (``quality``).
        canvas: after the step; ``canvas.tokens`` has the drawn id at every position, ``canvas.masked`` marks those
            still unknown.
        drawn: int64 ``[batch, length]``: the ids drawn at this step; known tokens are unchanged.
        confidence: float ``[batch, length]``: log-probability of each drawn id; 0 for known tokens.
        predicted: bool ``[batch, length]``: what was masked for this step; a row without any needed no pass.
    """

    level: str
    index: int
    num_steps: int
    canvas: Canvas
    drawn: Ids
    confidence: Scores
    predicted: Mask
