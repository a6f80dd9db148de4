"""Two processes with half the batch each, and one with pieces of it, learn what one learns with the whole."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from test_resume import command, environment, finish, logged_steps

pytest.importorskip("accelerate", reason="several processes need accelerate (the extra train)")

WORKER = Path(__file__).with_name("worker.py")
Outcome = tuple[dict[str, list[float]], dict[str, torch.Tensor]]


def execute(processes: int, task: str, photos: Path, out: Path, *settings: str) -> Outcome:
    out.mkdir(parents=True, exist_ok=True)
    words = [str(WORKER), task, str(photos), str(out / "state.safetensors"), *settings]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "STRAIT_CACHE": str(out / "features")}
    done = subprocess.run(
        [sys.executable, *(launcher if processes > 1 else []), *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    curves = json.loads((out / "state.json").read_text())
    return curves, load_file(out / "state.safetensors")


def same(ours: Outcome, theirs: Outcome, tolerance: float = 1e-9) -> None:
    assert ours[0].keys() == theirs[0].keys()
    for name, curve in theirs[0].items():
        assert ours[0][name] == pytest.approx(curve, rel=tolerance, abs=1e-12), name
    assert ours[1].keys() == theirs[1].keys()
    for name, value in theirs[1].items():
        torch.testing.assert_close(ours[1][name], value, rtol=1e-6, atol=1e-8, msg=lambda text, n=name: f"{n}: {text}")


@pytest.fixture(scope="module")
def tokenizer_alone(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return execute(1, "tokenizer", photo_folder, tmp_path_factory.mktemp("alone"))


def test_the_stage_1_compared_has_everything_in_it(tokenizer_alone: Outcome) -> None:
    """Otherwise what follows would prove nothing: discriminator, R1, entropy term and restarts are all at work."""
    curves, _ = tokenizer_alone
    assert len(curves["loss"]) == 20
    assert {"adversarial", "discriminator", "r1", "entropy", "logits_real"} <= curves.keys()
    assert sum(curves["restarted"]) > 0
    assert curves["loss"][0] != curves["loss"][-1]


@pytest.mark.parametrize(
    ("processes", "accumulate"),
    [(2, 2), pytest.param(2, 1, marks=pytest.mark.slow), pytest.param(1, 3, marks=pytest.mark.slow)],
)
def test_stage_1_is_the_same(
    photo_folder: Path, tmp_path: Path, tokenizer_alone: Outcome, processes: int, accumulate: int
) -> None:
    same(execute(processes, "tokenizer", photo_folder, tmp_path, f"accumulate={accumulate}"), tokenizer_alone)


def test_the_classifier_is_the_same(photo_folder: Path, tmp_path: Path) -> None:
    alone = execute(1, "classifier", photo_folder, tmp_path / "alone")
    assert len(alone[0]["loss"]) == 20
    assert alone[0]["loss"][0] != alone[0]["loss"][-1]
    same(execute(2, "classifier", photo_folder, tmp_path / "pieces", "accumulate=3"), alone)


@pytest.fixture(scope="module")
def levels_alone(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Outcome]:
    folder = tmp_path_factory.mktemp("alone")
    return [execute(1, "transformer", photo_folder, folder / str(level), f"level={level}") for level in (0, 1)]


@pytest.mark.parametrize(
    ("level", "processes", "accumulate", "parallel"),
    [
        (0, 2, 3, "ddp"),
        (1, 2, 2, "fsdp"),
        *(
            pytest.param(level, *how, marks=pytest.mark.slow)
            for level in (0, 1)
            for how in ((2, 1, "ddp"), (1, 4, "ddp"), (2, 1, "fsdp"), (2, 3, "fsdp"))
        ),
    ],
)
def test_stage_2_is_the_same(
    photo_folder: Path,
    tmp_path: Path,
    levels_alone: list[Outcome],
    level: int,
    processes: int,
    accumulate: int,
    parallel: str,
) -> None:
    settings = (f"level={level}", f"accumulate={accumulate}", f'parallel="{parallel}"')
    same(execute(processes, "transformer", photo_folder, tmp_path, *settings), levels_alone[level])


def test_work_is_shared_and_put_together_in_order(photo_folder: Path, tmp_path: Path) -> None:
    """Token cache, generated images and reference: the same for any number of processes."""
    _, alone = execute(1, "shared", photo_folder, tmp_path / "one")
    _, shared = execute(2, "shared", photo_folder, tmp_path / "two")
    assert alone.keys() == shared.keys()
    assert all(torch.equal(alone[name], shared[name]) for name in alone)
    assert [len(alone[name]) for name in ("labels", "made", "real")] == [40, 7, 40]


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
    _, said = process.communicate(timeout=60)
    assert process.returncode
    assert said.count("rerun the command to resume") == 1  # the first process speaks for both
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
    _, said = process.communicate(timeout=120)
    assert process.returncode
    own = [line for line in said.splitlines() if line.startswith("strait: ")]
    assert len(own) <= 1  # torchrun may end the other before it notices
    assert all(re.search("another process of this run is gone", line) for line in own)
    assert "strait/cli.py" not in said
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
    codes, said = exit_codes(photo_folder, tmp_path, 1, "--tokenizer_training.steps", "100000")
    assert codes == [str(128 + signal.SIGTERM)] * 2
    assert said.count("rerun the command to resume") == 1


def test_training_that_cannot_go_on_is_said_once(photo_folder: Path, tmp_path: Path) -> None:
    """Such a rate leaves no numbers after a step or two."""
    settings = ("--tokenizer_training.learning_rate", "1e30", "--run.skip_at_most", "1")
    codes, said = exit_codes(photo_folder, tmp_path, None, *settings)
    assert codes == ["2", "2"]
    assert said.count("run.skip_at_most") == 1
