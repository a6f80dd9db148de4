"""Checkpoints come back whole or not at all, whatever happens to the files and whenever the process is killed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from strait.runtime.files import write_tensors, write_text
from strait.training.checkpoint import load_checkpoint, save_checkpoint

NOTES = {"sums": {"loss": 1.25}, "weights": {"loss": 3.0}}


def state(step: int) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(step)
    return {
        "model/weight": torch.randn(40, 30, generator=draw),
        "model/half": torch.randn(7, generator=draw).bfloat16(),
        "model/turned": torch.randn(3, 5, generator=draw).T,
        "optimizer/step": torch.tensor(float(step)),
        "ids": torch.randint(-(2**62), 2**62, (4,), generator=draw),
        "flags": torch.tensor([True, False]),
        "nothing": torch.empty(0, 3),
        "learned": torch.nn.Parameter(torch.ones(2) * step),
    }


def save(folder: Path, *steps: int, keep: int = 10) -> None:
    for step in steps:
        save_checkpoint(folder, step, state(step), NOTES, keep)


def loaded_step(folder: Path) -> int | None:
    """The step that comes back; its tensors must then be those of that step, bit for bit."""
    checkpoint = load_checkpoint(folder)
    if checkpoint is None:
        return None
    step, tensors, notes = checkpoint
    expected = state(step)
    assert tensors.keys() == expected.keys()
    for name, value in expected.items():
        assert tensors[name].dtype == value.dtype
        assert tensors[name].shape == value.shape
        assert torch.equal(tensors[name], value.detach())
    assert notes == NOTES
    return step


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_there_and_back(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "runs" / "checkpoints", 12, state(12), NOTES, keep=1)
    assert path.name == "step-00000012"
    assert loaded_step(tmp_path / "runs" / "checkpoints") == 12


def test_nothing_there_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path / "not there") is None
    assert load_checkpoint(tmp_path) is None


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_are_kept(tmp_path: Path, keep: int) -> None:
    save(tmp_path, 5, 90, 100, 1000, keep=keep)
    assert names(tmp_path) == ["step-00000005", "step-00000090", "step-00000100", "step-00001000"][-keep:]
    assert loaded_step(tmp_path) == 1000


def test_the_manifest_holds_size_and_hash_of_each_file(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 3, state(3), NOTES, keep=1)
    manifest = json.loads((path / "manifest.json").read_text())
    assert set(manifest) == {"state.safetensors", "state.json"}
    for name, entry in manifest.items():
        content = (path / name).read_bytes()
        assert entry == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def cut(path: Path, name: str = "state.safetensors") -> None:
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[: len(content) // 2])


def flip(path: Path, name: str = "state.safetensors") -> None:
    content = bytearray((path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (path / name).write_bytes(bytes(content))


DAMAGE: dict[str, Callable[[Path], None]] = {
    "half a file": cut,
    "one bit": flip,
    "half the notes": lambda path: cut(path, "state.json"),
    "one bit of the notes": lambda path: flip(path, "state.json"),
    "half the manifest": lambda path: cut(path, "manifest.json"),
    "an empty manifest": lambda path: (path / "manifest.json").write_text("{}") and None,
    "an odd manifest": lambda path: (path / "manifest.json").write_text("[]") and None,
    "a hash alone": lambda path: (path / "manifest.json").write_text('{"state.safetensors": {"sha256": ""}}') and None,
    "no manifest": lambda path: (path / "manifest.json").unlink(),
    "no tensors": lambda path: (path / "state.safetensors").unlink(),
    "no notes": lambda path: (path / "state.json").unlink(),
    "nothing at all": lambda path: [file.unlink() for file in path.iterdir()] and None,
}


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_one_is_passed_over_for_the_one_before(
    tmp_path: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, 10, 20, 30)
    DAMAGE[damage](tmp_path / "step-00000030")
    assert loaded_step(tmp_path) == 20
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"skipped the checkpoint {tmp_path / 'step-00000030'}: ")
    DAMAGE[damage](tmp_path / "step-00000020")
    assert loaded_step(tmp_path) == 10
    # Each is named once, and set aside rather than deleted.
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert (tmp_path / "damaged-step-00000030").is_dir()
    DAMAGE[damage](tmp_path / "step-00000010")
    assert load_checkpoint(tmp_path) is None


@pytest.mark.parametrize("keep", [1, 2])
def test_what_is_saved_after_a_fall_back_is_what_comes_back(tmp_path: Path, keep: int) -> None:
    save(tmp_path, 50, 100)
    flip(tmp_path / "step-00000100")
    assert loaded_step(tmp_path) == 50
    for step in (60, 70):  # training goes on from 50, and must not lose its way to the damaged one
        save(tmp_path, step, keep=keep)
        assert loaded_step(tmp_path) == step


def test_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 7, {"old": torch.zeros(2)}, {}, keep=2)
    save(tmp_path, 7)
    assert loaded_step(tmp_path) == 7
    assert names(tmp_path) == ["step-00000007"]


def test_what_a_kill_left_aside_does_not_count(tmp_path: Path) -> None:
    save(tmp_path, 10, 20)
    (tmp_path / "step-00000020").rename(tmp_path / ".step-00000020.tmp")
    assert loaded_step(tmp_path) == 10
    save(tmp_path, 20)
    assert names(tmp_path) == ["step-00000010", "step-00000020"]
    assert loaded_step(tmp_path) == 20


def no_space(tensors: dict[str, torch.Tensor], path: str, metadata: None) -> None:
    Path(path).write_bytes(b"half of it")
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("keep", [1, 2])
def test_a_write_that_fails_leaves_the_earlier_ones(
    tmp_path: Path, keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 10, 20, keep=keep)
    before = names(tmp_path)
    monkeypatch.setattr("safetensors.torch.save_file", no_space)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 30, keep=keep)
    assert names(tmp_path) == before
    assert loaded_step(tmp_path) == 20


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_kill_at_any_moment_leaves_the_old_one_or_the_new_one(tmp_path: Path) -> None:
    """A child process dies, without a chance to clean up, at each of the moments when something reaches the disk."""
    outcomes = []
    for moment in range(12):
        folder = tmp_path / str(moment)
        save(folder, 10, 20, keep=2)
        child = os.fork()
        if child == 0:
            left = [moment]

            def die_at_last(call: Callable, left: list[int] = left) -> Callable:
                def wrapped(*arguments, **settings):
                    if left[0] == 0:
                        os._exit(9)
                    left[0] -= 1
                    return call(*arguments, **settings)

                return wrapped

            try:
                os.fsync = die_at_last(os.fsync)
                Path.replace = die_at_last(Path.replace)  # type: ignore[method-assign]
                save(folder, 30, keep=2)
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        step = loaded_step(folder)
        assert step in (20, 30)
        outcomes.append((os.waitstatus_to_exitcode(status), step))
        # And the next run goes on as if nothing had been there.
        save(folder, 40, keep=2)
        assert loaded_step(folder) == 40
        assert len(list(folder.glob("step-*"))) == 2
    assert {code for code, _ in outcomes} == {0, 9}, "it was killed, or came to its end; it never failed"
    assert outcomes[0] == (9, 20)
    assert outcomes[-1] == (0, 30)


def test_equal_tensors_are_equal_files(tmp_path: Path) -> None:
    forwards = state(1)
    backwards = dict(reversed(forwards.items()))
    write_tensors(tmp_path / "a.safetensors", forwards)
    write_tensors(tmp_path / "b.safetensors", backwards)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    assert names(tmp_path) == ["a.safetensors", "b.safetensors"]


def test_a_small_file_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "note.json"
    write_text(path, "old")
    write_text(path, "new")
    assert path.read_text() == "new"

    def stop(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        write_text(path, "newer")
    assert path.read_text() == "new"
