"""Perceptual distances: none is nothing, a network's is a distance, and what cannot be had is said in one line."""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from strait.tokenizer.perceptual import FeatureDistance, build_perceptual

CPU = torch.device("cpu")


class Features(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 5, 3, stride=2)
        self.dropout = nn.Dropout(0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.dropout(torch.tanh(self.conv(images / 255)))


class FeaturesAndLogits(Features):
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = torch.tanh(self.conv(images / 255))
        return maps.mean((2, 3)), maps.mean((2, 3)) * 3


class SeveralLayers(Features):
    def forward(self, images: torch.Tensor) -> list[list[torch.Tensor]]:
        maps = torch.tanh(self.conv(images / 255))
        return [[maps, maps.mean((2, 3))]]


def pictures(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def scripted(network: nn.Module, path: Path) -> Path:
    torch.jit.save(torch.jit.script(network), str(path))
    return path


def check_distance(distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> None:
    images = pictures(1)
    reconstructions = pictures(2).requires_grad_()
    assert float(distance(images, images)) == 0
    value = distance(reconstructions, images)
    assert value.shape == ()
    assert float(value.detach()) > 0
    value.backward()
    assert float(reconstructions.grad.abs().max()) > 0
    # Downhill is nearer.
    nearer = distance(
        reconstructions.detach() - 0.01 * reconstructions.grad / reconstructions.grad.abs().max(), images
    )
    assert float(nearer) < float(value.detach())


def test_none_is_nothing() -> None:
    distance = build_perceptual("none", CPU)
    assert float(distance(pictures(1), pictures(2))) == 0


@pytest.mark.parametrize("network", [Features, FeaturesAndLogits, SeveralLayers])
def test_the_features_of_a_network(network: type[nn.Module]) -> None:
    module = network()
    distance = FeatureDistance(module)
    check_distance(distance)
    assert not module.training
    assert all(not p.requires_grad and p.grad is None for p in module.parameters())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("network", [Features, FeaturesAndLogits, SeveralLayers])
def test_the_features_of_a_torchscript_file(network: type[nn.Module], tmp_path: Path) -> None:
    path = scripted(network(), tmp_path / "network.pt")
    distance = build_perceptual(str(path), CPU)
    check_distance(distance)
    expected = FeatureDistance(network())(pictures(2), pictures(1))
    torch.testing.assert_close(distance(pictures(2), pictures(1)), expected)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_running_a_file_is_said(tmp_path: Path) -> None:
    path = scripted(Features(), tmp_path / "network.pt")
    with pytest.warns(UserWarning, match=r"network\.pt is TorchScript, which is code"):
        build_perceptual(str(path), CPU)


def test_the_distance_by_hand() -> None:
    class Pixels(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images

    reconstructions, images = pictures(1), pictures(2)
    # Each pixel's colour from 0 to 255 as a direction; the squared length between two, averaged over the pixels.
    first, second = ((x.double().numpy().transpose(0, 2, 3, 1) + 1) * 127.5 for x in (reconstructions, images))
    first, second = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (first, second))
    expected = ((first - second) ** 2).sum(-1).mean()
    assert float(FeatureDistance(Pixels())(reconstructions, images)) == pytest.approx(expected, rel=1e-4)


def test_the_network_gets_pixels_from_0_to_255() -> None:
    class Watching(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            assert images.dtype == torch.float32
            seen.append((float(images.min()), float(images.max())))
            return images

    seen: list[tuple[float, float]] = []
    black_and_white = torch.tensor([-1.0, 1.0]).expand(1, 3, 2, 2).bfloat16()
    FeatureDistance(Watching())(black_and_white, black_and_white)
    assert seen == [(0.0, 255.0)] * 2


def test_several_layers_count_alike() -> None:
    class Part(SeveralLayers):
        def __init__(self, layer: int) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, images: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(images)[0][self.layer]

    reconstructions, images = pictures(1), pictures(2)
    single = [float(FeatureDistance(Part(layer))(reconstructions, images)) for layer in (0, 1)]
    assert float(FeatureDistance(SeveralLayers())(reconstructions, images)) == pytest.approx(sum(single) / 2)


@pytest.mark.parametrize("choice", ["vgg", "no/such/file.pt", "."])
def test_what_is_no_file_is_said_in_one_line(choice: str) -> None:
    message = f"'{choice}' is neither 'efficientnet', 'classifier', 'lpips', 'none' nor a file"
    with pytest.raises(ValueError, match=message) as caught:
        build_perceptual(choice, CPU)
    assert "\n" not in str(caught.value)


def write_text(path: Path) -> None:
    path.write_text("hello")


def write_nothing(path: Path) -> None:
    path.write_bytes(b"")


def write_weights(path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, path)


def write_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.txt", "hello")


def write_half(path: Path) -> None:
    content = scripted(Features(), path).read_bytes()
    path.write_bytes(content[: len(content) // 2])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("write", [write_text, write_nothing, write_weights, write_zip, write_half])
def test_a_file_that_is_no_torchscript_is_said_in_one_line(write: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "network.pt"
    write(path)
    with pytest.raises(ValueError, match=r"network\.pt is not a TorchScript network") as caught:
        build_perceptual(str(path), CPU)
    assert "\n" not in str(caught.value)


def test_lpips_without_torchvision_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)  # which is as if it were not installed
    with pytest.raises(ValueError, match=r"perceptual: 'lpips' needs .*torchvision.*pip install") as caught:
        build_perceptual("lpips", CPU)
    assert "\n" not in str(caught.value)
