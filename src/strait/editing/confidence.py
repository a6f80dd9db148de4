"""The confidence of a transformer in each token, given all other tokens: every token is masked and predicted alone.

Parallel decoding keeps a token by what was known when it was drawn; here everything else is known.
Source: StraIT appendix (limitations), Figure 13 A.
"""

from __future__ import annotations

import torch
from torch import Tensor

from strait.decoding.guidance import Guided
from strait.types import Canvas, Condition, Level


@torch.no_grad()
def redraw(
    level: Level, tokens: Tensor, condition: Condition, guidance: float = 0.0, batch_size: int = 64
) -> tuple[Tensor, Tensor]:
    """Predict each token with only that token masked.

    Args:
        level: the level whose network predicts.
        tokens: int64 ``[batch, h, w]``, all known.
        condition: labels and coarser grids of the batch.
        guidance: as in decoding.
        batch_size: canvases per forward pass; there is one canvas for each token.

    Returns:
        The log-probability of each token, float ``[batch, h, w]`` (a new draw would differ with probability 1 - p),
        and the probability that two new draws agree, of the same shape.
    """
    batch, height, width = tokens.shape
    length = height * width
    rows = torch.arange(batch * length, device=tokens.device)
    flat = tokens.reshape(batch, length)
    log_probabilities: list[Tensor] = []
    agreements: list[Tensor] = []
    for chunk in rows.split(batch_size):
        image, position = chunk // length, chunk % length
        masked = torch.arange(length, device=tokens.device) == position[:, None]
        canvas = Canvas(flat[image], masked, (height, width))
        network = Guided(
            level.bind,
            Condition(condition.labels[image], tuple(grid[image] for grid in condition.context)),
            guided=guidance != 0,
        ).at(torch.full(image.shape, guidance, device=tokens.device))
        log_p = network(canvas, position[:, None])[:, 0].float().log_softmax(-1)
        log_probabilities.append(log_p.gather(-1, flat[image, position][:, None])[:, 0])
        agreements.append(log_p.exp().square().sum(-1))
    return torch.cat(log_probabilities).view_as(tokens), torch.cat(agreements).view_as(tokens)
