"""Perceptual distances behind one interface: VGG-LPIPS, features of EfficientNet, of a trained classifier or of a
TorchScript network, or none.

Source: StraIT equation 2 (L_Perc).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strait.tokenizer.classifier import Classifier
from strait.tokenizer.efficientnet import EfficientNetFeatures
from strait.types import Images

Perceptual = Callable[[Images, Images], Tensor]
"""(reconstructions, images) in [-1, 1] -> a scalar, differentiable in the first."""


def _nothing(reconstructions: Images, images: Images) -> Tensor:
    return reconstructions.new_zeros(())


def normalised_distance(features: list[Tensor], targets: list[Tensor]) -> Tensor:
    """Mean squared distance of channel-normalised features ``[batch, c, ...]``, the mean over layers: LPIPS without
    its learned weights."""
    distances = [
        (F.normalize(feature, dim=1) - F.normalize(target, dim=1)).square().sum(1).mean()
        for feature, target in zip(features, targets, strict=True)
    ]
    return torch.stack(distances).mean()


class StageDistance(nn.Module):
    """The distance of a frozen network's features at all its stages, in float32."""

    def __init__(self, network: Classifier | EfficientNetFeatures) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def features(self, images: Images) -> list[Tensor]:
        """Images ``[batch, 3, height, width]`` in [-1, 1] -> one ``[batch, c, h, w]`` for each stage."""
        with torch.autocast(images.device.type, enabled=False):
            return self.network.features(images.float())

    def forward(self, reconstructions: Images, images: Images) -> Tensor:
        with torch.no_grad():
            targets = self.features(images)
        return normalised_distance(self.features(reconstructions), targets)


class FeatureDistance(nn.Module):
    """Mean squared distance of channel-normalised features.

    Args:
        network: images ``[batch, 3, height, width]`` in 0..255 -> features ``[batch, c, ...]``, or a tuple or list
            whose first item is such features or a list of them.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()
        for parameter in network.parameters():  # TorchScript has no requires_grad_ of its own
            parameter.requires_grad_(False)

    def _features(self, images: Images) -> list[Tensor]:
        outputs = self.network((images.float() + 1) * 127.5)
        first = outputs if isinstance(outputs, Tensor) else outputs[0]
        return [first] if isinstance(first, Tensor) else list(first)

    def forward(self, reconstructions: Images, images: Images) -> Tensor:
        with torch.no_grad():
            targets = self._features(images)
        return normalised_distance(self._features(reconstructions), targets)


def _lpips() -> nn.Module:
    try:
        import torchvision  # noqa: F401  (torchmetrics itself would import it too late for a clear message)
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    except Exception as error:  # a torchvision for another build of torch can raise any exception
        raise ValueError(
            f"tokenizer_training.perceptual: 'lpips' needs a working torchvision ({error}); "
            "pip install 'strait[eval]' torchvision, or choose 'efficientnet', 'classifier', a TorchScript file or "
            "'none'"
        ) from error
    try:
        return LearnedPerceptualImagePatchSimilarity(net_type="vgg", normalize=False)
    except Exception as error:
        raise ValueError(
            f"tokenizer_training.perceptual: the VGG weights of 'lpips' could not be downloaded ({error}); "
            "connect once, or choose 'efficientnet', 'classifier', a TorchScript file or 'none'"
        ) from error


class _Lpips(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.metric = _lpips().requires_grad_(False)

    def forward(self, reconstructions: Images, images: Images) -> Tensor:
        return self.metric(reconstructions.float().clamp(-1, 1), images.float())


def build_perceptual(choice: str, device: torch.device, classifier: Classifier | None = None) -> Perceptual:
    """The perceptual distance that a setting names.

    Args:
        choice: ``efficientnet``, ``classifier``, ``lpips`` (VGG, needs torchvision), ``none``, or the path of a
            TorchScript network. A TorchScript file is code that is run: use only files that you trust.
        device: where to compute.
        classifier: the trained network for ``classifier``.

    Raises:
        ValueError: if the network is missing or cannot be loaded.
    """
    if choice == "none":
        return _nothing
    if choice == "lpips":
        return _Lpips().to(device)
    if choice == "classifier":
        if classifier is None:
            raise ValueError("tokenizer_training.perceptual: 'classifier' needs a trained classifier")
        return StageDistance(classifier.to(device))
    if choice == "efficientnet":
        return StageDistance(EfficientNetFeatures().to(device))
    path = Path(choice)
    if not path.is_file():
        raise ValueError(
            f"tokenizer_training.perceptual: {choice!r} is neither 'efficientnet', 'classifier', 'lpips', 'none' nor "
            "a file"
        )
    warnings.warn(f"{path} is TorchScript, which is code: it runs with your rights", stacklevel=2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            network = torch.jit.load(str(path), map_location=device)
    except RuntimeError as error:
        raise ValueError(f"tokenizer_training.perceptual: {path} is not a TorchScript network") from error
    return FeatureDistance(network)
