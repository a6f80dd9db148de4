"""Equation 2: the terms of stage 1's loss, and the adversary's loss.

L_VQ = L_Adv + L_Perc + L_Commit(Y^b, Y^t), with a pixel loss and the codebook's losses. Pixel terms are in units of
images in [0, 1], as in MaskGIT, so that the paper's weights apply to our images in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from strait.types import Images

PixelLoss = Literal["l1", "l2"]
AdversarialLoss = Literal["non-saturating", "hinge"]


def pixel_loss(reconstructions: Images, images: Images, kind: PixelLoss) -> Tensor:
    """Mean absolute or squared error per value, in units of images in [0, 1]."""
    difference = (reconstructions.float() - images.float()) / 2
    return difference.abs().mean() if kind == "l1" else difference.square().mean()


def generator_loss(fake_logits: Tensor, kind: AdversarialLoss) -> Tensor:
    """L_Adv, the tokenizer's loss: low if reconstructions are classified as real."""
    return F.softplus(-fake_logits).mean() if kind == "non-saturating" else -fake_logits.mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, kind: AdversarialLoss) -> Tensor:
    """The discriminator's loss: low if real and fake images are classified correctly."""
    if kind == "non-saturating":
        return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def over_heads(loss: Callable[..., Tensor], *logits: list[Tensor]) -> Tensor:
    """A loss of logits, averaged over the heads of a discriminator with equal weights, whatever their resolution."""
    return torch.stack([loss(*head_logits) for head_logits in zip(*logits, strict=True)]).mean()


def adversarial_ramp(progress: float, start: float, ramp: float) -> float:
    """The share of the adversarial weight at a progress of training: 0 before ``start``, 1 from ``start + ramp`` on,
    linear between. A discriminator that is active from the first step ruins reconstructions."""
    if progress < start:
        return 0.0
    return min(1.0, (progress - start) / ramp) if ramp > 0 else 1.0


def lecam_penalty(real_logits: Tensor, fake_logits: Tensor, real_mean: Tensor, fake_mean: Tensor) -> Tensor:
    """LeCAM, optional: holds logits near the running mean of the opposite class, for training on few images."""
    return F.relu(real_logits - fake_mean).square().mean() + F.relu(real_mean - fake_logits).square().mean()


def bottom_kept(uniform: Tensor, dropout: float) -> Tensor:
    """Which samples keep their bottom, bool ``[batch]``, from uniform numbers in (0, 1)."""
    return torch.ge(uniform, dropout)
