"""Stratified iterative decoding: the loop over levels, coarse to fine, each conditioned on all before it.

MaskGIT is this loop with one level, StraIT and the cascade have two, and the upsampler adds two more.
Source: StraIT section 3.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from strait.decoding.config import DecodingConfig
from strait.decoding.guidance import Guided
from strait.decoding.iterative import decode_level
from strait.types import Canvas, Condition, DecodingStep, Level, Sampling, Tokens


def stratified_decode(
    levels: Sequence[Level],
    labels: Tensor,
    seeds: Tensor,
    config: DecodingConfig | Sequence[DecodingConfig],
    canvases: Sequence[Canvas] | None = None,
) -> Iterator[DecodingStep]:
    """Fill every level's canvas in turn.

    Args:
        levels: coarse to fine.
        labels: int64 ``[batch]``; ``NULL_LABEL`` for none.
        seeds: int64 ``[batch]``, one per image (``randomness.image_seeds``).
        config: settings of all rows, or one for each row; these can differ in steps, temperature and guidance.
        canvases: to start each level from; blank by default. Known tokens never change.

    Yields:
        Every step of every level; the last step of a level has its final tokens.

    Raises:
        ValueError: if the settings or canvases do not fit the levels.
    """
    rows, config = config_rows(config, len(labels)), shared_config(config)
    if len(config.steps) != len(levels):
        raise ValueError(
            f"decoding.steps: {config.steps} gives {len(config.steps)} levels, the model has {len(levels)}"
        )
    if canvases is None:
        canvases = [Canvas.blank(labels.shape[0], level.grid, labels.device) for level in levels]
    shapes = [(canvas.tokens.shape[0], canvas.grid) for canvas in canvases]
    expected = [(labels.shape[0], level.grid) for level in levels]
    if shapes != expected:
        raise ValueError(f"canvases: (batch, grid) {shapes} must be {expected}")
    context: tuple[Tensor, ...] = ()
    guided = any(row.guidance != 0 for row in rows)
    for number, (level, canvas) in enumerate(zip(levels, canvases, strict=True)):
        network = Guided(level.bind, Condition(labels, context), guided=guided)
        sampling = level_sampling(seeds, rows, number)
        for step in decode_level(network, canvas, sampling, level.name, number, config, level.draw_rows):
            canvas = step.canvas
            yield step
        context = (*context, canvas.as_grid())


def shared_config(config: DecodingConfig | Sequence[DecodingConfig]) -> DecodingConfig:
    """The settings that the rows of a batch share: schedule, keep, ramp and the number of levels.

    Steps are the largest of each level; temperature and guidance are those of the first row (``level_sampling`` has
    each row's).

    Raises:
        ValueError: if rows differ in more than steps, temperature and guidance.
    """
    if isinstance(config, DecodingConfig):
        return config
    first = config[0]
    for row in config:
        alike = replace(row, steps=first.steps, temperature=first.temperature, guidance=first.guidance) == first
        if not alike or len(row.steps) != len(first.steps):
            raise ValueError(
                "decoding: rows of one batch may differ only in steps, temperature and guidance, "
                f"not as {first} and {row}"
            )
    return replace(first, steps=tuple(map(max, zip(*(row.steps for row in config), strict=True))))


def config_rows(config: DecodingConfig | Sequence[DecodingConfig], batch: int) -> Sequence[DecodingConfig]:
    """The settings of every row of a batch."""
    rows = [config] * batch if isinstance(config, DecodingConfig) else config
    if len(rows) != batch:
        raise ValueError(f"decoding: there are settings for {len(rows)} rows, but the batch has {batch}")
    return rows


def level_sampling(seeds: Tensor, config: DecodingConfig | Sequence[DecodingConfig], level: int) -> Sampling:
    """The settings of each row of a batch at the first step of a level; ``seeds`` int64 ``[batch]``."""
    rows = config_rows(config, len(seeds))

    def tensor(values: list[float], dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.tensor(values, dtype=dtype, device=seeds.device)

    return Sampling(
        step=torch.zeros_like(seeds),
        num_steps=tensor([row.steps[level] for row in rows], torch.int64),
        temperature=tensor([row.temperature[level] for row in rows]),
        guidance=tensor([row.guidance for row in rows]),
        seed=seeds,
    )


def final_tokens(steps: Iterator[DecodingStep], watch: Callable[[DecodingStep], None] | None = None) -> Tokens:
    """Run the loop to its end and return the tokens of all levels; ``watch`` is called with every step."""
    grids: dict[str, Tensor] = {}
    for step in steps:
        if watch is not None:
            watch(step)
        grids[step.level] = step.canvas.as_grid()
    return Tokens(tuple(grids.values()))
