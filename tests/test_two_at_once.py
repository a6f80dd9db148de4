"""Two processes and one model folder: the second is refused with a line, and a killed one locks nobody out."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from strait.runtime.lock import locked
from test_disasters import refused
from test_resume import command, environment, finish, wait_for_checkpoint


def training(photos: Path, model: Path, part: str, steps: int, *more: str) -> list[str]:
    words = command(photos, model, "--tokenizer_training.steps", "2", "--tokenizer_training.codebook.start", "0")
    words += [f"--{part}_training.steps", str(steps), *more]
    place = words.index("train") + 1
    return [*words[:place], part, *words[place:]]


def test_a_second_training_and_encoding_are_refused_until_the_first_is_killed(
    photo_folder: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    finish(training(photo_folder, model, "tokenizer", 2))
    first = subprocess.Popen(
        training(photo_folder, model, "top", 100_000),
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for_checkpoint(model, "top", first)
        before = sorted(path for path in model.rglob("*") if "top" not in path.parts)
        encode = [*training(photo_folder, model, "top", 1)[:3], "encode", "--data", str(photo_folder)]
        for words in (training(photo_folder, model, "bottom", 1), [*encode, "--model", str(model)]):
            assert f"another process is training {model}" in refused(words)
        assert sorted(path for path in model.rglob("*") if "top" not in path.parts) == before
        assert first.poll() is None
    finally:
        first.kill()
        first.wait()
    finish(training(photo_folder, model, "top", 1))


def test_workers_that_outlive_a_killed_training_hold_no_lock(photo_folder: Path, tmp_path: Path) -> None:
    """Its loader's workers notice only some seconds later that their parent is gone."""
    model = tmp_path / "model"
    words = training(photo_folder, model, "tokenizer", 100_000, "--data.workers", "2")
    process = subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_checkpoint(model, "tokenizer", process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    workers = [Path("/proc") / number for number in children.read_text().split()] if children.exists() else []
    for worker in workers:  # so that they surely live on
        subprocess.run(["kill", f"-{signal.SIGSTOP.value}", worker.name], check=True)
    process.kill()
    process.wait()
    try:
        with locked(model / "runs" / "lock", "it is still locked"):
            pass
    finally:
        for worker in workers:
            subprocess.run(["kill", f"-{signal.SIGKILL.value}", worker.name], check=False)


def test_a_lock_is_taken_once_and_again_after_its_end(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "lock"
    with locked(path, "busy"), pytest.raises(ValueError, match="busy"), locked(path, "busy"):
        pytest.fail("taken twice")
    with locked(path, "busy"):
        pass


def test_a_refused_training_leaves_no_folder(photo_folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    words = training(photo_folder, model, "tokenizer", 2, "--tokenizer_training.perceptual", str(tmp_path / "no.pt"))
    assert "no.pt" in refused(words)
    assert not model.exists()
