"""Perceptual distances behind one interface: VGG-LPIPS, the features of EfficientNet or of a classifier of one's own,
those of any TorchScript network, or none.

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


def normalised_distance(mine: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """Mean squared distance of features ``[batch, c, ...]`` normalised over their channels; each layer counts alike.

    LPIPS without its learned weights.
    """
    distances = [
        (F.normalize(made, dim=1) - F.normalize(goal, dim=1)).square().sum(1).mean()
        for made, goal in zip(mine, wanted, strict=True)
    ]
    return torch.stack(distances).mean()


class StageDistance(nn.Module):
    """The distance of the features that a network has at all its stages, in float32; it is frozen."""

    def __init__(self, network: Classifier | EfficientNetFeatures) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def features(self, images: Images) -> list[Tensor]:
        """Images ``[batch, 3, height, width]`` in [-1, 1] -> one ``[batch, c, h, w]`` for each stage."""
        with torch.autocast(images.device.type, enabled=False):
            return self.network.features(images.float())

    def forward(self, reconstructions: Images, images: Images) -> Tensor:
        with torch.no_grad():
            goal = self.features(images)
        return normalised_distance(self.features(reconstructions), goal)


class FeatureDistance(nn.Module):
    """Mean squared distance of channel-normalised features.

    Args:
        network: images ``[batch, 3, height, width]`` in 0..255 -> features ``[batch, c, ...]``, or a tuple or list
            whose first item is that, or a list of such features.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval()
        for parameter in network.parameters():  # TorchScript has no requires_grad_ of its own
            parameter.requires_grad_(False)

    def _features(self, images: Images) -> list[Tensor]:
        out = self.network((images.float() + 1) * 127.5)
        first = out if isinstance(out, Tensor) else out[0]
        return [first] if isinstance(first, Tensor) else list(first)

    def forward(self, reconstructions: Images, images: Images) -> Tensor:
        with torch.no_grad():
            wanted = self._features(images)
        return normalised_distance(self._features(reconstructions), wanted)


def _lpips() -> nn.Module:
    try:
        import torchvision  # noqa: F401  (torchmetrics would look for it only when it is too late to say so)
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    except Exception as error:  # torchvision beside another torch build fails with whatever it likes
        raise ValueError(
            f"tokenizer_training.perceptual: 'lpips' needs a working torchvision ({error}); "
            "pip install 'strait[eval]' torchvision, or choose 'efficientnet', 'classifier', a TorchScript file or "
            "'none'"
        ) from error
    try:
        return LearnedPerceptualImagePatchSimilarity(net_type="vgg", normalize=False)
    except Exception as error:
        raise ValueError(
            f"tokenizer_training.perceptual: the VGG weights of 'lpips' could not be had ({error}); "
            "connect once, or choose 'efficientnet', 'classifier', a TorchScript file or 'none'"
        ) from error


class _Lpips(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.metric = _lpips().requires_grad_(False)

    def forward(self, reconstructions: Images, images: Images) -> Tensor:
        return self.metric(reconstructions.float().clamp(-1, 1), images.float())


def build_perceptual(choice: str, device: torch.device, classifier: Classifier | None = None) -> Perceptual:
    """The distance that a setting names.

    Args:
        choice: ``efficientnet``, ``classifier``, ``lpips`` (VGG, needs torchvision), ``none``, or the path of a
            TorchScript network. A TorchScript file is code, and is run: name only files that you trust.
        device: where to compute.
        classifier: the trained one, for the choice of that name.

    Raises:
        ValueError: if what it names cannot be had.
    """
    if choice == "none":
        return _nothing
    if choice == "lpips":
        return _Lpips().to(device)
    if choice == "classifier":
        if classifier is None:
            raise ValueError("tokenizer_training.perceptual: 'classifier' needs a classifier that has been trained")
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
