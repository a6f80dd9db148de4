"""What a person sees of a training without a terminal: what was found, a line now and then, and how it ended."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from strait.cli import main
from strait.config import config_path, read_config
from strait.data.job import Job
from strait.evaluation.cost import describe
from strait.runs.announcements import estimate
from strait.training import pace, progress
from strait.training.curves import draw_curves, read_curves, write_curves
from strait.training.loop import train
from strait.training.progress import Progress, duration
from test_guard import CPU, Toy, settings


def test_a_line_at_first_and_one_a_minute(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    with Progress("top", 400, done=100) as seen:
        for step in range(300):
            clock[0] += 1.0
            seen.advance(loss=4.0 - step / 100)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "top: 105 of 400 steps, loss 3.96, 1 steps/s, 5 min left"
    assert lines[1] == "top: 165 of 400 steps, loss 3.36, 1 steps/s, 4 min left"
    assert lines[-1] == "top: 400 of 400 steps, loss 1.01, in 5 min"
    assert len(lines) == 1 + 4 + 1


def test_silence_where_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("top", 3, silent=True) as seen:
        seen.advance(3)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (99.4, "99 s"), (100, "2 min"), (5940, "99 min"), (12000, "3 h 20 min")]
)
def test_times_for_people(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_the_whole_training_is_estimated_from_the_first_part() -> None:
    config = read_config(config_path("tiny-imagenet64-cpu"))
    cost = describe(config.model, 200)["parts"]
    steps = {part: getattr(config, f"{part}_training").steps for part in cost}
    batch = {part: getattr(config, f"{part}_training").batch_size for part in cost}
    each = {part: 0.5 * steps[part] * batch[part] * cost[part]["multiply_adds"] for part in cost}
    scale = batch["tokenizer"] * cost["tokenizer"]["multiply_adds"]
    line = estimate(config, 200, ["tokenizer", "top", "bottom"], 0.5)
    assert line is not None
    assert line.startswith(f"a step takes 0.5 s: about {duration(sum(each.values()) / scale)} for the whole training")
    assert f"tokenizer {duration(0.5 * steps['tokenizer'])}, " in line
    assert line.endswith(f"bottom {duration(each['bottom'] / scale)})")
    assert estimate(config, 200, ["bottom"], 0.5) is None


def test_the_pace_is_told_once_when_steps_have_been_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(pace.time, "perf_counter", lambda: clock[0])

    class Ticking(Toy):
        def step(self, step: int) -> dict[str, Tensor | float]:
            clock[0] += 50.0 if step < pace.WARM_UP else 0.5
            return super().step(step)

    told: list[float] = []
    assert train(Ticking(), tmp_path, 12, settings(), Job(CPU), told.append)
    assert told == [0.5], "without what the first steps take"


def test_curves_are_the_log_losses_first(tmp_path: Path) -> None:
    lines = [{"step": step, "accuracy": step / 40, "loss": 4 - step / 20} for step in (10, 20, 30, 40)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curves = read_curves(tmp_path / "log.jsonl")
    assert list(curves) == ["loss", "accuracy"]
    assert curves["loss"] == [(10, 3.5), (20, 3.0), (30, 2.5), (40, 2.0)]
    write_curves(tmp_path)
    with Image.open(tmp_path / "curves.png") as picture:
        ink = (np.asarray(picture).astype(int) == (31, 119, 180)).all(-1)
    # The loss falls from the left's top to the right's bottom, the accuracy beside it rises.
    width = ink.shape[1] // 2
    for panel, falls in ((ink[:, :width], True), (ink[:, width:], False)):
        heights = [np.flatnonzero(column).mean() for column in panel.T if column.any()]
        assert heights == sorted(heights, reverse=not falls)
        assert max(heights) - min(heights) > 100


def test_a_flat_curve_and_one_of_a_step_can_be_drawn(tmp_path: Path) -> None:
    assert draw_curves({"loss": [(1, 2.0), (2, 2.0)]}).size == (300, 170)
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    write_curves(tmp_path)
    assert not (tmp_path / "curves.png").exists()


def test_training_says_what_it_found_and_how_it_ended(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    words = ["train", "tokenizer", "--config", "smoke", "--data", str(photo_folder), "--model", str(model)]
    words += ["--tokenizer_training.steps", "4", "--tokenizer_training.codebook.start", "0"]
    assert main([*words, "--run.log_every", "2", "--run.sample_every", "2"]) == 0
    messages = capsys.readouterr().err
    assert messages.startswith(
        "--data: 40 pictures of 4 classes (disc, gradient, square, ...) for training, none for validation"
    )
    assert f"{model}: tokenizer 4 steps; " in messages
    assert f"tensorboard --logdir {model}/runs" in messages or "tensorboard" not in messages
    loss = json.loads((model / "runs/tokenizer/log.jsonl").read_text().splitlines()[-1])["loss"]
    sheet = model / "runs/tokenizer/samples/step-00000004.png"
    assert f"tokenizer: loss {loss:.3g}, {sheet}\n" in messages
    assert f"strait generate --model {model}" not in messages  # the tokenizer alone draws nothing
    assert sheet.exists()
    assert (model / "runs/tokenizer/curves.png").exists()
