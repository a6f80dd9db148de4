"""A finished part is believed as long as it is what it was; otherwise its last checkpoint makes it again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from strait.model.config import ModelError
from strait.runs.run_folder import forget_finished, is_finished, note_finished, refuse_damaged
from test_disasters import refused_here
from test_resume import command, finish

SHORT = ("--tokenizer_training.steps", "35", "--top_training.steps", "5", "--bottom_training.steps", "5")


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "runs" / "top").mkdir(parents=True)
    (tmp_path / "tokenizer.safetensors").write_bytes(b"t" * 300)
    (tmp_path / "top.safetensors").write_bytes(b"w" * 300)
    for part in ("tokenizer", "top"):
        note_finished(tmp_path, part, 10)
    return tmp_path


@pytest.mark.parametrize(("damage", "reason"), [(truncate, "200 bytes instead of 300"), (flip, "its hash differs")])
def test_a_damaged_part_is_not_finished(
    model: Path, damage: Callable[[Path], None], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert is_finished(model, "top", 10)
    assert not is_finished(model, "top", 11)
    assert capsys.readouterr().err == ""
    damage(model / "top.safetensors")
    assert not is_finished(model, "top", 10)
    assert reason in capsys.readouterr().err
    damage(model / "tokenizer.safetensors")
    with pytest.raises(ModelError, match=rf"tokenizer.safetensors is damaged \(.*{reason}\); strait train tokenizer"):
        refuse_damaged(model, "tokenizer")
    forget_finished(model, "tokenizer")
    refuse_damaged(model, "tokenizer")  # of an unfinished one nothing has been noted


def test_notes_without_hashes_are_believed(model: Path) -> None:
    note = model / "runs" / "top" / "finished.json"
    before = json.loads(note.read_text())
    note.write_text(json.dumps({name: before[name] for name in ("steps", "tokenizer")}))
    truncate(model / "top.safetensors")
    assert is_finished(model, "top", 10)


def test_a_truncated_part_is_made_again_from_its_checkpoint(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, words = tmp_path / "model", command(photo_folder, tmp_path / "model", *SHORT)
    finish(words)
    before = {path.name: path.read_bytes() for path in model.glob("*.safetensors")}
    truncate(model / "tokenizer.safetensors")
    truncate(model / "top.safetensors")
    capsys.readouterr()
    finish(words)
    messages = capsys.readouterr().err
    assert messages.count("is damaged (it has ") == 2
    assert "bottom: already finished" in messages
    assert {path.name: path.read_bytes() for path in model.glob("*.safetensors")} == before

    (model / "runs" / "top" / "tokenizer.txt").write_bytes(b"\xff\xfe\x00")
    line = refused_here([*words, "--top_training.steps", "6"], capsys)
    assert f"{model / 'runs' / 'top' / 'tokenizer.txt'} is damaged (it is not text)" in line
