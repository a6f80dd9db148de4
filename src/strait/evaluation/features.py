"""Feature networks for scores: the Inception network of the FID, EfficientNet-Lite1, or a user's TorchScript file.

Scores of different networks are not comparable, so each network has a name and a hash that reports state.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from strait.pictures.images import as_bytes, from_bytes
from strait.runtime.messages import first_line, library_needed
from strait.tokenizer import efficientnet
from strait.types import Images

INCEPTION = "inception-v3-compat"
"""The name of the network on which published FIDs are based."""


class FeatureError(ValueError):
    """A feature network or its features cannot be used."""


@dataclass(frozen=True)
class Features:
    """The features of a set of images.

    Attributes:
        values: float32 ``[images, width]``.
        logits: float32 ``[images, classes]``; None if the network has none, and then there is no Inception score.
        indices: int64 ``[images]``, indices of the images in their source; None for 0, 1, ...
    """

    values: Tensor
    logits: Tensor | None
    indices: Tensor | None = None

    def __len__(self) -> int:
        return self.values.shape[0]


class FeatureNetwork(Protocol):
    """Images to features."""

    @property
    def name(self) -> str: ...

    @property
    def digest(self) -> str:
        """Twelve hexadecimal digits that identify the network's weights."""
        ...

    @property
    def resize(self) -> str:
        """How the network resizes its input, in words."""
        ...

    def __call__(self, images: Images) -> Features: ...


class TorchScriptFeatures:
    """A TorchScript file: images in 0..255 -> features, or (features, logits)."""

    resize = "the network's own"

    def __init__(self, path: Path, device: torch.device) -> None:
        self.name = path.name
        print(f"--features: {path} contains code that is run; use only files you trust", file=sys.stderr)
        try:
            content = path.read_bytes()
            self._network = torch.jit.load(str(path), map_location=device).eval()
        except FileNotFoundError as error:
            raise FeatureError(f"--features: there is no file {path}") from error
        except (OSError, RuntimeError, ValueError) as error:
            raise FeatureError(f"--features: {path} is not a TorchScript file ({first_line(error)})") from error
        self._device = device
        self.digest = hashlib.sha256(content).hexdigest()[:12]

    @torch.no_grad()
    def __call__(self, images: Images) -> Features:
        try:
            output = self._network(as_bytes(images).to(self._device).float())
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise FeatureError(
                f"--features: {self.name} does not accept {list(images.shape)} images ({reason})"
            ) from error
        values, logits = output if isinstance(output, tuple | list) and len(output) == 2 else (output, None)
        if not isinstance(values, Tensor) or values.ndim != 2 or len(values) != len(images):
            shape = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise FeatureError(f"--features: {self.name} must return features [batch, width], not {shape}")
        return Features(values.float().cpu(), None if logits is None else logits.float().cpu())


class InceptionFeatures:
    """The Inception network of the FID with its original weights: 2048 features and the logits of 1008 classes."""

    name = INCEPTION
    resize = "the network's own (bilinear to 299x299, as in the FID's original)"

    def __init__(self, device: torch.device) -> None:
        try:
            import torch_fidelity
            from torch_fidelity.utils import create_feature_extractor
        except Exception as error:  # torchvision built for another torch raises a RuntimeError when imported
            raise FeatureError(
                f"--features: inception needs {library_needed(error, 'inception')}; or pass a TorchScript file"
            ) from error
        try:
            self._network: Any = create_feature_extractor(
                self.name, ["2048", "logits_unbiased"], cuda=device.type == "cuda", verbose=False
            )
        except Exception as error:
            raise FeatureError(
                "--features: the weights of inception could not be downloaded "
                f"({first_line(error)}); they are downloaded once"
            ) from error
        self._device = device
        self.digest = weights_digest(self._network.state_dict())
        self.resize = f"{self.resize}; torch-fidelity {torch_fidelity.__version__}"

    @torch.no_grad()
    def __call__(self, images: Images) -> Features:
        values, logits = self._network(as_bytes(images).to(self._device))
        return Features(values.float().cpu(), logits.float().cpu())


class EfficientNetFeatures:
    """EfficientNet-Lite1 with ImageNet weights: the spatial means of the 320 channels of its last stage.

    Training may use its smaller variant, Lite0 (``tokenizer_training.perceptual``), but never the network that scores.
    """

    name = "efficientnet-lite1"
    resize = "bilinear to 240x240"

    def __init__(self, device: torch.device) -> None:
        try:
            self._network = efficientnet.EfficientNetFeatures("lite1").to(device)
        except ValueError as error:
            raise FeatureError(f"--features: {error}") from error
        self._device = device
        self.digest = weights_digest(self._network.state_dict())

    @torch.no_grad()
    def __call__(self, images: Images) -> Features:
        pixels = from_bytes(as_bytes(images).to(self._device))
        pixels = torch.nn.functional.interpolate(pixels, (240, 240), mode="bilinear", align_corners=False)
        return Features(self._network.features(pixels)[-1].mean((2, 3)).cpu(), None)


def weights_digest(weights: Mapping[str, Tensor]) -> str:
    """Twelve hexadecimal digits of the hash of the names, shapes and values of weights."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:12]


def open_features(name: str, device: torch.device) -> FeatureNetwork:
    """Load a feature network: ``inception``, ``efficientnet``, or the path of a TorchScript file.

    Raises:
        FeatureError: if it is not available; the message says what to do.
    """
    if name == "efficientnet":
        return EfficientNetFeatures(device)
    return InceptionFeatures(device) if name == "inception" else TorchScriptFeatures(Path(name), device)
