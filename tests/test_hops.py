"""How far it is from the command to the optimizer, counted on a real training of every part."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType

import pytest
import torch

from strait.cli import main
from strait.commands import train as train_command

PACKAGE = str(Path(train_command.__file__).parents[1])


def calls_from_command() -> list[str]:
    """The package's functions between this one's caller and the command, innermost first."""
    frame: FrameType | None = sys._getframe(2)
    names = []
    while frame is not None:
        code = frame.f_code
        if code.co_filename.startswith(PACKAGE):
            names.append(f"{Path(code.co_filename).stem}.{code.co_name}")
            if code is train_command.run.__code__:
                return names
        frame = frame.f_back
    raise AssertionError("no command in sight")


def test_four_calls_from_train_to_the_optimizers_step(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chains: dict[str, list[str]] = {}
    for kind in (torch.optim.Adam, torch.optim.AdamW):
        taken = kind.step

        def step(self: torch.optim.Optimizer, *words: object, taken=taken, kind=kind) -> object:
            chain = calls_from_command()
            if "adversary" not in chain[0]:
                chains.setdefault(chain[0].split(".")[0], chain)
            return taken(self, *words)

        monkeypatch.setattr(kind, "step", step)
    words = ["--data", str(photo_folder), "--model", str(tmp_path / "model"), "--run.sample_every", "0"]
    words += ["--tokenizer_training.perceptual", "classifier", "--tokenizer_training.codebook.start", "0"]
    for part in ("classifier", "tokenizer", "top", "bottom"):
        words += [f"--{part}_training.steps", "1"]
    words += ["--classifier.channels", "8", "--classifier.multipliers", "[1,1]"]
    assert main(["train", "--config", "smoke", *words]) == 0
    assert set(chains) == {"classifier_loop", "tokenizer_loop", "transformer_loop"}
    for chain in chains.values():
        assert chain[1:] == ["loop.train", "training.run", "train.run"], chain  # and the optimizer's step: four calls
