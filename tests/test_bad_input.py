"""What cannot be is a ValueError that names the setting, the value it has and what is allowed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from strait.cli import main
from strait.config import Config, config_path, read_config
from strait.data.config import DataConfig
from strait.decoding.config import SCHEDULES, DecodingConfig
from strait.decoding.masking import mask_ratio, num_masked, training_mask
from strait.model.config import ModelConfig
from strait.model.strait import StraIT, random_model
from strait.tokenizer.build import build_tokenizer
from strait.tokenizer.config import TokenizerConfig, TokenizerKind
from strait.training.config import AdversarialConfig, RunConfig, TokenizerTrainingConfig, TransformerTrainingConfig
from strait.transformer.config import TransformerConfig

SMALL = TransformerConfig(layers=1, width=16, mlp=24, heads=2)
TOKENIZER = TokenizerConfig(
    channels=8, multipliers=(1, 1, 2), res_blocks=1, stem_blocks=1, codebook_size=12, code_dim=4
)
CONFIG = ModelConfig(image_size=16, tokenizer=TOKENIZER, top=SMALL, bottom=SMALL)
CLASSES = ["goldfish", "teddy", "alp"]
KINDS = get_args(TokenizerKind)


def refused(call: Callable[[], object], *named: object) -> None:
    """The message is one line and has all of these in it."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        call()
    message = str(caught.value)
    assert "\n" not in message
    for part in named:
        assert str(part) in message, message


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random_model(CONFIG, CLASSES, seed=1).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


# Sizes that the downsampling does not divide


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0, -16, 1, 15, 18, 250])
def test_image_sizes_that_do_not_divide(kind: TokenizerKind, size: int) -> None:
    tokenizer = dataclasses.replace(TOKENIZER, kind=kind)
    bottom = SMALL if tokenizer.num_levels == 2 else None
    allowed = f"is not a multiple of the downsampling {tokenizer.downsampling}"
    refused(lambda: ModelConfig(size, tokenizer, SMALL, bottom), f"image_size: {size} {allowed}")
    refused(lambda: tokenizer.grids(size), f"image_size: {size} {allowed}")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width"), [(18, 16), (16, 18), (17, 17), (2, 2)])
def test_images_that_do_not_divide(kind: TokenizerKind, height: int, width: int) -> None:
    tokenizer = build_tokenizer(dataclasses.replace(TOKENIZER, kind=kind))
    images = torch.zeros(1, 3, height, width)
    refused(lambda: tokenizer.encode(images), "images: ", f"{height}x{width}", "multiple of the downsampling 4")


# Numbers of steps


@pytest.mark.parametrize("steps", [(0, 6), (18, 0), (-1, 6), (0,), ()])
def test_fewer_steps_than_one(steps: tuple[int, ...]) -> None:
    temperature = (1.0,) * len(steps)
    refused(lambda: DecodingConfig(steps, temperature), "decoding.steps: ", steps, "at least 1 for each level")


@pytest.mark.parametrize(("steps", "parsed"), [("0+6", "(0, 6)"), ("18+0", "(18, 0)"), ("-2+6", "(-2, 6)")])
def test_fewer_steps_than_one_on_the_command_line(
    steps: str, parsed: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "--model", str(folder), f"--steps={steps}", "--output", str(tmp_path / "out")]
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert f"decoding.steps: {parsed} must be at least 1 for each level" in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_more_steps_than_there_are_tokens_work(schedule: str) -> None:
    """The top has 16 tokens, the bottom 64."""
    model = random_model(CONFIG, CLASSES, seed=1)
    decoding = DecodingConfig(steps=(40, 70), schedule=schedule)  # type: ignore[arg-type]
    images = model.generate(["teddy"], seed=2, decoding=decoding)
    assert images.shape == (1, 3, 16, 16)
    assert torch.isfinite(images).all()


# Schedules


def test_unknown_schedules_are_refused_wherever_they_are_said(tmp_path: Path) -> None:
    every = ", ".join(SCHEDULES)
    half, four = torch.tensor([0.5]), torch.tensor([4])
    refused(lambda: mask_ratio("sinus", half, four), "schedule: 'sinus'", every)
    refused(lambda: num_masked("sinus", four - 4, four, four, four), "schedule: 'sinus'", every)
    refused(lambda: training_mask("sinus", half, torch.rand(1, 4)), "schedule: 'sinus'", every)
    refused(lambda: DecodingConfig(schedule="sinus"), "decoding.schedule: 'sinus'", every)  # type: ignore[arg-type]
    for text, setting in (
        ("decoding: {schedule: sinus}", "decoding.schedule: 'sinus'"),
        ("top_training: {mask_schedule: sinus}", "top_training.mask_schedule: 'sinus'"),
    ):
        path = tmp_path / "own.yaml"
        path.write_text(text)
        refused(lambda path=path: read_config(path), setting, every)


