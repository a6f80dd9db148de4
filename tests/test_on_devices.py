"""The verbs on every device: what runs on a CPU runs on a GPU, and draws the same up to rounding."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from strait.decoding.stratified import final_tokens
from strait.model.strait import StraIT
from test_command_line import SMALL, run

devices = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


@devices
def test_tokens_are_those_of_a_cpu(device: str) -> None:
    """Rounding may decide a draw otherwise, and what follows it; it rarely does."""
    labels, reference = torch.arange(8), StraIT.from_pretrained(pack=False)
    model = StraIT.from_pretrained(device=torch.device(device))
    decoding = replace(model.default_decoding(), steps=(6, 3))
    reference_tokens = final_tokens(reference.decoding_steps(labels, 3, decoding=decoding))
    tokens = final_tokens(model.decoding_steps(labels, 3, decoding=decoding))
    for ours, theirs in zip(tokens.levels, reference_tokens.levels, strict=True):
        assert ours.device.type == device
        assert (ours.cpu() == theirs).float().mean() > 0.9
    pixels = model.decode(tokens).cpu()
    assert (pixels - reference.decode(type(tokens)(tuple(grid.cpu() for grid in tokens.levels)))).abs().max() < 1e-2


@devices
def test_a_model_is_trained_judged_and_edits_there(
    device: str, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, on = tmp_path / "model", ["--device", device]
    assert run("train", "--config", "smoke", "--data", photo_folder, "--model", model, *SMALL, *on) == 0
    assert run("evaluate", "reconstruction", "--model", model, "--data", photo_folder, "--samples", 8, *on) == 0
    assert "PSNR" in capsys.readouterr().out
    picture, mask = tmp_path / "picture.png", tmp_path / "mask.png"
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(picture)
    Image.fromarray(np.pad(np.full((20, 20), 255, np.uint8), ((0, 20), (0, 30)))).save(mask)
    for number, words in enumerate(
        (
            ["infill", picture, "--mask", mask],
            ["relabel", picture, "--mask", mask, "--label", 1],
            ["extend", picture, "--left", 1],
            ["transfer", picture, "--label", 1, "--choose", "confidence"],
            ["process", picture, "--mask", mask],
        )
    ):
        folder = tmp_path / str(number)
        assert run("edit", *words, "--model", model, "--output", folder, *on) == 0
        assert list(folder.rglob("*.png"))
