"""Equations 1, 3 and 4: one masked-token loss for every level."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

LossReduction = Literal["mean", "sum"]


def masked_token_loss(
    logits: Tensor, targets: Tensor, masked: Tensor, label_smoothing: float, reduction: LossReduction
) -> Tensor:
    """Cross-entropy of the true tokens at masked positions.

    Args:
        logits: ``[masked tokens, codebook_size]``, row by row.
        targets: int64 ``[batch, length]``.
        masked: bool ``[batch, length]``; unmasked tokens have no loss.
        label_smoothing: in [0, 1).
        reduction: over each sample's masked tokens, ``mean`` (MaskGIT) or ``sum`` (the paper's equations); then the
            mean over the batch.

    Returns:
        A scalar, float32.
    """
    losses = torch.zeros(targets.shape, device=logits.device)
    losses[masked] = F.cross_entropy(
        logits.float(), targets[masked], reduction="none", label_smoothing=label_smoothing
    )
    totals = losses.sum(-1)
    if reduction == "sum":
        return totals.mean()
    return (totals / masked.sum(-1).clamp(min=1)).mean()
