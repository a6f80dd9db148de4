"""Small files are there whole or not at all, and what the system says of them names them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from strait.config import Config, write_config
from strait.runtime.files import naming, read_json, sha256, write_bytes, write_new, write_tensors, write_text
from strait.training.tracking import Tracker

full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")


def aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def leads_to_a_full_disk(path: Path) -> None:
    path.symlink_to("/dev/full")


@full
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_was_there_before_a_full_disk_is_still_there(tmp_path: Path, overwrite: bool) -> None:
    """With ``--overwrite`` too: the new content is put in place whole."""
    path = tmp_path / "0.png"
    if overwrite:
        path.write_bytes(b"before")
    leads_to_a_full_disk(aside(path))
    with pytest.raises(OSError, match=r"No space left on device: '.*/0\.png'$"):
        write_new(path, b"after", overwrite)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("0.png", b"before")] * overwrite


@full
def test_a_full_disk_names_the_settings(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    leads_to_a_full_disk(aside(tmp_path / "runs" / "config.yaml"))
    with pytest.raises(OSError, match=r"No space left on device: '.*/runs/config\.yaml'$"):
        write_config(tmp_path / "runs" / "config.yaml", Config())


@full
def test_a_full_disk_names_the_log(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, 1, 0, {})
    leads_to_a_full_disk(tmp_path / "log.jsonl")
    with pytest.raises(OSError, match=r"No space left on device: '.*/log\.jsonl'$"):
        tracker.add(1, {"loss": 1.0})


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere/a\.txt'$"):
        write_text(tmp_path / "nowhere" / "a.txt", "x")


def test_errors_in_words_of_ours_are_left_alone(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"^of ours$"), naming(tmp_path):
        raise OSError("of ours")


def test_the_hash_is_that_of_the_content(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_what_was_noted_is_read_or_its_damage_is_named(tmp_path: Path) -> None:
    assert read_json(tmp_path / "a.json", {}) == {}
    (tmp_path / "a.json").write_text('{"a": 1}')
    assert read_json(tmp_path / "a.json", {}) == {"a": 1}
    (tmp_path / "a.json").write_text('{"a"')
    with pytest.raises(ValueError, match=r"a\.json is damaged \(.*\); without it, it is made again$"):
        read_json(tmp_path / "a.json", {})


@pytest.mark.parametrize("several_writers", [False, True])
def test_tensors_are_there_whole_for_whoever_may_read_other_files(tmp_path: Path, several_writers: bool) -> None:
    path, values = tmp_path / "x.safetensors", {"b": torch.arange(6).view(2, 3).t(), "a": torch.ones(2)}
    write_text(tmp_path / "x.txt", "")
    write_tensors(path, values, several_writers=several_writers)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.safetensors", "x.txt"]
    assert path.stat().st_mode == (tmp_path / "x.txt").stat().st_mode
    loaded = load_file(path)
    assert loaded.keys() == values.keys()
    assert all(torch.equal(loaded[name], value) for name, value in values.items())
    before = path.read_bytes()
    write_tensors(path, dict(reversed(values.items())), several_writers=several_writers)
    assert path.read_bytes() == before


def test_tensors_that_cannot_be_written_leave_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(2)})
    before = path.read_bytes()
    (tmp_path / "x.safetensors.tmp").mkdir()  # in the way of what is written aside
    with pytest.raises(OSError, match=r"x\.safetensors: "):
        write_tensors(path, {"a": torch.zeros(2)})
    (tmp_path / "x.safetensors.tmp").rmdir()
    with pytest.raises(RuntimeError, match="Contiguous"):
        write_tensors(path, {"a": torch.zeros(2).to_sparse()})
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("x.safetensors", before)]
    with pytest.raises(OSError, match=r"'.*/absent/x\.safetensors'$"):
        write_tensors(tmp_path / "absent" / "x.safetensors", {"a": torch.ones(2)})
