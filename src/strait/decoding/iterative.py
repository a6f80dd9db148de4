"""Iterative decoding of one level: a pure step, and the loop around it.

Source: StraIT section 3.3, lines 1-4 (top) and the same in 5-8 (bottom); MaskGIT's decoding step. Steps that adapt
(``adaptive.py``) and revision (``revision.py``) are not the paper's, and are imported only if they are asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

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
    config: DecodingConfig,
    most: int | None = None,
    by: Drawer | None = None,
) -> tuple[Canvas, Tensor, Tensor]:
    """Draw all masked tokens, keep the best, mask the rest again, and with a revision some kept earlier.

    A revision changes which tokens are masked after the step, not how many.

    Args:
        network: bound to its condition.
        canvas: before the step.
        sampling: each row's step and settings.
        start: int ``[batch]``, number of masked tokens on the level's first canvas.
        level: number of the level, from 0; only the noise depends on it.
        config: schedule, what to keep, quality and revision.
        most: largest number of masked tokens in a row, if known: logits are then computed only at masked positions.
        by: draws the ids (``Level.draw_rows``).

    Returns:
        The new canvas, the drawn ids ``[batch, length]`` (known tokens unchanged), and the log-probability of each
        drawn id ``[batch, length]`` (0 for known tokens).
    """
    if most == 0:
        return canvas, canvas.tokens, torch.zeros(canvas.tokens.shape, device=canvas.tokens.device)
    # The network's opinion of the kept tokens is in its logits at all positions.
    most = None if config.revise == "confidence" else most
    drawn, log_p, logits = draw_masked(network, canvas, sampling, level, most, by)
    if config.keep == "halton":
        scores = halton_scores(canvas.grid, log_p.device).expand_as(log_p)
    else:
        scores = confidence_scores(log_p, sampling, level)
    left = num_masked(config.schedule, sampling.step, sampling.num_steps, start, canvas.masked.sum(-1))
    if config.quality < 1:
        from strait.decoding.adaptive import num_doubtful

        left = torch.minimum(left, num_doubtful(scores, log_p, canvas.masked, (1 - config.quality) * start))
    if config.revise_share == 0:
        masked = lowest(scores, canvas.masked, left)
    else:
        from strait.decoding.revision import taken_back

        back = taken_back(canvas, sampling, level, left, logits, config)
        masked = lowest(scores, canvas.masked, left - back.sum(-1)) | back
    return replace(canvas, tokens=drawn, masked=masked), drawn, log_p


def draw_masked(
    network: LogitsFn, canvas: Canvas, sampling: Sampling, level: int, most: int | None, by: Drawer | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Ids drawn at masked positions (known tokens elsewhere), their log-probabilities (0 elsewhere), and the logits.

    Arguments as of ``decode_step``; the logits are those of all positions if ``most`` is None.
    """
    if most is None or most == canvas.masked.shape[1]:
        logits = network(canvas)
        ids, log_p = draw(logits, sampling, level, by=by)
    else:
        positions = masked_positions(canvas.masked, most)
        logits = network(canvas, positions)
        masked_ids, masked_log_p = draw(logits, sampling, level, positions, by)
        ids = canvas.tokens.scatter(1, positions, masked_ids)
        log_p = torch.zeros_like(ids, dtype=masked_log_p.dtype).scatter(1, positions, masked_log_p)
    return torch.where(canvas.masked, ids, canvas.tokens), log_p.masked_fill(~canvas.masked, 0.0), logits


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
        config: what ``decode_step`` needs, guidance, revision, and the largest number of steps of any row.
        by: draws the ids (``Level.draw_rows``).
    """
    start = canvas.masked.sum(-1)
    canvas = replace(canvas, given=~canvas.masked if canvas.given is None else canvas.given)
    sampling = replace(sampling, num_steps=torch.minimum(sampling.num_steps, start.clamp(min=1)))
    # The only synchronisation with an accelerator, unless the pace adapts: the steps below do not wait for it.
    most = most_masked(config.schedule, sampling.num_steps, start, config.steps[level])
    draft = max(1, sum(count > 0 for count in most))
    num_steps = draft + (config.revise_passes if config.revise_passes and canvas.free.any() else 0)
    for index in range(draft):
        if config.quality < 1 and index:
            most[index] = min(most[index], int(canvas.masked.sum(-1).max()))
            if most[index] == 0:
                break
        step = torch.full_like(sampling.step, index)
        guidance = ramped(sampling.guidance, step, sampling.num_steps, config.guidance_ramp, config.guidance_start)
        sampling, predicted = replace(sampling, step=step), canvas.masked
        canvas, drawn, log_p = decode_step(
            network.at(guidance), canvas, sampling, start, level, config, most[index], by
        )
        yield DecodingStep(name, index, num_steps, canvas, drawn, log_p, predicted)
    if num_steps > draft:
        from strait.decoding.revision import redraw_parts

        passes = redraw_parts(network.at(sampling.guidance), canvas, sampling, level, config.revise_passes, by)
        for index, (canvas, drawn, log_p, predicted) in enumerate(passes, start=draft):
            yield DecodingStep(name, index, num_steps, canvas, drawn, log_p, predicted)
