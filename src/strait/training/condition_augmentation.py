"""Equation 6: the bottom trains on top tokens that are partly predicted by the top transformer.

A share of the true top tokens is masked and replaced by samples of the top transformer, in one forward pass (the paper
does not say how many). The paper finds no gain (Table 9), so it is off by default. Source: StraIT appendix C.
"""

from __future__ import annotations

import torch
from torch import Tensor

from strait.randomness import gumbel, key, uniform, uniform_ids
from strait.types import Bind, Canvas, Condition, Grid

_CHOOSE, _DRAW = 41, 42


@torch.no_grad()
def augmented_condition(bind: Bind, tokens: Tensor, grid: Grid, labels: Tensor, share: float, keys: Tensor) -> Tensor:
    """The true top tokens, with a share replaced by predictions.

    Args:
        bind: of the top transformer.
        tokens: int64 ``[batch, length]``, the true top tokens (Y^t).
        grid: (h, w) of the tokens.
        labels: int64 ``[batch]``, as the bottom gets them.
        share: of each sample's tokens, in [0, 1]; the count is rounded to the nearest integer.
        keys: int64 ``[batch]``, random keys.

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
