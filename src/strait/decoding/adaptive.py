"""Steps that adapt: as few forward passes as an image needs, and their count.

A step keeps more tokens than the schedule wants if the network is sure enough of them: in the order in which tokens
are kept, as long as their expected errors, the sum of 1 - p, stay within a bound. The Entropy-Bounded sampler
(Ben-Hamu et al. 2025) bounds a sum of entropies in the same way.
"""

from __future__ import annotations

import torch
from torch import Tensor

from strait.types import DecodingStep


def num_doubtful(scores: Tensor, log_p: Tensor, masked: Tensor, errors: Tensor) -> Tensor:
    """The number of masked tokens that must stay masked for the others to have few expected errors.

    Args:
        scores: ``[batch, length]``; the highest are kept first.
        log_p: ``[batch, length]``, log-probabilities of the drawn ids; 0 for known tokens.
        masked: bool ``[batch, length]``.
        errors: float ``[batch]``, the largest sum of 1 - p.

    Returns:
        int64 ``[batch]``.
    """
    best_first = scores.masked_fill(~masked, torch.inf).argsort(dim=-1, stable=True).flip(-1)
    return ((1 - log_p.exp()).gather(-1, best_first).cumsum(-1) > errors[:, None]).sum(-1)


class PassCount:
    """Counts the forward passes that each image of a batch needs; call it with every step.

    Attributes:
        levels: by the level's name, int64 ``[batch]``.
    """

    def __init__(self) -> None:
        self.levels: dict[str, Tensor] = {}

    def __call__(self, step: DecodingStep) -> None:
        needed = step.predicted.any(-1).long()
        self.levels[step.level] = self.levels.get(step.level, torch.zeros_like(needed)) + needed

    def rows(self) -> list[list[int]]:
        """The passes of each image at each level."""
        return torch.stack(list(self.levels.values()), 1).tolist()
