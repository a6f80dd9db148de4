"""Images of other sizes: the square is in them, every network sees only windows, and impossible sizes are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image

from strait.apps.web.stored import settings_in, stored_in
from strait.cli import main
from strait.decoding.stratified import final_tokens
from strait.editing.extension import MOST_SQUARES, blank_tokens, extend_tokens, generate_sized
from strait.model.strait import StraIT, random_model
from strait.types import DecodingStep, Tokens
from test_model_folder import CLASSES, CONFIG, SINGLE

LABELS = torch.tensor([1, 0])
SIDE = CONFIG.image_size


@pytest.fixture(scope="module")
def model() -> StraIT:
    return random_model(CONFIG, CLASSES, seed=1)


def sized_tokens(model: StraIT, size: tuple[int, int], seed: int = 5) -> Tokens:
    tokens = blank_tokens(model, size, len(LABELS))
    known = torch.zeros(tokens.levels[0].shape[1:], dtype=torch.bool)
    return extend_tokens(model, tokens, known, LABELS, seed)


def test_at_the_models_size_nothing_changes(model: StraIT) -> None:
    images = generate_sized(model, LABELS, (SIDE, SIDE), seed=5)
    assert torch.equal(images, model.generate(LABELS.tolist(), seed=5))
    single = random_model(SINGLE, CLASSES, seed=1)
    square = (SINGLE.image_size, SINGLE.image_size)
    assert torch.equal(generate_sized(single, LABELS, square, seed=5), single.generate(LABELS.tolist(), seed=5))


@pytest.mark.parametrize("size", [(SIDE, 2 * SIDE), (3 * SIDE // 2, SIDE), (2 * SIDE, 3 * SIDE)])
def test_the_square_of_the_same_seed_is_at_the_top_left(model: StraIT, size: tuple[int, int]) -> None:
    square = final_tokens(model.decoding_steps(LABELS, 5))
    for part, grid in zip(square.levels, sized_tokens(model, size).levels, strict=True):
        assert grid.shape[1:] == (part.shape[1] * size[0] // SIDE, part.shape[2] * size[1] // SIDE)
        assert torch.equal(grid[:, : part.shape[1], : part.shape[2]], part)
    assert generate_sized(model, LABELS, size, seed=5).shape == (2, 3, *size)


def test_each_window_is_an_infilling_of_what_is_known(model: StraIT) -> None:
    """A naive second implementation for twice the width: the square, half of it and a half, and again."""
    steps: list[DecodingStep] = []
    images = generate_sized(model, LABELS, (SIDE, 2 * SIDE), seed=5, watch=steps.append)
    assert {step.canvas.grid for step in steps} == set(model.config.grids)
    last = [step for step in steps if step.level == "top" and step.index == step.num_steps - 1]
    grids = [step.canvas.as_grid() for step in last]
    half = grids[0].shape[2] // 2
    assert len(grids) == 3
    for left, right in pairwise(grids):
        assert torch.equal(left[:, :, half:], right[:, :, :half])
    whole = torch.cat([grids[0], grids[1][:, :, half:], grids[2][:, :, half:]], dim=2)
    assert torch.equal(whole, sized_tokens(model, (SIDE, 2 * SIDE)).levels[0])
    assert torch.equal(images, model.decode(sized_tokens(model, (SIDE, 2 * SIDE))))


def test_an_image_depends_only_on_its_seed_and_index(model: StraIT) -> None:
    both = generate_sized(model, LABELS, (SIDE, 2 * SIDE), seed=5)
    alone = generate_sized(model, LABELS[1:], (SIDE, 2 * SIDE), seed=5, indices=torch.tensor([1]))
    assert torch.equal(both[1:], alone)
    assert not torch.equal(both, generate_sized(model, LABELS, (SIDE, 2 * SIDE), seed=6))


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((SIDE, SIDE + 1), "must be multiples of"),
        ((SIDE // 2, SIDE), f"and at least {SIDE}"),
        ((SIDE, SIDE * (MOST_SQUARES + 1)), f"more pixels than {MOST_SQUARES} images"),
    ],
)
def test_sizes_that_the_model_lacks_are_refused(model: StraIT, size: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        blank_tokens(model, size, 1)


def test_the_command_writes_pictures_of_the_size(
    model: StraIT, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model.save_pretrained(tmp_path / "m")
    common = ["generate", "--model", str(tmp_path / "m"), "--labels", "1", "--count", "2"]
    size = ["--size", f"{2 * SIDE}x{SIDE}"]
    assert main([*common, *size, "--output", str(tmp_path / "out"), "--grid", str(tmp_path / "sheet.png")]) == 0
    files = sorted((tmp_path / "out").iterdir())
    assert [Image.open(file).size for file in files] == [(2 * SIDE, SIDE)] * 2
    images = generate_sized(model, torch.tensor([1, 1]), (SIDE, 2 * SIDE))
    pixels = torch.tensor(list(Image.open(files[1]).tobytes())).view(SIDE, 2 * SIDE, 3)
    assert (pixels - (images[1].movedim(0, -1) + 1) * 127.5).abs().max() <= 1
    settings = settings_in(str(files[1]))
    assert settings["size"] == [2 * SIDE, SIDE]
    assert stored_in(settings, 16).notes == [
        f"it has {2 * SIDE}x{SIDE} pixels; the page generates only the model's size"
    ]
    assert json.loads(Image.open(tmp_path / "sheet.png").info["strait"])["size"] == [2 * SIDE, SIDE]
    capsys.readouterr()
    for text in ("x", "100", "axb", f"{SIDE}x", "-1x5", "9999999x9999999", f"{SIDE + 1}x{SIDE}", ""):
        assert main([*common, "--size", text, "--output", str(tmp_path / "other")]) == 2
        assert "size: " in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
    auto = [*common, *size, "--steps", "auto", "--quality", "0.5", "--output", str(tmp_path / "auto")]
    assert main(auto) == 0
    assert all(
        sum(json.loads(Image.open(file).info["strait"])["passes"]) > 2 for file in (tmp_path / "auto").iterdir()
    )
    (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("forward passes")]
    most = [3 * count for count in model.default_decoding().steps]  # a window at each end, and one between them
    assert line.endswith("of at most " + "+".join(map(str, most)))


def test_the_upsampler_draws_no_other_sizes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    large = random_model(replace(CONFIG, upsampler=CONFIG.bottom), CLASSES, seed=1)
    large.save_pretrained(tmp_path / "m")
    words = ["generate", "--model", str(tmp_path / "m"), "--labels", "1", "--size", f"{2 * SIDE}x{SIDE}"]
    assert main([*words, "--steps", "2+2+1+1", "--output", str(tmp_path / "a")]) == 2
    assert "--size: the upsampler" in capsys.readouterr().err
    for number, more in enumerate(([], ["--steps", "auto"], ["--steps", "2+2"], ["--quality", "0.9"])):
        assert main([*words, *more, "--output", str(tmp_path / f"b{number}")]) == 0
        (file,) = (tmp_path / f"b{number}").iterdir()
        assert Image.open(file).size == (2 * SIDE, SIDE)
        assert len(json.loads(Image.open(file).info["strait"])["decoding"]["steps"]) == 2, "those that were drawn"
    assert main([*words, "--output", str(tmp_path / "b")]) == 0
    assert Image.open(next((tmp_path / "b").iterdir())).size == (2 * SIDE, SIDE)
