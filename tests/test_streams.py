"""Standard output and error that end before the program does: a reader with enough, a lost terminal, a full disk."""

from __future__ import annotations

import errno
import importlib
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from strait.cli import main
from strait.model.config import ModelConfig
from strait.model.strait import random_model
from strait.tokenizer.config import TokenizerConfig
from strait.training.checkpoint import load_checkpoint
from strait.transformer.config import TransformerConfig
from test_resume import command, environment, wait_for_checkpoint

PYTHON = [sys.executable, "-m", "strait.cli"]
TINY = TransformerConfig(layers=1, width=16, mlp=24, heads=2)
TOKENIZER = TokenizerConfig(
    channels=8, multipliers=(1, 1, 2), res_blocks=1, stem_blocks=1, codebook_size=12, code_dim=4
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    random_model(ModelConfig(16, TOKENIZER, TINY, TINY), ["alp", "teddy"]).save_pretrained(folder)
    return folder


@pytest.fixture
def unread() -> int:
    """The end of a pipe into which one writes, and nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def test_images_are_written_whoever_reads_their_names(model: Path, tmp_path: Path, unread: int) -> None:
    words = [*PYTHON, "generate", "--model", str(model), "--count", "20", "--output", str(tmp_path / "out")]
    done = subprocess.run(words, env=environment(), stdout=unread, stderr=subprocess.PIPE, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert len(list((tmp_path / "out").iterdir())) == 20


def test_a_training_that_nobody_reads_ends_as_any_other(photo_folder: Path, tmp_path: Path, unread: int) -> None:
    words = command(photo_folder, tmp_path / "model", "--tokenizer_training.codebook.start", "10")
    words.insert(words.index("train") + 1, "tokenizer")
    done = subprocess.run(words, env=environment(), stdout=unread, stderr=unread, check=False)
    assert done.returncode == 0
    assert (tmp_path / "model" / "tokenizer.safetensors").exists()


def test_a_training_whose_terminal_is_lost_saves(photo_folder: Path, tmp_path: Path) -> None:
    keyboard, terminal = pty.openpty()
    words = command(photo_folder, tmp_path / "model", "--tokenizer_training.steps", "100000")
    process = subprocess.Popen(words, env=environment(), stdin=terminal, stdout=terminal, stderr=terminal)
    wait_for_checkpoint(tmp_path / "model", "tokenizer", process)
    os.close(terminal)
    os.close(keyboard)
    process.send_signal(signal.SIGHUP)
    assert process.wait(timeout=60) == 128 + signal.SIGHUP
    assert load_checkpoint(tmp_path / "model" / "runs" / "tokenizer" / "checkpoints") is not None


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_stream_that_was_never_open(model: Path, tmp_path: Path, closed: str) -> None:
    words = f"generate --model {model} --count 2 --output {tmp_path / 'out'}"
    done = subprocess.run(
        ["sh", "-c", f"{' '.join(PYTHON)} {words} {closed}"], env=environment(), capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    for file in (tmp_path / "out").iterdir():
        assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_an_output_that_cannot_be_written_is_one_line() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*PYTHON, "describe", "--config", "smoke"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.splitlines() == ["strait: no space left on device; free some space, then rerun the command"]


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "a/b.png"), "a/b.png: no space left on device; free some "),
        (
            PermissionError(errno.EACCES, "Permission denied", b"caf\xc3\xa9"),
            "café: permission denied; choose another",
        ),
        (OSError(errno.EFBIG, "File too large", "m.bin"), "m.bin: file too large; raise the limit of the size of "),
        (IsADirectoryError(errno.EISDIR, "Is a directory", "d"), "d: is a directory\n"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "x"), "x: no such file or directory\n"),
        (OSError("no such hub"), "no such hub\n"),
    ],
)
def test_errors_of_the_system_name_the_file_and_a_remedy(
    error: OSError, line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr(importlib.import_module("strait.commands.describe"), "run", run)
    assert main(["describe"]) == 2
    assert capsys.readouterr().err.startswith(f"strait: {line}")


@pytest.mark.parametrize(("encoding", "printed"), [("utf-8", b"caf\xe9.png\n"), ("ascii", b"caf\\udce9.png\n")])
def test_a_name_that_is_no_text_is_printed(model: Path, tmp_path: Path, encoding: str, printed: bytes) -> None:
    grid = os.fsencode(tmp_path) + b"/caf\xe9.png"
    words = [*map(os.fsencode, PYTHON), b"generate", b"--model", os.fsencode(model), b"--grid", grid]
    done = subprocess.run(words, env={**environment(), "PYTHONIOENCODING": encoding}, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.endswith(printed)
    assert Path(os.fsdecode(grid)).exists()
