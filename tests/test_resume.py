"""Nothing is lost: a training process that is killed goes on from its last checkpoint, to the same weights."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from strait.cli import main

STEPS = {"tokenizer": 40, "top": 60, "bottom": 60}


def command(photo_folder: Path, model: Path, *more: str) -> list[str]:
    words = ["-m", "strait.cli", "train", "--config", "smoke", "--data", str(photo_folder), "--model", str(model)]
    for part, steps in STEPS.items():
        words += [f"--{part}_training.steps", str(steps)]
    words += ["--run.checkpoint_seconds", "0.1", "--run.sample_every", "0", *more]
    return [sys.executable, *words]


def environment() -> dict[str, str]:
    # One thread: sums are then taken in the same order whatever else the machine does.
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def finish(words: list[str]) -> None:
    """Run a command to its end: in this process, which has one thread as well, and with few checkpoints."""
    assert main([*words[words.index("strait.cli") + 1 :], "--run.checkpoint_seconds", "100"]) == 0


def wait_for_checkpoint(model: Path, part: str, process: subprocess.Popen[bytes]) -> None:
    folder = model / "runs" / part / "checkpoints"
    for _ in range(1200):
        if folder.is_dir() and any(folder.glob("step-*")):
            return
        assert process.poll() is None, "training ended before it could be killed"
        time.sleep(0.05)
    pytest.fail(f"no checkpoint of the {part} appeared")


def logged_steps(model: Path, part: str) -> list[int]:
    lines = (model / "runs" / part / "log.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


@pytest.fixture(scope="module")
def uninterrupted(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tmp_path_factory.mktemp("uninterrupted") / "model"
    finish(command(photo_folder, model))
    return model


def test_killed_in_every_part_it_ends_with_the_same_weights(
    photo_folder: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    for part in STEPS:
        process = subprocess.Popen(
            command(photo_folder, model), env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for_checkpoint(model, part, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        newest = max((model / "runs" / part / "checkpoints").glob("step-*"))
        assert 0 < json.loads((newest / "state.json").read_text())["step"] <= STEPS[part]
    finish(command(photo_folder, model))
    for part in STEPS:
        ours = (model / f"{part}.safetensors").read_bytes()
        assert ours == (uninterrupted / f"{part}.safetensors").read_bytes(), f"the {part} differs"
        assert logged_steps(model, part) == logged_steps(uninterrupted, part) == list(range(10, STEPS[part] + 1, 10))


def test_ctrl_c_saves_and_says_so(photo_folder: Path, uninterrupted: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    process = subprocess.Popen(
        command(photo_folder, model), env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_for_checkpoint(model, "tokenizer", process)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT
    assert b"rerun the command to resume" in messages
    finish(command(photo_folder, model))
    ours = (model / "bottom.safetensors").read_bytes()
    assert ours == (uninterrupted / "bottom.safetensors").read_bytes()


def test_stop_after_ends_in_good_order(photo_folder: Path, tmp_path: Path) -> None:
    words = command(photo_folder, tmp_path / "model", "--tokenizer_training.steps", "100000", "--stop-after", "0.1")
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "rerun the command to resume" in done.stderr
    newest = max((tmp_path / "model" / "runs" / "tokenizer" / "checkpoints").glob("step-*"))
    assert json.loads((newest / "state.json").read_text())["step"] >= 1
    assert (tmp_path / "model" / "tokenizer.safetensors").exists()
