"""Steps that are not finite change nothing, are counted, and too many end training; jumps are noted."""

from __future__ import annotations

import fcntl
import json
import math
import os
import signal
import subprocess
import termios
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from strait.data.job import Job
from strait.runtime.ranks import ALONE
from strait.runtime.stop import Stop, orderly_stop
from strait.training.checkpoint import load_checkpoint
from strait.training.config import RunConfig
from strait.training.guard import Guard, NotFinite, TrainingFailed, gradient_norm, require_finite
from strait.training.loop import train
from test_resume import command, environment, wait_for_checkpoint

CPU = torch.device("cpu")


class Toy:
    """One weight that goes down by the square of itself; at some steps its loss or its gradient is no number."""

    def __init__(self, bad_loss: Any = (), bad_gradient: Any = (), jumps: Any = ()) -> None:
        self.weight = nn.Parameter(torch.tensor([3.0]))
        self.bad_loss, self.bad_gradient, self.jumps = bad_loss, bad_gradient, set(jumps)
        self.optimizer = torch.optim.SGD([self.weight], lr=0.01)

    def begin(self, step: int) -> None:
        pass

    def step(self, step: int) -> dict[str, Tensor | float]:
        self.optimizer.zero_grad()
        loss = self.weight.square().sum() * (float("nan") if step in self.bad_loss else 1.0)
        loss.backward()
        assert self.weight.grad is not None
        if step in self.bad_gradient:
            self.weight.grad.fill_(float("inf"))
        require_finite(loss, gradient_norm([self.weight]), ALONE)
        self.optimizer.step()
        return {"loss": loss.detach() + (1000.0 if step in self.jumps else 0.0)}

    def tensors(self) -> dict[str, Tensor]:
        return {"weight": self.weight}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.weight.data.copy_(tensors["weight"])

    def samples(self) -> None:
        return None


def settings(**changes: Any) -> RunConfig:
    return RunConfig(**{"log_every": 5, "sample_every": 0, "checkpoint_seconds": 0.0, "skip_at_most": 3, **changes})


def log(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["bad_loss", "bad_gradient"])
def test_a_skipped_step_changes_nothing_and_is_counted(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = Toy(**{kind: {6, 7, 13}}), Toy()
    assert train(bad, tmp_path / "bad", 20, settings(), Job(CPU))
    assert train(good, tmp_path / "good", 17, settings(), Job(CPU))  # three steps fewer, and the same weight
    assert torch.equal(bad.weight, good.weight)
    assert [line.get("skipped") for line in log(tmp_path / "bad")] == [None, 2, 1, None]
    assert all(math.isfinite(line["loss"]) for line in log(tmp_path / "bad"))
    assert capsys.readouterr().err.count("is skipped") == 3


def test_a_run_of_them_ends_training_and_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    toy = Toy(bad_loss=set(range(7, 100)))
    with pytest.raises(TrainingFailed) as failure:
        train(toy, tmp_path, 50, settings(), Job(CPU))
    assert str(tmp_path / "checkpoints" / "step-00000007") in str(failure.value)
    assert "4 steps in a row" in str(failure.value)
    assert "\n" not in str(failure.value)
    checkpoint = load_checkpoint(tmp_path / "checkpoints")
    assert checkpoint is not None
    assert checkpoint[0] == 7
    assert torch.equal(checkpoint[1]["weight"], toy.weight.detach())


def test_the_run_is_counted_over_a_resume(tmp_path: Path) -> None:
    class StopsAt(Stop):
        def wanted(self) -> bool:
            return True

    for step in range(3):
        assert not train(Toy(bad_loss=set(range(100))), tmp_path, 50, settings(), Job(CPU, stop=StopsAt()))
        assert load_checkpoint(tmp_path / "checkpoints")[0] == step + 1  # type: ignore[index]
    with pytest.raises(TrainingFailed, match="4 steps in a row up to step 4"):
        train(Toy(bad_loss=set(range(100))), tmp_path, 50, settings(), Job(CPU))


def test_jumps_of_the_loss_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(Toy(jumps={150, 151, 170}), tmp_path, 200, settings(log_every=100, checkpoint_seconds=60.0), Job(CPU))
    assert [line.get("loss_spikes") for line in log(tmp_path)] == [None, 3]
    assert "step 151: the loss jumped to 100" in capsys.readouterr().err


def test_what_the_guard_remembers_goes_through_a_checkpoint() -> None:
    draw = torch.Generator().manual_seed(0)
    losses = (torch.randn(300, generator=draw) + 5).tolist()
    whole, first = Guard(3, {}), Guard(3, {})
    for loss in losses:
        whole.spike(loss)
    for loss in losses[:130]:
        first.spike(loss)
    second = Guard(3, json.loads(json.dumps(first.notes())))
    for loss in losses[130:]:
        second.spike(loss)
    assert second.notes() == whole.notes()
    steps, mean, variance = whole.notes()["loss_moments"]
    assert steps == 300
    assert mean == pytest.approx(5, abs=0.5)
    assert variance == pytest.approx(1, abs=0.4)


class Judged(Toy):
    """Its validation loss is lowest after step 6."""

    def step(self, step: int) -> dict[str, Tensor | float]:
        return {**super().step(step), "validation_loss": abs(step - 5) + 1.0}


def test_the_best_checkpoint_is_kept_beside_the_newest(tmp_path: Path) -> None:
    train(Judged(), tmp_path, 12, settings(keep_checkpoints=2), Job(CPU))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000006", "step-00000011", "step-00000012"]
    # Which it was goes through a checkpoint: a worse one of a later run does not take its place.
    train(Judged(), tmp_path, 20, settings(keep_checkpoints=2), Job(CPU))
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-00000006", "step-00000019", "step-00000020"]
    folder = tmp_path / "rare"
    train(Judged(), folder, 12, settings(keep_checkpoints=1, checkpoint_seconds=1e6), Job(CPU))
    names = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert names == ["step-00000006", "step-00000012"]


def test_not_finite_is_said_of_the_right_thing() -> None:
    one, bad = torch.ones(()), torch.tensor(float("nan"))
    with pytest.raises(NotFinite, match="the loss"):
        require_finite(bad, one, ALONE)
    with pytest.raises(NotFinite, match="the gradients"):
        require_finite(one, bad, ALONE)
    require_finite(one, one, ALONE)


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU, signal.SIGHUP],
    ids=lambda number: number.name,
)
def test_a_signal_finishes_the_step_saves_and_names_itself(
    photo_folder: Path, tmp_path: Path, number: signal.Signals
) -> None:
    words = command(photo_folder, tmp_path / "model", "--tokenizer_training.steps", "100000")
    process = subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for_checkpoint(tmp_path / "model", "tokenizer", process)
    process.send_signal(number)
    _, messages = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert b"rerun the command to resume" in messages
    assert b"Traceback" not in messages


