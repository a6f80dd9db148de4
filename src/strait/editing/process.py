"""The decoding process: the image after each step, the model's confidence, and the tokens it would change at the end.

While the top is decoded, a fixed random bottom replaces the missing one. Source: StraIT section 4.4, Figure 5;
appendix (limitations), Figure 13 A.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from strait.editing.confidence import redraw
from strait.model.strait import StraIT
from strait.randomness import key
from strait.types import Canvas, Condition, DecodingStep, Images, Tokens

_BOTTOM_STREAM = 33


@dataclass(frozen=True)
class Frame:
    """One decoding step as pictures.

    Attributes:
        level: the level's name.
        index: the step, from 0.
        num_steps: steps of the level, at most its number of unknown tokens.
        image: ``[batch, 3, size, size]`` in [-1, 1], decoded from all tokens drawn so far.
        confidence: ``[batch, h, w]`` in [0, 1]: the probability of each token drawn at this step, 1 for known tokens.
        masked: bool ``[batch, h, w]``, the tokens that will be drawn again.
    """

    level: str
    index: int
    num_steps: int
    image: Images
    confidence: Tensor
    masked: Tensor


def random_grids(model: StraIT, batch: int, seed: int) -> list[Tensor]:
    """Random tokens for every level of the tokenizer, int64 ``[batch, h, w]``, equal for all images."""
    grids, sizes = model.config.grids, model.config.level_codebook_sizes
    return [
        _ids(seed, level, grids[level], sizes[level]).to(model.device).expand(batch, -1, -1)
        for level in range(model.config.tokenizer.num_levels)
    ]


def _ids(seed: int, level: int, grid: tuple[int, int], size: int) -> Tensor:
    positions = torch.arange(grid[0] * grid[1])
    return (key(seed, _BOTTOM_STREAM, level, positions) % size).reshape(1, *grid)


def frames(model: StraIT, steps: Iterable[DecodingStep], seed: int = 0) -> Iterator[Frame]:
    """Decode the image of every step of the tokenizer's levels, lazily.

    Args:
        model: that decodes.
        steps: of ``StraIT.decoding_steps``, from generation or from any edit.
        seed: of the random tokens that replace levels not yet begun.
    """
    tokens: list[Tensor] = []
    names = model.config.level_names
    for step in steps:
        level = names.index(step.level)
        grid = step.canvas.as_grid()
        tokens = tokens or random_grids(model, len(grid), seed)
        tokens[level] = grid
        yield Frame(
            step.level,
            step.index,
            step.num_steps,
            model.decode(Tokens(tuple(tokens))),
            step.confidence.exp().view_as(grid),
            step.canvas.masked.view_as(grid),
        )


@dataclass(frozen=True)
class Redrawing:
    """How stable each token of one level is at the end of decoding; tensors are ``[batch, h, w]``.

    Attributes:
        level: the level's name.
        kept_at: the step, from 0, after which the token was kept for good; -1 if it was known from the start.
        confidence: its probability when it was drawn; 1 if it was known from the start.
        change: probability, in [0, 1], that redrawing it alone, given all others, changes it.
        expected: the same probability for a token drawn given all others; a higher ``change`` marks an early error.
    """

    level: str
    kept_at: Tensor
    confidence: Tensor
    change: Tensor
    expected: Tensor


def redrawings(
    model: StraIT, canvases: Sequence[Canvas], steps: Iterable[DecodingStep], labels: Tensor, guidance: float = 0.0
) -> list[Redrawing]:
    """Redraw every token at the end of decoding, to find early tokens that turned out unlikely.

    Args:
        model: that decoded.
        canvases: the initial canvases; blank for generation.
        steps: all decoding steps.
        labels: int64 ``[batch]``, as in decoding.
        guidance: as in decoding.
    """
    by_level: dict[str, list[DecodingStep]] = {}
    for step in steps:
        by_level.setdefault(step.level, []).append(step)
    levels = {level.name: level for level in model.levels()}
    context: tuple[Tensor, ...] = ()
    results: list[Redrawing] = []
    for canvas, (name, level_steps) in zip(canvases, by_level.items(), strict=True):
        grid = level_steps[-1].canvas.as_grid()
        kept_at, confidence = _history(canvas, level_steps)
        log_p, agree = redraw(levels[name], grid, Condition(labels, context), guidance)
        results.append(Redrawing(name, kept_at.view_as(grid), confidence.view_as(grid), 1 - log_p.exp(), 1 - agree))
        context = (*context, grid)
    return results


def _history(canvas: Canvas, steps: Sequence[DecodingStep]) -> tuple[Tensor, Tensor]:
    """For each token ``[batch, length]``, the step that kept it and its probability at that step."""
    kept_at, confidence = torch.full_like(canvas.tokens, -1), torch.ones_like(steps[0].confidence)
    for step in steps:
        kept = step.predicted & ~step.canvas.masked
        kept_at = kept_at.masked_fill(kept, step.index)
        confidence = torch.where(kept, step.confidence.exp(), confidence)
    return kept_at, confidence


def redrawing_table(levels: Sequence[Redrawing]) -> list[dict[str, object]]:
    """A row for each level and step that kept tokens: their number, mean confidence and mean chance of change."""
    rows: list[dict[str, object]] = []
    for level in levels:
        for step in level.kept_at.unique().tolist():
            chosen = level.kept_at == step
            rows.append(
                {
                    "level": level.level,
                    "step": int(step),
                    "tokens": int(chosen.sum()),
                    "confidence": float(level.confidence[chosen].mean()),
                    "change": float(level.change[chosen].mean()),
                    "expected": float(level.expected[chosen].mean()),
                }
            )
    return rows
