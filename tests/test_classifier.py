"""The classifier of the training classes: what it learns, what a tokenizer's perceptual loss makes of it, and what is
said where it cannot be had."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from strait.cli import main
from strait.config import Config, config_names, config_path, read_config
from strait.model.strait import StraIT
from strait.randomness import key
from strait.tokenizer.classifier import Classifier
from strait.tokenizer.config import ClassifierConfig
from strait.tokenizer.perceptual import StageDistance, build_perceptual
from strait.training.classifier_loop import crop_windows, random_crops
from test_resume import environment, finish, wait_for_checkpoint

TINY = ClassifierConfig(channels=8, multipliers=(1, 2, 2))
SMALL = ["--classifier.channels", "8", "--classifier.multipliers", "[1, 2, 2]", "--data.shift", "2"]


def pictures(seed: int, size: int = 16) -> Tensor:
    return torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def classifier(config: ClassifierConfig = TINY, classes: int = 4) -> Classifier:
    torch.manual_seed(0)
    return Classifier(config, classes)


def naive_group_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, groups: int) -> np.ndarray:
    out = np.empty_like(x)
    each = x.shape[0] // groups
    for group in range(groups):
        some = slice(group * each, (group + 1) * each)
        out[some] = (x[some] - x[some].mean()) / np.sqrt(x[some].var() + 1e-6)
    return out * weight[:, None, None] + bias[:, None, None]


def naive_convolution(x: np.ndarray, weight: np.ndarray, stride: int = 1) -> np.ndarray:
    margin = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin)))
    side = x.shape[1] // stride
    out = np.zeros((weight.shape[0], side, side))
    for down in range(side):
        for right in range(side):
            window = padded[:, down * stride :, right * stride :][:, : weight.shape[2], : weight.shape[3]]
            out[:, down, right] = (weight * window).sum((1, 2, 3))
    return out


def naive_features(network: Classifier, image: np.ndarray) -> list[np.ndarray]:
    """One image ``[3, size, size]``, in float64, in loops over pixels; one block a stage."""
    weights = {name: value.detach().double().numpy() for name, value in network.named_parameters()}

    def swish(x: np.ndarray) -> np.ndarray:
        return x / (1 + np.exp(-x))

    x = naive_convolution(image, weights["stem.weight"], stride=2) + weights["stem.bias"][:, None, None]
    features = []
    for stage in range(len(network.stages)):
        if stage:
            x = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
        block = {
            n.removeprefix(f"stages.{stage}.0."): v for n, v in weights.items() if n.startswith(f"stages.{stage}.")
        }
        hidden = x
        for half in ("1", "2"):
            groups = len(hidden) // 4
            hidden = swish(naive_group_norm(hidden, block[f"norm{half}.weight"], block[f"norm{half}.bias"], groups))
            hidden = naive_convolution(hidden, block[f"conv{half}.weight"])
        x = hidden + (naive_convolution(x, block["shortcut.weight"]) if "shortcut.weight" in block else x)
        features.append(x)
    return features


def naive_distance(network: Classifier, made: Tensor, images: Tensor) -> float:
    stages = []
    for index in range(len(network.stages)):
        squares = []
        for first, second in zip(made.double().numpy(), images.double().numpy(), strict=True):
            mine, goal = naive_features(network, first)[index], naive_features(network, second)[index]
            for place in np.ndindex(*mine.shape[1:]):
                vector, target = mine[(slice(None), *place)], goal[(slice(None), *place)]
                squares.append(
                    ((vector / np.sqrt((vector**2).sum()) - target / np.sqrt((target**2).sum())) ** 2).sum()
                )
        stages.append(np.mean(squares))
    return float(np.mean(stages))


def test_the_distance_is_that_of_a_naive_second_implementation() -> None:
    network = classifier()
    with torch.no_grad():  # norms and biases that do something
        for value in network.parameters():
            value.add_(0.1 * torch.randn(value.shape))
    distance = StageDistance(network)(pictures(1), pictures(2))
    assert float(distance) == pytest.approx(naive_distance(network, pictures(1), pictures(2)), rel=1e-5)
    assert float(StageDistance(network)(pictures(1), pictures(1))) == 0


def test_the_gradient_reaches_the_images_and_not_the_classifier() -> None:
    network = classifier().train()
    distance = build_perceptual("classifier", torch.device("cpu"), network)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    reconstructions, images = pictures(1).requires_grad_(), pictures(2).requires_grad_()
    distance(reconstructions, images).backward()
    assert reconstructions.grad is not None
    assert all(float(gradient.abs().max()) > 0 for gradient in reconstructions.grad)
    assert images.grad is None
    assert not network.training
    assert all(not value.requires_grad and value.grad is None for value in network.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    nearer = distance(
        reconstructions.detach() - 0.01 * reconstructions.grad / reconstructions.grad.abs().max(), images
    )
    assert float(nearer) < float(distance(reconstructions, images).detach())


def test_the_distance_is_taken_in_float32_whatever_surrounds_it() -> None:
    distance = StageDistance(classifier())
    expected = distance(pictures(1), pictures(2))
    with torch.autocast("cpu", torch.bfloat16):
        value = distance(pictures(1), pictures(2))
    assert value.dtype == torch.float32
    assert float(value) == float(expected)


@pytest.mark.parametrize("size", [32, 64, 128, 256])
def test_features_of_every_size_there_is_a_configuration_for(size: int) -> None:
    with torch.device("meta"):
        network, images = Classifier(ClassifierConfig(), 200), torch.zeros(2, 3, size, size)
        features = network.features(images)
        assert network(images).shape == (2, 200)
    assert [tuple(stage.shape[1:]) for stage in features] == [
        (width, size // halving, size // halving) for width, halving in ((32, 2), (64, 4), (128, 8), (192, 16))
    ]


def test_a_pass_over_64_pixels_is_cheap() -> None:
    with torch.device("meta"):
        network, images = Classifier(ClassifierConfig(), 200), torch.zeros(1, 3, 64, 64)
    with FlopCounterMode(display=False) as counter:
        network(images)
    assert counter.get_total_flops() / 2 <= 60e6


def test_crops_are_windows_of_the_image() -> None:
    keys = key(7, torch.arange(2000))
    windows = crop_windows(keys, 0.35)
    assert torch.equal(windows[5:9], crop_windows(keys[5:9], 0.35))
    down, right, height, width = windows.double().unbind(1)
    for middle, side in ((down, height), (right, width)):
        assert float((middle - side / 2).min()) >= -1e-6
        assert float((middle + side / 2).max()) <= 1 + 1e-6
    area = height * width
    assert 0.35 - 0.1 <= float(area.min()) < 0.4
    assert 0.9 < float(area.max()) <= 1
    assert 3 / 4 - 1e-5 <= float((height / width).min()) < 0.8
    assert 1.25 < float((height / width).max()) <= 4 / 3 + 1e-5
    # The pixels are those of the window: a ramp is cut to the ramp between the window's edges.
    ramp = torch.linspace(-1 + 1 / 64, 1 - 1 / 64, 64).expand(2000, 3, 64, 64)
    rows = random_crops(ramp, keys, 0.35)[:, 1, 17].double()
    places = (torch.arange(64) + 0.5) / 64
    expected = 2 * (right[:, None] + (places - 0.5) * width[:, None]) - 1
    assert float((rows - expected).abs().max()) < 0.02  # the border's half pixel
    columns = random_crops(ramp.transpose(2, 3), keys, 0.35)[:, 1, :, 17].double()
    expected = 2 * (down[:, None] + (places - 0.5) * height[:, None]) - 1
    assert float((columns - expected).abs().max()) < 0.02
    assert random_crops(ramp, keys, 1.0) is ramp


def words(photos: Path, model: Path, part: str | None, *more: str) -> list[str]:
    settings = ["--config", "smoke", "--data", str(photos), "--model", str(model), "--device", "cpu", *SMALL]
    return ["train", *([] if part is None else [part]), *settings, "--run.sample_every", "0", *more]


def log_of(model: Path, part: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (model / "runs" / part / "log.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def learned(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a classifier alone, trained on six photographs of each class and judged by the others."""
    data, model = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("models") / "model"
    for picture in photo_folder.rglob("*.jpg"):
        split = "train" if int(picture.stem) < 6 else "validation"
        target = data / split / picture.parent.name / picture.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(picture, target)
    more = ["--classifier_training.steps", "150", "--classifier_training.batch_size", "24"]
    more += ["--classifier_training.learning_rate", "1e-2", "--classifier_training.warmup_steps", "10"]
    more += ["--classifier_training.ema_decay", "0.9", "--run.sample_every", "75"]
    assert main(words(data, model, "classifier", *more)) == 0
    return model


