"""Small files are there whole or not at all, and what the system says of them names them."""

from __future__ import annotations

import os
import resource
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from strait.config import Config, write_config
from strait.runtime.files import naming, read_json, sha256, write_bytes, write_new, write_tensors, write_text
from strait.training.tracking import Tracker

full = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")


@contextmanager
def no_room(size: int = 2) -> Iterator[None]:
    """While it lasts, the kernel lets no file grow beyond so many bytes: as a full disk, but for the words."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_was_there_before_a_full_disk_is_still_there(tmp_path: Path, overwrite: bool) -> None:
    """With ``--overwrite`` too: the new content is put in place whole."""
    path = tmp_path / "0.png"
    if overwrite:
        path.write_bytes(b"before")
    with no_room(), pytest.raises(OSError, match=r"File too large: '.*/0\.png'$"):
        write_new(path, b"after", overwrite)
    assert contents(tmp_path) == ({"0.png": b"before"} if overwrite else {})


def test_a_full_disk_names_the_settings(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with no_room(), pytest.raises(OSError, match=r"File too large: '.*/runs/config\.yaml'$"):
        write_config(tmp_path / "runs" / "config.yaml", Config())
    assert contents(tmp_path / "runs") == {}


def test_tensors_that_find_no_room_leave_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": torch.arange(3)})
    before = path.read_bytes()
    with no_room(100), pytest.raises(OSError, match=r"a\.safetensors"):
        write_tensors(path, {"x": torch.arange(300)})
    assert contents(tmp_path) == {"a.safetensors": before}
    assert load_file(path)["x"].tolist() == [0, 1, 2]


def test_a_link_planted_under_a_temporary_name_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever knew the name: the file that it leads to stays as it was, and nothing is written."""
    monkeypatch.setattr(secrets, "token_hex", lambda count: "0" * 2 * count)
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / f".a.txt.{'0' * 16}.tmp").symlink_to(tmp_path / "victim")
    with pytest.raises(FileExistsError):
        write_bytes(tmp_path / "a.txt", b"x")
    assert (tmp_path / "victim").read_bytes() == b"precious"
    assert not (tmp_path / "a.txt").exists()


def test_temporary_names_differ_each_time_and_are_readable_as_other_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    replace = Path.replace

    def noted(self: Path, target: Path) -> Path:
        names.append(self.name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", noted)
    before = os.umask(0o022)
    try:
        for _ in range(3):
            write_bytes(tmp_path / "a.txt", b"x")
            write_tensors(tmp_path / "a.safetensors", {"x": torch.zeros(1)})
    finally:
        os.umask(before)
    assert len(set(names)) == 6
    assert not any(str(os.getpid()) == part for name in names for part in name.split("."))
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o644}


def test_what_a_killed_writer_left_is_removed_once_it_is_old(tmp_path: Path) -> None:
    old, new, other = (tmp_path / f".{name}.{digit * 16}.tmp" for name, digit in (("a", "1"), ("a", "2"), ("b", "3")))
    for left in (old, new, other):
        left.write_bytes(b"half")
    os.utime(old, (0, 0))
    os.utime(other, (0, 0))
    write_bytes(tmp_path / "a", b"x")
    assert set(contents(tmp_path)) == {"a", new.name, other.name}


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path: Path) -> None:
    write_bytes(tmp_path / ("ö" * 127), b"x")
    write_new(tmp_path / ("x" * 255), b"y", overwrite=False)
    assert set(contents(tmp_path).values()) == {b"x", b"y"}


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_comes_while_ours_is_written_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    path = tmp_path / "0.png"

    def flush_and_lose_the_race(written: Path) -> None:
        path.write_bytes(b"theirs")

    monkeypatch.setattr("strait.runtime.files.flush", flush_and_lose_the_race)
    if not links:
        monkeypatch.setattr(os, "link", cannot_link)
    with pytest.raises(FileExistsError, match="exists and differs"):
        write_new(path, b"ours", overwrite=False)
    assert contents(tmp_path) == {"0.png": b"theirs"}


def cannot_link(*arguments: object, **options: object) -> None:
    raise PermissionError(1, "Operation not permitted")


@pytest.mark.parametrize("links", [True, False])
def test_new_files_are_written_with_and_without_hard_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", cannot_link)
    for _ in range(2):  # the same content again is no conflict
        write_new(tmp_path / "deeper" / "0.png", b"ours", overwrite=False)
    write_new(tmp_path / "deeper" / "0.png", b"other", overwrite=True)
    assert contents(tmp_path / "deeper") == {"0.png": b"other"}


@full
def test_a_full_disk_names_the_log(tmp_path: Path) -> None:
    tracker = Tracker(tmp_path, 1, 0, {})
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
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
    with pytest.raises(ValueError, match=r"a\.json is damaged \(.*\); delete it, and it is created again$"):
        read_json(tmp_path / "a.json", {})


def test_tensors_are_there_whole_for_whoever_may_read_other_files(tmp_path: Path) -> None:
    path, values = tmp_path / "x.safetensors", {"b": torch.arange(6).view(2, 3).t(), "a": torch.ones(2)}
    write_text(tmp_path / "x.txt", "")
    write_tensors(path, values)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["x.safetensors", "x.txt"]
    assert path.stat().st_mode == (tmp_path / "x.txt").stat().st_mode
    loaded = load_file(path)
    assert loaded.keys() == values.keys()
    assert all(torch.equal(loaded[name], value) for name, value in values.items())
    before = path.read_bytes()
    write_tensors(path, dict(reversed(values.items())))
    assert path.read_bytes() == before


def test_tensors_that_cannot_be_written_leave_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(2)})
    before = path.read_bytes()
    with no_room(10), pytest.raises(OSError, match=r"x\.safetensors: "):
        write_tensors(path, {"a": torch.zeros(200)})
    with pytest.raises(RuntimeError, match="Contiguous"):
        write_tensors(path, {"a": torch.zeros(2).to_sparse()})
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("x.safetensors", before)]
    with pytest.raises(OSError, match=r"'.*/absent/x\.safetensors'$"):
        write_tensors(tmp_path / "absent" / "x.safetensors", {"a": torch.ones(2)})
