"""Two processes with half the batch each, and one with pieces of it, learn what one learns with the whole."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from test_resume import command, environment, finish, logged_steps

pytest.importorskip("accelerate", reason="several processes need accelerate (the extra train)")

WORKER = Path(__file__).with_name("worker.py")
Outcome = tuple[dict[str, list[float]], dict[str, torch.Tensor]]


def execute(processes: int, photos: Path, folder: Path, jobs: dict[str, dict[str, Any]]) -> dict[str, Outcome]:
    """Every job in one launch, since a launch takes seconds: job -> settings, and job -> what came of it."""
    words = [str(WORKER), str(photos), str(folder), json.dumps(jobs)]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), *words],
        env={**environment(), "STRAIT_CACHE": str(folder / "features")},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return {
        job: (json.loads((folder / job / "state.json").read_text()), load_file(folder / job / "state.safetensors"))
        for job in jobs
    }


# What is compared, and how it is divided in the tests that are not slow. The task is what stands before a dash.
WHOLE: dict[str, dict[str, Any]] = {
    "tokenizer": {},
    "classifier": {},
    "transformer-0": {"level": 0},
    "transformer-1": {"level": 1},
    "shared": {},
}
DIVIDED: dict[str, dict[str, Any]] = {
    "tokenizer": {"accumulate": 2},
    "classifier": {"accumulate": 3},
    "transformer-0": {"level": 0, "accumulate": 3, "parallel": "ddp"},
    "transformer-1": {"level": 1, "accumulate": 2, "parallel": "fsdp"},
    "shared": {},
}


@pytest.fixture(scope="module")
def alone(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """One process, with the whole batch."""
    return execute(1, photo_folder, tmp_path_factory.mktemp("alone"), WHOLE)


@pytest.fixture(scope="module")
def divided(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """Two processes, with half of it each, and that in pieces."""
    return execute(2, photo_folder, tmp_path_factory.mktemp("divided"), DIVIDED)


def same(ours: Outcome, theirs: Outcome, tolerance: float = 1e-9) -> None:
    assert ours[0].keys() == theirs[0].keys()
    for name, curve in theirs[0].items():
        assert ours[0][name] == pytest.approx(curve, rel=tolerance, abs=1e-12), name
    assert ours[1].keys() == theirs[1].keys()
    for name, value in theirs[1].items():
        torch.testing.assert_close(ours[1][name], value, rtol=1e-6, atol=1e-8, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("job", ["tokenizer", "classifier", "transformer-0", "transformer-1"])
def test_two_processes_learn_what_one_learns(job: str, alone: dict[str, Outcome], divided: dict[str, Outcome]) -> None:
    curves, _ = alone[job]
    assert len(curves["loss"]) == 20
    assert curves["loss"][0] != curves["loss"][-1]
    same(divided[job], alone[job])


def test_the_stage_1_compared_has_everything_in_it(alone: dict[str, Outcome]) -> None:
    """Otherwise that would prove nothing: discriminator, R1, entropy term and restarts are all at work."""
    curves, _ = alone["tokenizer"]
    assert {"adversarial", "discriminator", "r1", "entropy", "logits_real"} <= curves.keys()
    assert sum(curves["restarted"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("job", "processes", "settings"),
    [
        ("tokenizer", 2, {"accumulate": 1}),
        ("tokenizer", 1, {"accumulate": 3}),
        *(
            (f"transformer-{level}", processes, {"level": level, "accumulate": accumulate, "parallel": parallel})
            for level in (0, 1)
            for processes, accumulate, parallel in ((2, 1, "ddp"), (1, 4, "ddp"), (2, 1, "fsdp"), (2, 3, "fsdp"))
        ),
    ],
)
def test_other_divisions_learn_the_same(
    photo_folder: Path,
    tmp_path: Path,
    alone: dict[str, Outcome],
    job: str,
    processes: int,
    settings: dict[str, Any],
) -> None:
    same(execute(processes, photo_folder, tmp_path, {job: settings})[job], alone[job])


def test_work_is_shared_and_put_together_in_order(alone: dict[str, Outcome], divided: dict[str, Outcome]) -> None:
    """Token cache, generated images and reference: the same for any number of processes."""
    (_, by_one), (_, by_two) = alone["shared"], divided["shared"]
    assert by_one.keys() == by_two.keys()
    assert all(torch.equal(by_one[name], by_two[name]) for name in by_one)
    assert [len(by_one[name]) for name in ("labels", "made", "real")] == [40, 7, 40]


@pytest.mark.slow
def test_fsdp_averages_over_gloo(tmp_path: Path) -> None:
    """It was once said to add up where it should average: gradients of 1 and 2 must come to 1.5."""
    script = tmp_path / "average.py"
    script.write_text(
        "import torch\n"
        "from strait.training.distributed import distribute, launched, whole\n"
        "with launched(torch.device('cpu')) as (ranks, _):\n"
        "    network = distribute(torch.nn.Linear(3, 2, bias=False), ranks, 'fsdp')\n"
        "    network(torch.ones(1, 3) * (ranks.rank + 1)).sum().backward()\n"
        "    found = whole(network.weight.grad)\n"
        "    assert found.tolist() == [[1.5] * 3] * 2, found\n"
    )
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def started(photos: Path, model: Path, *settings: str) -> subprocess.Popen[str]:
    words = command(photos, model, "--device", "cpu", *settings)[1:]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*launcher, *words], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def wait_for(model: Path, pattern: str, process: subprocess.Popen[str]) -> None:
    while not list(model.glob(pattern)):
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.02)


SHORT = ("--tokenizer_training.steps", "40", "--top_training.steps", "300", "--bottom_training.steps", "10")


def test_shards_are_stopped_and_one_process_goes_on(photo_folder: Path, tmp_path: Path) -> None:
    """FSDP2 from the command line, with sample grids; its checkpoint is anybody's."""
    model = tmp_path / "model"
    process = started(photo_folder, model, *SHORT, "--run.parallel", "fsdp", "--run.sample_every", "5")
    wait_for(model, "runs/top/samples/step-00000010.png", process)
    process.send_signal(signal.SIGTERM)  # which torchrun passes on
    _, messages = process.communicate(timeout=60)
    assert process.returncode
    assert messages.count("rerun the command to resume") == 1  # the first process speaks for both
    assert list(model.glob("runs/top/checkpoints/step-*"))
    finish(command(photo_folder, model, *SHORT, "--run.sample_every", "0", "--top_training.steps", "60"))
    assert logged_steps(model, "top") == list(range(10, 61, 10))
    assert logged_steps(model, "tokenizer") == [10, 20, 30, 40]


