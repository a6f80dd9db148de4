"""How sure a transformer is of each token given all others: a re-drawing of one token at a time.

In parallel decoding a token is kept by what was known when it was drawn; this asks again when everything is known.
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
    """What would come of drawing each token again where it alone is masked.

    Args:
        level: whose network is asked.
        tokens: int64 ``[batch, h, w]``, all known.
        condition: labels, and the coarser grids, of the batch.
        guidance: as in decoding.
        batch_size: canvases at once; there is one for each token.

    Returns:
        The log-probability of each token as it stands, float ``[batch, h, w]``: one minus its exponential is how often
        the new one would differ. And the probability that two such draws agree, of the same shape.
    """
    batch, height, width = tokens.shape
    length = height * width
    rows = torch.arange(batch * length, device=tokens.device)
    flat = tokens.reshape(batch, length)
    stands: list[Tensor] = []
    agrees: list[Tensor] = []
    for some in rows.split(batch_size):
        image, place = some // length, some % length
        masked = torch.arange(length, device=tokens.device) == place[:, None]
        canvas = Canvas(flat[image], masked, (height, width))
        network = Guided(
            level.bind,
            Condition(condition.labels[image], tuple(grid[image] for grid in condition.context)),
            guided=guidance != 0,
        ).at(torch.full(image.shape, guidance, device=tokens.device))
        log_p = network(canvas, place[:, None])[:, 0].float().log_softmax(-1)
        stands.append(log_p.gather(-1, flat[image, place][:, None])[:, 0])
        agrees.append(log_p.exp().square().sum(-1))
    return torch.cat(stands).view_as(tokens), torch.cat(agrees).view_as(tokens)