def test_it_learns_to_tell_the_classes_apart(learned: Path) -> None:
    first, *_, last = log_of(learned, "classifier")
    assert first["loss"] > last["loss"]
    assert last["accuracy"] > 0.8
    judged = [line for line in log_of(learned, "classifier") if "validation_accuracy" in line]
    assert [line["step"] for line in judged] == [80, 150]
    assert judged[-1]["validation_accuracy"] >= 0.75  # of sixteen; one in four by chance
    assert "validation_loss" in judged[-1]


def test_killed_it_ends_with_the_same_weights(photo_folder: Path, tmp_path: Path) -> None:
    steps = ["--classifier_training.steps", "200", "--classifier_training.batch_size", "12"]
    more = [*steps, "--run.checkpoint_seconds", "0.1"]

    def command(model: Path) -> list[str]:
        return [sys.executable, "-m", "strait.cli", *words(photo_folder, model, "classifier", *more)]

    whole, model = tmp_path / "whole", tmp_path / "killed"
    finish(command(whole))
    process = subprocess.Popen(command(model), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_checkpoint(model, "classifier", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    newest = max((model / "runs" / "classifier" / "checkpoints").glob("step-*"))
    assert 0 < json.loads((newest / "state.json").read_text())["step"] < 200
    assert not (model / "classifier.safetensors").exists()
    finish(command(model))
    assert (model / "classifier.safetensors").read_bytes() == (whole / "classifier.safetensors").read_bytes()
    assert log_of(model, "classifier") == log_of(whole, "classifier")


SHORT = [word for part in ("classifier", "tokenizer", "top", "bottom") for word in (f"--{part}_training.steps", "8")]
SHORT += ["--classifier_training.batch_size", "16"]
WANTED = ["--tokenizer_training.perceptual", "classifier", *SHORT, "--tokenizer_training.codebook.start", "2"]


def test_it_is_trained_before_the_tokenizer_that_asks_for_it(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    arguments = words(photo_folder, model, None, *WANTED)
    assert main(arguments) == 0
    capsys.readouterr()
    assert [line["step"] for line in log_of(model, "classifier")] == [8]
    last = log_of(model, "tokenizer")[-1]
    assert last["perceptual"] > 0
    # No part of the model: generation and its hash know nothing of it.
    loaded = StraIT.from_pretrained(model)
    assert loaded.trained == set(loaded.config.parts) == {"tokenizer", "top", "bottom"}
    assert "classifier" not in json.loads((model / "config.json").read_text())["model"]
    (model / "classifier.safetensors").rename(tmp_path / "classifier.safetensors")
    assert StraIT.from_pretrained(model).weights_hash() == loaded.weights_hash()
    # Done is done.
    (tmp_path / "classifier.safetensors").rename(model / "classifier.safetensors")
    assert main(arguments) == 0
    messages = capsys.readouterr().err
    assert all(f"{part}: already finished" in messages for part in ("classifier", "tokenizer", "top", "bottom"))


def test_its_features_change_what_a_tokenizer_learns_and_nothing_else_does(
    photo_folder: Path, learned: Path, tmp_path: Path
) -> None:
    weights = []
    for name, choice in (("with", "classifier"), ("again", "classifier"), ("without", "none")):
        model = tmp_path / name
        shutil.copytree(learned, model)
        steps = ["--tokenizer_training.steps", "5", "--tokenizer_training.codebook.start", "2"]
        more = ["--tokenizer_training.perceptual", choice, *steps]
        assert main(words(photo_folder, model, "tokenizer", *more)) == 0
        weights.append((model / "tokenizer.safetensors").read_bytes())
        assert (model / "classifier.safetensors").read_bytes() == (learned / "classifier.safetensors").read_bytes()
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(arguments) == 2
    *before, message = capsys.readouterr().err.strip().splitlines()
    # What was found may have been said before; the error is one line, the last.
    assert message.startswith("strait: ")
    assert not any(line.startswith("strait: ") for line in before)
    return message


def test_a_missing_classifier_names_the_command(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    message = refused(words(photo_folder, model, "tokenizer", *WANTED), capsys)
    assert message.endswith(f"make it with: strait train classifier --data {photo_folder} --model {model}")
    assert not model.exists()


def test_images_without_classes_are_refused(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, picture in enumerate(photo_folder.rglob("*.jpg")):
        (tmp_path / "loose").mkdir(exist_ok=True)
        shutil.copy2(picture, tmp_path / "loose" / f"{number}.jpg")
    (tmp_path / "single").mkdir()
    shutil.copytree(photo_folder / "disc", tmp_path / "single" / "disc")
    for data, classes in (("loose", "no classes"), ("single", "one class")):
        for part in ("classifier", "tokenizer"):
            message = refused(words(tmp_path / data, tmp_path / "model", part, *WANTED), capsys)
            assert f"have {classes}, but it needs at least two" in message
    assert not (tmp_path / "model").exists()


def test_a_classifier_of_another_shape_is_refused(
    photo_folder: Path, learned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(learned, model)
    wider = ["--classifier.channels", "16", *WANTED]
    message = refused(words(photo_folder, model, "tokenizer", *wider), capsys)
    assert "classifier differs from the settings" in message
    shutil.rmtree(model / "runs" / "classifier")
    message = refused(words(photo_folder, model, "tokenizer", *wider), capsys)
    assert "classifier.safetensors does not fit" in message


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("classifier.channels", "0", "must have channels, multipliers and res_blocks of at least 1"),
        ("classifier.multipliers", "[1,1,1,1,1,1]", "6 stages need images of at least 64 pixels, not 32"),
        ("classifier_training.smallest_crop", "0", r"smallest_crop: 0.0 must lie in (0, 1]"),
        ("classifier_training.label_smoothing", "1", r"label_smoothing: 1.0 must lie in [0, 1)"),
        ("classifier_training.accumulate", "3", "3 does not divide a batch_size of 128"),
    ],
)
def test_settings_that_cannot_be_say_so(
    setting: str, value: str, message: str, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert message in refused(words(photo_folder, tmp_path / "model", "classifier", f"--{setting}", value), capsys)


def test_what_is_to_be_trained_for_a_configuration() -> None:
    asking = {name for name in config_names() if "classifier" in read_config(config_path(name)).parts}
    assert asking == {"tiny-imagenet64"}
    config = read_config(config_path("tiny-imagenet64"))
    assert config.parts == ("classifier", "tokenizer", "top", "bottom")
    assert config.model.parts == ("tokenizer", "top", "bottom")
    assert Config().parts == Config().model.parts
