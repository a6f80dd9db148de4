"""SIGKILL at random moments of training, and the same weights at the end, bit for bit, as if nothing had happened."""

from __future__ import annotations

import random
import subprocess
import time
from pathlib import Path

import pytest

from test_resume import command, environment, finish, logged_steps


def training(photos: Path, model: Path, steps: int) -> list[str]:
    words = command(photos, model, "--tokenizer_training.steps", str(steps), "--top_training.steps", str(steps))
    return [*words, "--bottom_training.steps", "1"]


def newest(model: Path, part: str) -> str:
    return max((path.name for path in (model / "runs" / part / "checkpoints").glob("step-*")), default="")


def run_and_kill(words: list[str], model: Path, part: str, delay: float) -> bool:
    """Start, wait for one more checkpoint of a part, and kill after a delay; whether there was anything to kill."""
    before = newest(model, part)
    process = subprocess.Popen(words, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and newest(model, part) == before:
        time.sleep(0.01)
    deadline = time.monotonic() + delay
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    alive = process.poll() is None
    process.kill()
    process.wait()
    return alive


@pytest.mark.parametrize(
    ("kills", "steps"),
    [
        pytest.param(3, 60, id="three"),
        pytest.param(20, 300, id="twenty", marks=[pytest.mark.slow, pytest.mark.timeout(1800)]),
    ],
)
def test_killed_at_random_moments(photo_folder: Path, tmp_path: Path, kills: int, steps: int) -> None:
    whole, model = tmp_path / "whole", tmp_path / "killed"
    finish(training(photo_folder, whole, steps))
    draw, killed = random.Random(kills), {"tokenizer": 0, "top": 0}
    words = training(photo_folder, model, steps)
    for number in range(kills):
        part = "top" if newest(model, "top") or killed["tokenizer"] > kills // 2 else "tokenizer"
        killed[part] += run_and_kill(words, model, part, draw.uniform(0, 0.4 if kills < 10 else 0.6))
        assert number or killed["tokenizer"], "training was over before it could be killed"
    finish(words)
    assert killed["tokenizer"] >= 1
    assert sum(killed.values()) >= kills - 1
    for part in killed:
        ours = (model / f"{part}.safetensors").read_bytes()
        assert ours == (whole / f"{part}.safetensors").read_bytes(), f"the {part} differs"
        assert logged_steps(model, part) == logged_steps(whole, part) == list(range(10, steps + 1, 10))
    assert (model / "runs/tokens/train/top.npy").read_bytes() == (whole / "runs/tokens/train/top.npy").read_bytes()
