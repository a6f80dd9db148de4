"""Training cut off before any of its writes: what then lies on the disk is never wrong, and resumes to the same bytes.

One real training, whose folder is copied before each change that it makes to it: each copy is what a kill at that
moment would have left.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from strait.cli import main
from strait.model.folder import ModelError, read_description
from strait.model.strait import StraIT

PARTS = ("tokenizer", "top", "bottom")
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link")


class Watch:
    """Copies a folder before each change within it; an audit hook cannot be removed, so there is one, switched."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.copies: list[Path] = []
        sys.addaudithook(self)

    def __call__(self, event: str, words: tuple[Any, ...]) -> None:
        if self.folder is None or not self._changes(event, words):
            return
        folder, self.folder = self.folder, None
        try:
            self.copies.append(folder.with_name(f"cut-{len(self.copies):03d}"))
            if folder.exists():
                shutil.copytree(folder, self.copies[-1])
        finally:
            self.folder = folder

    def _changes(self, event: str, words: tuple[Any, ...]) -> bool:
        if event == "open":
            writes = isinstance(words[2], int) and words[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            return bool(writes) and self._is_inside(words[0])
        return event in CHANGES and self._is_inside(words[0])

    def _is_inside(self, path: Any) -> bool:
        return isinstance(path, str | os.PathLike) and str(path).startswith(f"{self.folder}{os.sep}")


@pytest.fixture(scope="module")
def watch() -> Iterator[Watch]:
    watch = Watch()
    yield watch
    watch.folder = None


def train(photos: Path, model: Path, tokenizer_steps: int = 1) -> None:
    words = ["--data", str(photos), "--model", str(model), "--run.sample_every", "0"]
    words += ["--tokenizer_training.codebook.start", "0", "--tokenizer_training.batch_size", "4"]
    for part, steps in zip(PARTS, (tokenizer_steps, 1, 1), strict=True):
        words += [f"--{part}_training.steps", str(steps)]
    assert main(["train", "--config", "smoke", *words]) == 0


def weights(model: Path) -> dict[str, bytes]:
    return {part: (model / f"{part}.safetensors").read_bytes() for part in PARTS}


def tokenizer_of(model: Path, part: str) -> str:
    return (model / "runs" / part / "tokenizer.txt").read_text()


def check(model: Path) -> None:
    """What lies there is a model of four classes whose parts belong together, or no model yet."""
    if not (model / "config.json").exists():
        with pytest.raises(ModelError, match=r"is not a model folder|there is no folder"):
            StraIT.from_pretrained(model)
        return
    _, classes, _ = read_description(model)
    assert len(classes) == 4
    StraIT.from_pretrained(model)
    for part in PARTS[1:]:
        if (model / f"{part}.safetensors").exists():
            digest = hashlib.sha256((model / "tokenizer.safetensors").read_bytes()).hexdigest()
            assert digest.startswith(tokenizer_of(model, part)), f"the {part} is of another tokenizer"


@pytest.mark.parametrize(
    "every",
    [pytest.param(9, id="some"), pytest.param(1, id="all", marks=[pytest.mark.slow, pytest.mark.timeout(1800)])],
)
def test_training_cut_off_before_any_write(photo_folder: Path, tmp_path: Path, watch: Watch, every: int) -> None:
    model = tmp_path / "model"
    watch.folder, watch.copies = model, []
    train(photo_folder, model)
    watch.folder = None
    assert len(watch.copies) > 60
    whole = weights(model)
    for number, copy in enumerate(watch.copies):
        check(copy)
        if number % every == 0:
            train(photo_folder, copy)
            assert weights(copy) == whole, copy.name
        shutil.rmtree(copy)


def test_another_tokenizer_never_meets_transformers_of_the_one_before(
    photo_folder: Path, tmp_path: Path, watch: Watch
) -> None:
    model = tmp_path / "model"
    train(photo_folder, model)
    shutil.rmtree(model / "runs" / "bottom")
    shutil.rmtree(model / "runs" / "top" / "checkpoints")  # the top is then trained anew on the other tokens
    before = weights(model)
    (model / "bottom.safetensors").unlink()
    watch.folder, watch.copies = model, []
    with pytest.raises(AssertionError):  # a top begun on another tokenizer is refused once that is there
        train(photo_folder, model, tokenizer_steps=2)
    watch.folder = None
    assert weights_of(model, "tokenizer") != before["tokenizer"]
    assert [path.read_bytes() for path in model.glob("top-of-*.safetensors")] == [before["top"]]
    for copy in watch.copies:
        check(copy)


def weights_of(model: Path, part: str) -> bytes:
    return (model / f"{part}.safetensors").read_bytes()
