"""Disks fill up or cannot be written, checkpoints rot: one line, no wrong resume, no loss of the one before."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from strait.cli import main
from strait.training.checkpoint import load_checkpoint
from test_checkpoint import DAMAGE
from test_resume import command, environment, finish

STEPS = 40


def training(photos: Path, model: Path, steps: int = STEPS) -> list[str]:
    words = [*command(photos, model), "--tokenizer_training.steps", str(steps), "--run.keep_checkpoints", "3"]
    place = words.index("train") + 1
    return [*words[:place], "tokenizer", *words[place:]]


def refused(words: list[str], **settings: object) -> str:
    """The one line with which a run ends."""
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False, **settings)  # type: ignore[call-overload]
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("strait: ")]
    return line


def refused_here(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The same of a run in this process."""
    capsys.readouterr()
    assert main(words[words.index("strait.cli") + 1 :]) == 2
    messages = capsys.readouterr().err
    assert "Traceback" not in messages
    (line,) = [line for line in messages.splitlines() if line.startswith("strait: ")]
    return line


def step_of(model: Path) -> int:
    checkpoint = load_checkpoint(model / "runs" / "tokenizer" / "checkpoints")
    assert checkpoint is not None
    return checkpoint[0]


@pytest.fixture(scope="module")
def whole(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The weights of an undisturbed run."""
    model = tmp_path_factory.mktemp("whole") / "model"
    finish(training(photo_folder, model))
    return (model / "tokenizer.safetensors").read_bytes()


@pytest.fixture(scope="module")
def stopped(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run stopped in good order after some checkpoints: copy it, change nothing in it."""
    model = tmp_path_factory.mktemp("stopped") / "model"
    process = subprocess.Popen(
        training(photo_folder, model), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and len(list(model.glob("runs/tokenizer/checkpoints/step-*"))) < 2:
        time.sleep(0.01)
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    assert 2 <= step_of(model) < STEPS
    return model


@pytest.mark.parametrize("damage", ["half a file", "one bit", "no manifest"])
def test_a_rotten_checkpoint_costs_time_and_nothing_else(
    photo_folder: Path, tmp_path: Path, stopped: Path, whole: bytes, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(stopped, model)
    checkpoints = sorted((model / "runs" / "tokenizer" / "checkpoints").glob("step-*"))
    assert len(checkpoints) > 1
    DAMAGE[damage](checkpoints[-1])
    finish(training(photo_folder, model))
    assert f"skipped the checkpoint {checkpoints[-1]}: " in capsys.readouterr().err
    assert (model / "tokenizer.safetensors").read_bytes() == whole


def limit_files(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def test_a_file_that_cannot_grow(photo_folder: Path, tmp_path: Path, stopped: Path, whole: bytes) -> None:
    """The writes of a real process fail midway, as on a full disk."""
    model = tmp_path / "model"
    shutil.copytree(stopped, model)
    reached = step_of(model)
    line = refused(training(photo_folder, model), preexec_fn=limit_files(100_000))
    assert "could not be written" in line
    assert "is intact" in line
    assert step_of(model) == reached
    finish(training(photo_folder, model))
    assert (model / "tokenizer.safetensors").read_bytes() == whole


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own of a few megabytes, where this machine lets us mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("a small disk can be mounted by root alone")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_full_disk(
    photo_folder: Path, small_disk: Path, stopped: Path, whole: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small_disk / "model"
    shutil.copytree(stopped, model)
    reached = step_of(model)
    ballast = small_disk / "ballast"
    with ballast.open("wb") as file:
        free = os.statvfs(small_disk)
        file.write(b"\0" * (free.f_bavail * free.f_bsize - 200_000))
    line = refused_here(training(photo_folder, model), capsys)
    assert "No space left" in line
    assert "is intact" in line
    assert step_of(model) == reached
    ballast.unlink()
    finish(training(photo_folder, model))
    assert (model / "tokenizer.safetensors").read_bytes() == whole


def test_a_disk_that_can_only_be_read(
    photo_folder: Path, small_disk: Path, stopped: Path, whole: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    """Permissions do not hold root; a disk mounted for reading holds everybody."""
    model = small_disk / "model"
    shutil.copytree(stopped, model)
    reached = step_of(model)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    line = refused_here(training(photo_folder, model), capsys)
    assert line.endswith("read-only file system; choose another place")
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert step_of(model) == reached
    finish(training(photo_folder, model))
    assert (model / "tokenizer.safetensors").read_bytes() == whole


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_leave_to_write(photo_folder: Path, tmp_path: Path, stopped: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(stopped, model)
    reached = step_of(model)
    checkpoints = model / "runs" / "tokenizer" / "checkpoints"
    checkpoints.chmod(0o555)
    try:
        line = refused(training(photo_folder, model))
    finally:
        checkpoints.chmod(0o755)
    assert "permission denied" in line.lower()
    assert step_of(model) == reached
