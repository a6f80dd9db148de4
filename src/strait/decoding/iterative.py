"""Iterative decoding of one level: a pure step, and the loop around it.

Source: StraIT section 3.3, lines 1-4 (top) and the same in 5-8 (bottom); MaskGIT's decoding step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from strait.decoding.config import DecodingConfig
from strait.decoding.guidance import Guided, ramped
from strait.decoding.masking import most_masked, num_masked
from strait.decoding.sampling import confidence_scores, draw, halton_scores, lowest, masked_positions
from strait.types import Canvas, DecodingStep, Drawer, LogitsFn, Sampling


def decode_step(
    network: LogitsFn,
    canvas: Canvas,
    sampling: Sampling,
    start: Tensor,
    level: int,
    schedule: str = "cosine",
    keep: Literal["confidence", "halton"] = "confidence",
    most: int | None = None,
    by: Drawer | None = None,
) -> tuple[Canvas, Tensor, Tensor]:
    """Draw all masked tokens, keep the best, mask the rest again.

    Args:
        network: bound to its condition.
        canvas: before the step.
        sampling: each row's step and settings.
        start: int ``[batch]``, number of masked tokens on the level's first canvas.
        level: number of the level, from 0; only the noise depends on it.
        schedule: one of ``masking.SCHEDULES``.
        keep: which drawn tokens to keep.
        most: largest number of masked tokens in a row, if known: logits are then computed only at masked positions.
        by: draws the ids (``Level.draw_rows``).

    Returns:
        The new canvas, the drawn ids ``[batch, length]`` (known tokens unchanged), and the log-probability of each
        drawn id ``[batch, length]`` (0 for known tokens).
    """
    if most == 0:
        return canvas, canvas.tokens, torch.zeros(canvas.tokens.shape, device=canvas.tokens.device)
    if most is None or most == canvas.masked.shape[1]:
        ids, log_p = draw(network(canvas), sampling, level, by=by)
    else:
        positions = masked_positions(canvas.masked, most)
        masked_ids, masked_log_p = draw(network(canvas, positions), sampling, level, positions, by)
        ids = canvas.tokens.scatter(1, positions, masked_ids)
        log_p = torch.zeros_like(ids, dtype=masked_log_p.dtype).scatter(1, positions, masked_log_p)
    drawn = torch.where(canvas.masked, ids, canvas.tokens)
    log_p = log_p.masked_fill(~canvas.masked, 0.0)
    left = num_masked(schedule, sampling.step, sampling.num_steps, start, canvas.masked.sum(-1))
    if keep == "halton":
        scores = halton_scores(canvas.grid, log_p.device).expand_as(log_p)
    else:
        scores = confidence_scores(log_p, sampling, level)
    return replace(canvas, tokens=drawn, masked=lowest(scores, canvas.masked, left)), drawn, log_p


def decode_level(
    network: Guided,
    canvas: Canvas,
    sampling: Sampling,
    name: str,
    level: int,
    config: DecodingConfig,
    by: Drawer | None = None,
) -> Iterator[DecodingStep]:
    """All steps of one level; no token of the last canvas is masked.

    A row takes at most as many steps as it has masked tokens: further steps would change nothing. Rows can have
    different numbers of steps; finished rows no longer change.

    Args:
        network: bound to its condition.
        canvas: to start from: blank for generation, partly known for an edit.
        sampling: each row's settings; steps start at 0.
        name: of the level, for the yielded steps.
        level: number of the level, from 0.
        config: schedule, what to keep, and the largest number of steps of any row.
        by: draws the ids (``Level.draw_rows``).
    """
    start = canvas.masked.sum(-1)
    sampling = replace(sampling, num_steps=torch.minimum(sampling.num_steps, start.clamp(min=1)))
    # The only synchronisation with an accelerator: the steps below do not wait for it.
    most = most_masked(config.schedule, sampling.num_steps, start, config.steps[level])
    num_steps = max(1, sum(count > 0 for count in most))
    for index in range(num_steps):
        step = torch.full_like(sampling.step, index)
        guidance = ramped(sampling.guidance, step, sampling.num_steps, config.guidance_ramp)
        sampling = replace(sampling, step=step)
        canvas, drawn, log_p = decode_step(
            network.at(guidance), canvas, sampling, start, level, config.schedule, config.keep, most[index], by
        )
        yield DecodingStep(name, index, num_steps, canvas, drawn, log_p)
