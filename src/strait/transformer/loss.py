"""Equations 1, 3 and 4: one masked-token loss for every level."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

LossReduction = Literal["mean", "sum"]


def masked_token_loss(
    logits: Tensor, targets: Tensor, masked: Tensor, label_smoothing: float, reduction: LossReduction
) -> Tensor:
    """Cross-entropy of the true tokens at masked positions.

    Args:
        logits: ``[batch, length, codebook_size]``.
        targets: int64 ``[batch, length]``.
        masked: bool ``[batch, length]``; the other positions count for nothing.
        label_smoothing: in [0, 1).
        reduction: ``mean``, over each sample's masked tokens, then over the batch (MaskGIT's); ``sum``, over each
            sample's masked tokens, then the mean over the batch (the paper's equations).

    Returns:
        A scalar, float32.
    """
    losses = F.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), reduction="none", label_smoothing=label_smoothing
    ).view(targets.shape)
    weights = masked.to(losses.dtype)
    totals = (losses * weights).sum(-1)
    if reduction == "sum":
        return totals.mean()
    return (totals / weights.sum(-1).clamp(min=1)).mean()
