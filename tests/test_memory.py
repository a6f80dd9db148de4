"""What does not fit into memory ends in one line that says what would."""

from __future__ import annotations

import dataclasses
import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from strait import cli
from strait.config import config_names, config_path, read_config
from strait.model import memory
from strait.model.config import ModelError
from strait.model.memory import least_parameters, least_tensors, refuse_what_cannot_fit
from strait.model.parts import build_part
from test_disasters import refused
from test_resume import command


def test_a_batch_that_does_not_fit(photo_folder: Path, tmp_path: Path) -> None:
    """In a process that may have four gigabytes, an allocation really fails."""
    words = command(photo_folder, tmp_path / "model", "--tokenizer_training.batch_size", "48", "--device", "cpu")
    words += ["--run.precision", "float32", "--tokenizer.channels", "64", "--image_size", "256"]
    limit = 4 << 30
    line = refused(words, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)))
    assert "out of memory" in line
    assert "batch_size" in line
    assert "accumulate" in line


@pytest.mark.parametrize("setting", [("--top.width", "4194304"), ("--tokenizer.channels", "4194304")])
def test_a_part_larger_than_the_machine_is_refused_at_once(
    photo_folder: Path, tmp_path: Path, setting: tuple[str, str]
) -> None:
    line = refused(command(photo_folder, tmp_path / "model", "--device", "cpu", *setting))
    assert "its weights need at least" in line
    assert "GB are free on cpu" in line
    assert not (tmp_path / "model" / "runs").exists()


@pytest.mark.parametrize("name", config_names())
def test_the_lower_bound_is_one(name: str) -> None:
    config = read_config(config_path(name)).model
    for part in config.parts:
        with torch.device("meta"):
            module = build_part(config, part, 1000)
        real = sum(value.numel() for value in module.parameters())
        assert real * 0.3 < least_parameters(config, part) <= real
        tensors = len(module.state_dict())
        assert tensors * 0.3 < least_tensors(config, part) <= tensors


def test_a_device_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    config = read_config(config_path("imagenet256")).model
    monkeypatch.setattr(memory, "free_bytes", lambda device: 10**9)
    with pytest.raises(ModelError, match=r"top: its weights need at least 2\.0 GB, but only 1\.0 GB are free on cpu"):
        refuse_what_cannot_fit(config, "top", torch.device("cpu"))
    refuse_what_cannot_fit(config, "tokenizer", torch.device("cpu"))
    monkeypatch.setattr(memory, "free_bytes", lambda device: None)
    refuse_what_cannot_fit(dataclasses.replace(config, image_size=512), "top", torch.device("cpu"))


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nmore"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 99 bytes."),
    ],
)
def test_each_kind_of_failed_allocation_is_a_line(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Verb:
        @staticmethod
        def run(words: list[str]) -> int:
            raise error

    monkeypatch.setattr(cli, "_module", lambda verb: Verb)
    assert cli.main(["describe"]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "out of memory" in message


def test_other_errors_of_torch_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    class Verb:
        @staticmethod
        def run(words: list[str]) -> int:
            raise RuntimeError("shapes do not match")

    monkeypatch.setattr(cli, "_module", lambda verb: Verb)
    with pytest.raises(RuntimeError, match="shapes"):
        cli.main(["describe"])


_FAULTS = """
import platform
import resource
import subprocess
import sys
import torch
from strait.runtime.devices import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

first = faults()
keep_freed_memory()
faults()
print(first, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    process = subprocess.run([sys.executable, "-c", _FAULTS], capture_output=True, text=True, check=True)
    given_back, kept = map(int, process.stdout.split())
    assert given_back > 10 * 1000, "the allocator keeps such tensors by itself: this test tests nothing"
    assert kept < 1000