@pytest.mark.slow
def test_the_death_of_one_process_is_a_line_and_costs_nothing(photo_folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    process = started(photo_folder, model, *SHORT)
    wait_for(model, "runs/top/checkpoints/step-*", process)
    table = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(process.pid)], capture_output=True, text=True, check=True
    )
    os.kill(max(map(int, table.stdout.split())), signal.SIGKILL)
    _, messages = process.communicate(timeout=120)
    assert process.returncode
    lines = [line for line in messages.splitlines() if line.startswith("strait: ")]
    assert len(lines) <= 1  # torchrun may end the other before it notices
    assert all(re.search("another process of this run has died", line) for line in lines)
    assert "strait/cli.py" not in messages
    finish(command(photo_folder, model, *SHORT, "--top_training.steps", "60"))
    assert logged_steps(model, "top")[-1] >= 60


EXIT_CODES = """
import os, signal, sys, threading, time
from pathlib import Path
from strait import cli

rank, out, sender = int(os.environ["RANK"]), Path(sys.argv[1]), sys.argv[2]

def send():
    while not list(out.glob("model/runs/tokenizer/checkpoints/step-*")):
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGTERM)

if str(rank) == sender:
    threading.Thread(target=send, daemon=True).start()
code = 99
try:
    code = cli.main(sys.argv[3:])
except SystemExit as end:
    code = end.code
(out / f"code-{rank}").write_text(str(code))
"""


def exit_codes(photos: Path, out: Path, sender: int | None, *settings: str) -> tuple[list[str], str]:
    """What each of two processes ends with, the signal being sent to one of them alone; and what they said."""
    script = out / "codes.py"
    script.write_text(EXIT_CODES)
    words = command(photos, out / "model", "--device", "cpu", "--run.precision", "float32", *settings)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(
        [*launcher, str(out), str(sender), "train", "tokenizer", *words[words.index("train") + 1 :]],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert "Traceback" not in done.stderr, done.stderr[-3000:]
    return [(out / f"code-{rank}").read_text() for rank in (0, 1)], done.stderr


def test_a_signal_to_one_process_is_everybody_s_exit_status(photo_folder: Path, tmp_path: Path) -> None:
    codes, messages = exit_codes(photo_folder, tmp_path, 1, "--tokenizer_training.steps", "100000")
    assert codes == [str(128 + signal.SIGTERM)] * 2
    assert messages.count("rerun the command to resume") == 1


def test_training_that_cannot_go_on_is_said_once(photo_folder: Path, tmp_path: Path) -> None:
    """Such a rate leaves no numbers after a step or two."""
    settings = ("--tokenizer_training.learning_rate", "1e30", "--run.skip_at_most", "1")
    codes, messages = exit_codes(photo_folder, tmp_path, None, *settings)
    assert codes == ["2", "2"]
    assert messages.count("run.skip_at_most") == 1


def test_what_is_said_of_the_data_is_said_once(photo_folder: Path, tmp_path: Path) -> None:
    """By the first process, for all that open the same folder."""
    data = tmp_path / "data"
    shutil.copytree(photo_folder, data)
    (data / "notes.txt").write_text("no picture")
    settings = ("--tokenizer_training.steps", "2", "--tokenizer_training.codebook.start", "0")
    codes, messages = exit_codes(data, tmp_path, None, *settings, "--run.sample_every", "0")
    assert codes == ["0", "0"]
    assert messages.count("ignored 1 files that are not pictures (.txt 1)") == 1
    assert messages.count("for training, none for validation") == 1
