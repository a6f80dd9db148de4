"""Equation 2: what stage 1 minimises, and the adversary's side of it.

L_VQ = L_Adv + L_Perc + L_Commit(Y^b, Y^t), beside a pixel loss and the codebook's own. Every term is measured on
images in [0, 1], as in MaskGIT, so that the paper's weights carry over to our images in [-1, 1].
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
    """Mean absolute or squared error per value, for images taken to [0, 1]."""
    difference = (reconstructions.float() - images.float()) / 2
    return difference.abs().mean() if kind == "l1" else difference.square().mean()


def generator_loss(fake_logits: Tensor, kind: AdversarialLoss) -> Tensor:
    """L_Adv: the tokenizer wants its reconstructions called real."""
    return F.softplus(-fake_logits).mean() if kind == "non-saturating" else -fake_logits.mean()


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, kind: AdversarialLoss) -> Tensor:
    """The adversary wants to tell them apart."""
    if kind == "non-saturating":
        return F.softplus(-real_logits).mean() + F.softplus(fake_logits).mean()
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def over_heads(loss: Callable[..., Tensor], *logits: list[Tensor]) -> Tensor:
    """A loss of logits, averaged over the heads of a discriminator: a head counts the same whatever its resolution."""
    return torch.stack([loss(*of_head) for of_head in zip(*logits, strict=True)]).mean()


def adversarial_ramp(progress: float, start: float, ramp: float) -> float:
    """The share of the adversarial weight at a given progress of training: 0 before ``start``, 1 from
    ``start + ramp`` on, linear between. A discriminator that starts at once ruins reconstructions.
    """
    if progress < start:
        return 0.0
    return min(1.0, (progress - start) / ramp) if ramp > 0 else 1.0


def lecam_penalty(real_logits: Tensor, fake_logits: Tensor, real_mean: Tensor, fake_mean: Tensor) -> Tensor:
    """LeCAM, optional: holds logits near the running mean of the other side, for training on few images."""
    return F.relu(real_logits - fake_mean).square().mean() + F.relu(real_mean - fake_logits).square().mean()


def bottom_kept(uniform: Tensor, dropout: float) -> Tensor:
    """Which samples keep their bottom, bool ``[batch]``, from numbers in (0, 1)."""
    return torch.ge(uniform, dropout)