def test_an_unknown_schedule_of_training_is_refused() -> None:
    wrong = lambda: TransformerTrainingConfig(mask_schedule="sinus")  # type: ignore[arg-type]  # noqa: E731
    refused(wrong, "mask_schedule", "'sinus'", ", ".join(SCHEDULES))


def test_an_unknown_schedule_on_the_command_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["generate", "--model", str(folder), "--schedule", "sinus", "--output", str(tmp_path / "out")]
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert "schedule: 'sinus' is not one of" in error
    assert all(schedule in error for schedule in SCHEDULES)
    assert len(error.splitlines()) == 1


# Codebooks that are not the same in all of a model's files


def other_codes(**changes: int) -> ModelConfig:
    return dataclasses.replace(CONFIG, tokenizer=dataclasses.replace(TOKENIZER, **changes))


@pytest.mark.parametrize(
    ("part", "config", "codes", "allowed"),
    [
        ("top", other_codes(codebook_size=20), 20, 12),
        ("bottom", other_codes(codebook_size=20), 20, 12),
        ("bottom", other_codes(bottom_codebook_size=20), 20, 12),
        # 12 codes and 3 classes give an embedding of as many rows as 14 codes and 1 class.
        ("top", other_codes(codebook_size=14), 14, 12),
    ],
)
def test_transformers_of_another_codebook(
    folder: Path, tmp_path: Path, part: str, config: ModelConfig, codes: int, allowed: int
) -> None:
    """The file is named, the number of its codes, that of the tokenizer's, and the setting that says so."""
    classes = CLASSES[: len(CLASSES) + allowed - codes] if codes == 14 else CLASSES
    random_model(config, classes).save_pretrained(tmp_path / "other")
    file = folder / f"{part}.safetensors"
    file.write_bytes((tmp_path / "other" / file.name).read_bytes())
    refused(
        lambda: StraIT.from_pretrained(folder),
        f"{file} predicts {codes} codes, but the tokenizer of config.json has {allowed}",
        "tokenizer.codebook_size",
        "must be the same",
    )
    # The other files are as they were: with its own again the model loads.
    random_model(CONFIG, CLASSES, seed=1).save_pretrained(folder, parts=[part])
    assert StraIT.from_pretrained(folder).trained == {"tokenizer", "top", "bottom"}


@pytest.mark.parametrize(
    ("part", "config", "shape", "allowed"),
    [
        ("tokenizer", other_codes(codebook_size=20), [20, 4], [12, 4]),
        ("tokenizer", other_codes(code_dim=6), [12, 6], [12, 4]),
        # A bottom that predicts as many codes, guided by a top of others: codes, [MASK], three classes and none.
        ("bottom", other_codes(codebook_size=20, bottom_codebook_size=12), [25, 16], [17, 16]),
    ],
)
def test_codebooks_of_another_shape(
    folder: Path, tmp_path: Path, part: str, config: ModelConfig, shape: list[int], allowed: list[int]
) -> None:
    """Of two tables or a context the tensor is named, its shape, and the one that config.json asks for."""
    random_model(config, CLASSES).save_pretrained(tmp_path / "other")
    file = folder / f"{part}.safetensors"
    file.write_bytes((tmp_path / "other" / file.name).read_bytes())
    if part == "tokenizer" and shape[1] == 6:  # layers before and after the codebook are of another width, too
        refused(lambda: StraIT.from_pretrained(folder), f"{file} does not fit config.json: ", " instead of ")
    else:
        refused(
            lambda: StraIT.from_pretrained(folder),
            f"{file} does not fit config.json: ",
            f"{shape} instead of {allowed}",
        )


def test_a_stage_2_beside_the_tokenizer_of_another_model(folder: Path, tmp_path: Path) -> None:
    """The tokenizer and the description agree with each other, and the bottom with neither."""
    random_model(other_codes(bottom_codebook_size=7), CLASSES).save_pretrained(tmp_path / "other")
    for name in ("config.json", "tokenizer.safetensors"):
        (folder / name).write_bytes((tmp_path / "other" / name).read_bytes())
    refused(
        lambda: StraIT.from_pretrained(folder),
        f"{folder / 'bottom.safetensors'} predicts 12 codes, but the tokenizer of config.json has 7",
        "bottom_codebook_size",
    )


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"temperature": (float("nan"), 1.0)}, r"decoding.temperature: .*nan.* must be finite and not negative"),
        ({"temperature": (1.0, float("inf"))}, r"decoding.temperature: .*inf"),
        ({"guidance": float("nan")}, r"decoding.guidance: nan must be a finite number"),
        ({"steps": (2.5, 6)}, r"decoding.steps: \(2.5, 6\) must be"),
        ({"steps": (True, 6)}, r"decoding.steps: \(True, 6\) must be"),
    ],
)
def test_numbers_that_are_none_are_refused(settings: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        DecodingConfig(**settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("label_smoothing", 1.0),
        ("label_smoothing", float("nan")),
        ("ema_decay", -0.1),
        ("label_drop_rate", 1.5),
        ("gradient_clip", 0.0),
        ("condition_augmentation", 1.01),
        ("mask_schedule", "sinus"),
    ],
)
def test_settings_of_stage_2_name_themselves_and_their_value(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"training.{name}: '?{value}'? "):
        TransformerTrainingConfig(**{name: value})


