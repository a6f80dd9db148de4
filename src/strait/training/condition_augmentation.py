"""Equation 6: the bottom trains on top tokens that the top transformer has partly predicted itself.

A share of the true top tokens is masked, and the top's own draws take their place, in one forward pass (the paper
leaves open how many). The paper finds no gain in it (Table 9), so it is off by default. Source: StraIT appendix C.
"""

from __future__ import annotations

import torch
from torch import Tensor

from strait.randomness import gumbel, key, uniform, uniform_ids
from strait.types import Bind, Canvas, Condition, Grid

_CHOOSE, _DRAW = 41, 42


@torch.no_grad()
def augmented_condition(bind: Bind, tokens: Tensor, grid: Grid, labels: Tensor, share: float, keys: Tensor) -> Tensor:
    """The true top tokens with some of them predicted anew.

    Args:
        bind: of the top transformer.
        tokens: int64 ``[batch, length]``, the true ones (Y^t).
        grid: their (h, w).
        labels: int64 ``[batch]``, as the bottom sees them.
        share: of each sample's tokens, in [0, 1]; the count is rounded to the nearest.
        keys: int64 ``[batch]``, which decide all draws.

    Returns:
        int64 ``[batch, length]`` (the paper's Y^t with a tilde).
    """
    count = round(share * tokens.shape[1])
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    scores = uniform(key(key(keys, _CHOOSE)[:, None], positions))
    masked = scores.argsort(-1).argsort(-1) < count
    logits = bind(Condition(labels))(Canvas(tokens, masked, grid)).float()
    draws = uniform_ids(key(key(keys, _DRAW)[:, None], positions), logits.shape[-1])
    return torch.where(masked, (logits + gumbel(draws)).argmax(-1), tokens)