def test_a_lost_terminal_is_nothing_to_a_training_under_nohup(photo_folder: Path, tmp_path: Path) -> None:
    words = command(photo_folder, tmp_path / "model", "--tokenizer_training.steps", "100000")
    process = subprocess.Popen(
        words,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    wait_for_checkpoint(tmp_path / "model", "tokenizer", process)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=2)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR2", "SIGXCPU"])
def test_every_signal_of_a_scheduler_asks_to_stop(name: str) -> None:
    with orderly_stop(None) as stop:
        assert not stop.wanted()
        signal.raise_signal(getattr(signal, name))
        assert stop.wanted()
        assert stop.signal_number == getattr(signal, name)


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with orderly_stop(None) as stop:
            signal.raise_signal(signal.SIGHUP)
            assert not stop.wanted()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_is_closed_saves_and_ends(photo_folder: Path, tmp_path: Path) -> None:
    """A real terminal of its own: the system sends SIGHUP, and whatever is written to it from then on is an error."""
    master, terminal = os.openpty()
    process = subprocess.Popen(
        command(photo_folder, tmp_path / "model", "--tokenizer_training.steps", "100000"),
        env=environment(),
        stdin=terminal,
        stdout=terminal,
        stderr=terminal,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0) and None,
    )
    os.close(terminal)
    wait_for_checkpoint(tmp_path / "model", "tokenizer", process)
    os.close(master)
    assert process.wait(timeout=240) == 128 + signal.SIGHUP
    assert (tmp_path / "model" / "tokenizer.safetensors").exists()


def test_other_threads_than_before_are_mentioned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(Toy(), tmp_path / "toy", 5, settings(), Job(CPU))
    train(Toy(), tmp_path / "toy", 6, settings(), Job(CPU))
    assert "threads" not in capsys.readouterr().err
    torch.set_num_threads(2)
    try:
        train(Toy(), tmp_path / "toy", 7, settings(), Job(CPU))
    finally:
        torch.set_num_threads(1)
    assert "toy: started with 1 threads, resumed with 2" in capsys.readouterr().err
