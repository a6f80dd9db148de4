"""A small convolutional classifier of the training classes, whose features can serve a perceptual loss.

Beyond the paper, whose perceptual loss needs a pretrained network; this one is trained on the same photographs as the
tokenizer.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from strait.nn.convolution import ResidualBlock, downsample, group_norm
from strait.tokenizer.config import ClassifierConfig
from strait.types import Images


class Classifier(nn.Module):
    """Images ``[batch, 3, height, width]`` in [-1, 1] -> logits ``[batch, classes]``.

    The stem halves the resolution, and so does each stage after the first. The head takes the mean over positions, so
    any size that can be halved that often is accepted.

    Args:
        config: widths and depths.
        num_classes: number of logits.
    """

    def __init__(self, config: ClassifierConfig, num_classes: int) -> None:
        super().__init__()
        widths = [config.channels * multiplier for multiplier in config.multipliers]
        self.stem = nn.Conv2d(3, widths[0], 5, stride=2, padding=2)
        self.stages = nn.ModuleList()
        inputs = widths[0]
        for width in widths:
            blocks = [ResidualBlock(inputs if i == 0 else width, width) for i in range(config.res_blocks)]
            self.stages.append(nn.Sequential(*blocks))
            inputs = width
        self.norm = group_norm(inputs)
        self.head = nn.Linear(inputs, num_classes)

    def features(self, images: Images) -> list[Tensor]:
        """Features of each stage, ``[batch, c, h, w]``, from half the image's size down."""
        x = self.stem(images)
        features: list[Tensor] = []
        for index, stage in enumerate(self.stages):
            x = stage(x if index == 0 else downsample(x))
            features.append(x)
        return features

    def forward(self, images: Images) -> Tensor:
        last = F.silu(self.norm(self.features(images)[-1]))
        return self.head(last.mean((2, 3)))