@pytest.mark.parametrize("part", ["top", "upsampler"])
def test_conditional_augmentation_belongs_to_the_bottom(part: str) -> None:
    with pytest.raises(ValueError, match=f"{part}_training.condition_augmentation: only bottom_training supports it"):
        Config(**{f"{part}_training": TransformerTrainingConfig(condition_augmentation=0.1)})


@pytest.mark.parametrize("part", ["top", "bottom", "upsampler"])
def test_muon_needs_whole_matrices(part: str) -> None:
    settings: dict[str, Any] = {f"{part}_training": TransformerTrainingConfig(optimizer="muon")}
    assert Config(**settings).run.parallel == "ddp"
    with pytest.raises(ValueError, match=rf"{part}_training.optimizer: muon needs whole matrices; .*run.parallel"):
        Config(**settings, run=RunConfig(parallel="fsdp"))


_SMOKE = read_config(config_path("smoke"))
_ONE_LEVEL = {"bottom": None, "decoding": DecodingConfig(steps=(8,), temperature=(2.0,))}


def _changed(group: str, **settings: Any) -> dict[str, Any]:
    return {group: dataclasses.replace(getattr(_SMOKE, group), **settings)}


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({**_changed("tokenizer", kind="vqgan"), **_ONE_LEVEL}, "tokenizer_training.bottom_dropout: 0.4"),
        (_changed("tokenizer", kind="cascade"), "tokenizer_training.bottom_dropout: 0.4"),
        (
            {
                **_changed("tokenizer", kind="vqgan"),
                **_changed("tokenizer_training", bottom_dropout=0.0),
                **_changed("bottom_training", condition_augmentation=0.1),
                **_ONE_LEVEL,
            },
            "bottom_training.condition_augmentation: 0.1",
        ),
    ],
)
def test_a_setting_of_a_bottom_that_is_not_there_is_refused(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(
        ValueError, match=f"^{name} does nothing with tokenizer.kind (vqgan|cascade), .*; set it to 0$"
    ):
        dataclasses.replace(_SMOKE, **settings)


@pytest.mark.parametrize("kind", ["vqgan2-r", "vqgan2-c-deep", "vqgan2-c-shallow"])
def test_where_there_is_a_bottom_its_settings_are_taken(kind: Any) -> None:
    settings = {**_changed("tokenizer", kind=kind), **_changed("bottom_training", condition_augmentation=0.1)}
    assert dataclasses.replace(_SMOKE, **settings).tokenizer_training.bottom_dropout == 0.4


@pytest.mark.parametrize(
    ("make", "idle", "used"),
    [
        (AdversarialConfig, {"normalize": False, "kind": "projected", "r1_weight": 0.0}, {"kind": "stylegan"}),
        (AdversarialConfig, {"max_channels": 64, "kind": "projected", "r1_weight": 0.0}, {"kind": "stylegan"}),
        (TokenizerTrainingConfig, {"betas": (0.5, 0.9), "optimizer": "sgd"}, {"optimizer": "adam"}),
        (
            TokenizerTrainingConfig,
            {"adversarial": AdversarialConfig(betas=(0.0, 0.9)), "optimizer": "sgd"},
            {"optimizer": "adam"},
        ),
        (DataConfig, {"shuffle_buffer": 64}, {"streaming": True}),
        (DataConfig, {"stream_lanes": 4}, {"streaming": True}),
        (DataConfig, {"balance": 0.5, "unlabelled": True}, {"unlabelled": False}),
    ],
)
def test_a_setting_that_nothing_would_read_is_refused(make: Any, idle: dict[str, Any], used: dict[str, Any]) -> None:
    """Named by the error, and taken where something reads it."""
    name = next(iter(idle))
    with pytest.raises(ValueError, match=rf"^\w+\.{name}(\.betas)?: "):
        make(**idle)
    assert getattr(make(**{**idle, **used}), name) == idle[name]
