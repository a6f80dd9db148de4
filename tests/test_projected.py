"""The projected discriminator: bounded heads on features, each of which counts alike, in a step of stage 1."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from strait.config import read_config, write_config
from strait.data.job import Job
from strait.runtime.ranks import ALONE
from strait.tokenizer.config import TokenizerConfig
from strait.tokenizer.discriminator import ProjectedDiscriminator
from strait.tokenizer.efficientnet import EfficientNetFeatures
from strait.tokenizer.losses import over_heads
from strait.tokenizer.vqgan2 import StratifiedTokenizer
from strait.training.adversary import Adversary
from strait.training.config import AdversarialConfig, RunConfig, TokenizerTrainingConfig
from strait.training.tokenizer_loop import TokenizerImages, TokenizerTrainee

CPU = torch.device("cpu")
SIZE, BATCH, SHARE = 32, 4, 0.5
PROJECTED = AdversarialConfig(
    kind="projected", loss="hinge", weight=0.05, r1_weight=0.0, channels=8, learning_rate=1e-2, betas=(0.5, 0.9)
)
TRAINING = TokenizerTrainingConfig(
    steps=10, batch_size=BATCH, perceptual="efficientnet", perceptual_weight=0.5, adversarial=PROJECTED
)
SMALL = TokenizerConfig(
    channels=8, multipliers=(1, 1, 2), res_blocks=1, stem_blocks=1, codebook_size=24, code_dim=4, patch=2
)


def pictures(seed: int) -> torch.Tensor:
    return torch.rand(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def features(seed: int, widths: tuple[int, ...] = (6, 10)) -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(BATCH, width, 8 >> k, 8 >> k, generator=draw) for k, width in enumerate(widths)]


def adversary(config: TokenizerTrainingConfig = TRAINING) -> Adversary:
    torch.manual_seed(0)
    return Adversary(SIZE, config, CPU, torch.contiguous_format, ALONE, (6, 10))


def exact() -> torch.autocast:
    return torch.autocast("cpu", enabled=False)


def test_a_head_for_each_stage_whose_layers_never_stretch() -> None:
    torch.manual_seed(0)
    network = ProjectedDiscriminator((6, 10), channels=8)
    for _ in range(30):  # the power iteration of spectral norms goes on with each pass
        logits = network(features(1))
    assert [tuple(head.shape) for head in logits] == [(BATCH, 8, 8), (BATCH, 4, 4)]
    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    assert len(layers) == 6
    for layer in layers:
        largest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
        assert float(largest) == pytest.approx(1, abs=0.02)


def test_a_head_of_the_pixels_sees_squares_of_18() -> None:
    torch.manual_seed(0)
    network = ProjectedDiscriminator((6, 10), channels=8, pixels=True)
    images = pictures(1).requires_grad_()
    for _ in range(30):
        logits = network([*features(1), images])
    assert [tuple(head.shape) for head in logits] == [(BATCH, 8, 8), (BATCH, 4, 4), (BATCH, 8, 8)]
    for layer in (module for module in network.heads[-1].modules() if isinstance(module, nn.Conv2d)):
        assert float(torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)) == pytest.approx(1, abs=0.02)
    (gradient,) = torch.autograd.grad(logits[-1][0, 4, 4], images)
    rows, columns = (gradient[0].abs().sum(0).sum(axis).nonzero()[:, 0] for axis in (1, 0))
    for places in (rows, columns):
        assert places.tolist() == list(range(int(places[0]), int(places[0]) + 18))
    assert not gradient[1:].any()


def test_every_head_counts_alike_whatever_its_resolution() -> None:
    high, low = torch.full((2, 8, 8), 3.0), torch.full((2, 1, 1), -1.0)
    assert float(over_heads(torch.mean, [high, low])) == 1


def test_both_sides_minimise_the_mean_hinge_of_the_heads() -> None:
    opponent = adversary()
    opponent.network.eval()  # spectral norms then stand still
    real, fake = features(1), features(2)
    judged = opponent.judge([(real, fake)], 0, 1.0, exact)
    on_real, on_fake = opponent.logits(real), opponent.logits(fake)
    terms = [F.relu(1 - a).mean() + F.relu(1 + b).mean() for a, b in zip(on_real, on_fake, strict=True)]
    assert float(judged["discriminator"]) == pytest.approx(float(sum(terms)) / 2, rel=1e-5)
    fooled = -sum(float(head.mean()) for head in on_fake) / 2
    assert float(opponent.generator_loss(fake)) == pytest.approx(fooled, rel=1e-5)


def test_it_learns_at_its_own_rate_and_the_tokenizer_does_not_teach_it() -> None:
    opponent = adversary()
    real, fake = features(1), features(2)
    before = [value.detach().clone() for value in opponent.network.parameters()]
    for stage in fake:
        stage.requires_grad_()
    opponent.generator_loss(fake).backward()
    assert all(stage.grad is not None for stage in fake)
    assert all(value.grad is None for value in opponent.network.parameters())
    first = float(opponent.judge([(real, fake)], 0, 1.0, exact)["discriminator"])
    for step in range(40):
        opponent.learn(opponent.judge([(real, [s.detach() for s in fake])], step, 0.0, exact))
    assert opponent.trained.optimizer.param_groups[0]["lr"] == 1e-2
    assert opponent.trained.optimizer.param_groups[0]["betas"] == (0.5, 0.9)
    assert any(not torch.equal(a, b) for a, b in zip(before, opponent.network.parameters(), strict=True))
    assert float(opponent.judge([(real, [s.detach() for s in fake])], 0, 0.0, exact)["discriminator"]) < 0.7 * first


def trainee(config: TokenizerTrainingConfig) -> TokenizerTrainee:
    torch.manual_seed(0)
    return TokenizerTrainee(
        StratifiedTokenizer(SMALL),
        config,
        RunConfig(precision="float32"),
        TokenizerImages(SIZE, lambda step: iter(()), torch.zeros(1, 3, SIZE, SIZE)),
        Job(CPU),
    )


class CountsCalls(nn.Module):
    def __init__(self, network: EfficientNetFeatures) -> None:
        super().__init__()
        self.network, self.widths, self.sizes = network, network.widths, []

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        self.sizes.append((images.shape[-1], images.requires_grad))
        return self.network.features(images)


@pytest.mark.parametrize("pixels", [False, True])
@pytest.mark.parametrize("zoom", [1.0, 0.75])
def test_the_loss_of_a_step_is_equation_2_on_features_computed_once(zoom: float, pixels: bool) -> None:
    trained = trainee(dataclasses.replace(TRAINING, adversarial=dataclasses.replace(PROJECTED, pixels=pixels)))
    opponent, eyes = trained.adversary, trained.objective.judges.eyes
    assert opponent is not None
    assert eyes is trained.objective.judges.perceptual
    opponent.network.eval()
    counting = eyes.network = CountsCalls(eyes.network)  # pyright: ignore
    images = pictures(1)
    piece = trained.objective(images, torch.ones(BATCH, dtype=torch.bool), opponent, SHARE, None, zoom)
    side = round(SIZE * zoom)
    assert counting.sizes == [(side, False), (side, True)], "photographs once, reconstructions once"

    def looked_at(images: torch.Tensor) -> list[torch.Tensor]:
        if zoom != 1:
            images = F.interpolate(images, (side, side), mode="bilinear", align_corners=False)
        return [*counting.network.features(images), *([images] if pixels else [])]

    real, fake = looked_at(images), looked_at(piece.images)
    pairs = zip(real[:5], fake[:5], strict=True)
    distance = sum(float((F.normalize(a) - F.normalize(b)).square().sum(1).mean()) for a, b in pairs) / 5
    fooled = -sum(float(head.mean()) for head in opponent.logits(fake)) / (6 if pixels else 5)
    metrics = {name: float(value) for name, value in piece.metrics.items()}
    assert metrics["perceptual"] == pytest.approx(distance, rel=1e-4)
    assert metrics["adversarial"] == pytest.approx(fooled, rel=1e-4)
    pixel = float(((piece.images - images) / 2).square().mean())
    commitment = metrics["commitment"]
    total = pixel + 1.25 * commitment + 0.1 * metrics["entropy"] + 0.5 * distance + 0.05 * SHARE * fooled
    assert metrics["loss"] == pytest.approx(total, rel=1e-4)
    assert piece.views is not None
    for seen, expected in zip(piece.views, (real, fake), strict=True):
        for stage, naive in zip(seen, expected, strict=True):
            torch.testing.assert_close(stage, naive, rtol=1e-4, atol=1e-3)
            assert not stage.requires_grad


def test_the_zoom_is_drawn_anew_at_each_step_and_stays_in_bounds() -> None:
    config = TokenizerTrainingConfig(**{**vars(TRAINING), "feature_zoom": 0.2})
    trained, again = trainee(config), trainee(config)
    zooms = [trained._zoom(step) for step in range(200)]
    assert zooms == [again._zoom(step) for step in range(200)]
    assert 0.8 <= min(zooms) < 0.83 < 1.17 < max(zooms) <= 1.2
    assert [trainee(TRAINING)._zoom(step) for step in range(3)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"adversarial": {"kind": "projected"}}, "r1_weight"),
        ({"adversarial": {"pixels": True}}, "pixels"),
        ({"perceptual": "none", "feature_zoom": 0.2}, "feature_zoom"),
        ({"perceptual": "efficientnet", "feature_zoom": 1.0}, "feature_zoom"),
        ({"crop": 0}, "crop"),
        ({"adversarial": {"betas": (0.5, 1.0)}}, "betas"),
    ],
)
def test_settings_that_cannot_be_are_named(settings: dict[str, object], word: str) -> None:
    opponent = settings.pop("adversarial", {})
    with pytest.raises(ValueError, match=word):
        TokenizerTrainingConfig(adversarial=AdversarialConfig(**opponent), **settings)  # pyright: ignore


def test_a_training_on_crops_that_is_stopped_ends_with_the_same_weights(photo_folder: Path, tmp_path: Path) -> None:
    """Patches, crops, EfficientNet, a projected adversary, balanced classes: as one run and as two."""
    config = read_config(Path(__file__).parent / "crops.yaml")
    write_config(tmp_path / "crops.yaml", config)
    weights = []
    for name, stops in (("whole", [[]]), ("in-two", [["--stop-after", "0"], []])):
        model = tmp_path / name
        for stop in stops:
            words = ["--config", str(tmp_path / "crops.yaml"), "--data", str(photo_folder), "--model", str(model)]
            command = [sys.executable, "-m", "strait.cli", "train", "tokenizer", *words, *stop]
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        weights.append((model / "tokenizer.safetensors").read_bytes())
        log = [json.loads(line) for line in (model / "runs/tokenizer/log.jsonl").read_text().splitlines()]
        assert {"perceptual", "adversarial", "discriminator", "logits_real"} <= set(log[-1])
    assert weights[0] == weights[1]
