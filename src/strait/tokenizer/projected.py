"""A projected discriminator: small heads that tell photographs from reconstructions by an ImageNet network's features.

Beyond the paper, beside its StyleGAN discriminator. Source: Projected GAN (Sauer et al. 2021), without its random
projections; docs/choices.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm


class ProjectedDiscriminator(nn.Module):
    """One head for each stage of a frozen network, each with spectral norms.

    Args:
        widths: channels of the stages.
        channels: width of the heads.
    """

    def __init__(self, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(_Head(width, channels) for width in widths)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Features ``[batch, c, h, w]`` a stage -> logits ``[batch, h, w]`` a stage; positive means "real"."""
        return [head(stage) for head, stage in zip(self.heads, features, strict=True)]


class _Head(nn.Module):
    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.project = spectral_norm(nn.Conv2d(inputs, channels, 1))
        self.conv = spectral_norm(nn.Conv2d(channels, channels, 3, padding=1))
        self.logit = spectral_norm(nn.Conv2d(channels, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        x = F.leaky_relu(self.project(features), 0.2)
        x = F.leaky_relu(self.conv(x), 0.2)
        return self.logit(x).squeeze(1)
