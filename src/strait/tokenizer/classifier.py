"""A small convolutional classifier of the training classes: a tokenizer may be judged by its features.

Beyond the paper, whose perceptual loss needs a network trained elsewhere; this one knows nothing but the photographs
that the tokenizer itself is trained on.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from strait.nn.convolution import ResidualBlock, downsample, group_norm
from strait.tokenizer.config import ClassifierConfig
from strait.types import Images


class Classifier(nn.Module):
    """Images ``[batch, 3, height, width]`` in [-1, 1] -> logits ``[batch, classes]``.

    The stem halves the resolution, and so does each stage after the first. A mean over the last stage's positions
    makes it fit any size that can be halved that often.

    Args:
        config: widths and depths.
        num_classes: to tell apart.
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
        """What each stage makes of the images, ``[batch, c, h, w]`` from half their size down."""
        x = self.stem(images)
        found: list[Tensor] = []
        for index, stage in enumerate(self.stages):
            x = stage(x if index == 0 else downsample(x))
            found.append(x)
        return found

    def forward(self, images: Images) -> Tensor:
        last = F.silu(self.norm(self.features(images)[-1]))
        return self.head(last.mean((2, 3)))
