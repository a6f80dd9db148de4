"""Where a command reads and writes: what cannot be meant is refused at once, and no name costs finished work."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from strait.cli import main
from strait.model.config import ModelConfig
from strait.model.strait import random_model
from strait.runs.run_folder import settled_classes
from strait.runtime.files import usable_stem, write_bytes
from strait.tokenizer.config import TokenizerConfig
from strait.transformer.config import TransformerConfig

TINY = TransformerConfig(layers=1, width=16, mlp=24, heads=2)
TOKENIZER = TokenizerConfig(
    channels=8, multipliers=(1, 1, 2), res_blocks=1, stem_blocks=1, codebook_size=12, code_dim=4
)
CONFIG = ModelConfig(16, TOKENIZER, TINY, TINY)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    random_model(CONFIG, ["alp", "teddy"]).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert main([str(word) for word in words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("strait: ")


# Refused before anything is loaded: the model does not exist.


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("generate", "--grid", "."), "--grid: . is a folder; give a file in it"),
        (("generate", "--grid", "sheet.jpg"), "--grid: sheet.jpg must end in .png"),
        (("generate", "--output", "file.txt"), "--output: file.txt is a file; give a folder"),
        (("generate", "--grid", "x" * 252 + ".png"), "more than 255 bytes"),
        (("edit", "upsample", "file.txt", "--output", "file.txt"), "--output: file.txt is a file"),
        (("export", "--output", "file.txt"), "--output: file.txt is a file"),
        (("evaluate", "reconstruction", "--data", ".", "--grid", "a.webp"), "--grid: a.webp must end in .png"),
        (("study", "results", "s", "--chart", "a.pdf"), "--chart: a.pdf must end in .png"),
    ],
)
def test_an_output_that_cannot_be_is_refused_first(
    words: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file.txt").write_text("mine")
    more = () if words[0] == "study" else ("--model", "nowhere")
    assert message in refused(capsys, *words, *more)
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_a_models_file_is_not_the_model(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = model / "top.safetensors"
    before = file.read_bytes()
    assert f"{file} is a file; give the folder that contains it, {model}" in refused(
        capsys, "describe", "--model", file
    )
    message = refused(capsys, "train", "--config", "smoke", "--data", ".", "--model", file)
    assert f"--model: {file} is a file; give a folder, such as {model}" in message
    assert file.read_bytes() == before


def test_pointers_to_weights_say_how_to_get_them(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n"
    (model / "top.safetensors").write_text(pointer)
    assert refused(capsys, "describe", "--model", model).endswith("git lfs pull")


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (["alp", "teddy", "zebra"], "its 3 classes are not the 2 that .* started with \\(new: 'zebra'\\)"),
        (["alp", "bee", "cat", "teddy"], "new: 'bee' and 1 more"),
        (["alp"], "missing: 'teddy'"),
        (["teddy", "alp"], "number 0 was 'alp' and is now 'teddy'"),
        ([], "missing: 'alp' and 1 more"),
    ],
)
def test_other_classes_than_before_are_named(model: Path, now: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=rf"{message}.*; choose another --model, with --init-from {model}"):
        settled_classes(model, now)
    assert settled_classes(model, ["alp", "teddy"]) == ["alp", "teddy"]


def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        message = refused(capsys, "web", "--port", port, "--model", "nowhere")
    assert message.startswith(f"--port: 127.0.0.1:{port} is not available (Address already in use")
    assert message.endswith("choose another, or omit --port")


# Names


def test_a_pictures_long_name_costs_no_result(model: Path, tmp_path: Path) -> None:
    picture = tmp_path / ("猫" * 80 + ".png")
    Image.new("RGB", (16, 16)).save(picture)
    words = ["edit", "transfer", str(picture), "--label", "alp", "--model", str(model), "--output"]
    assert main([*words, str(tmp_path / "out")]) == 0
    (name,) = os.listdir(tmp_path / "out")
    assert name == "猫" * 50 + "-transfer-seed0-0000.png"


def test_a_terminal_is_left_alone_by_a_name(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = tmp_path / "a\x1b[2Jb\n.png"
    Image.new("RGB", (16, 16)).save(picture)
    words = ["edit", "transfer", str(picture), "--label", "alp", "--model", str(model), "--output"]
    assert main([*words, str(tmp_path / "out")]) == 0
    output = capsys.readouterr().out
    assert output.endswith("/a_[2Jb_-transfer-seed0-0000.png\n")
    assert "\x1b" not in refused(capsys, "generate", "--grid", "g.png", "--model", "no\x1b[2J")


def test_long_names_of_classes_cost_no_image(tmp_path: Path) -> None:
    classes = ["a" * 300, "a" * 299 + "b", "猫"]
    random_model(CONFIG, classes).save_pretrained(tmp_path / "model")
    words = ["generate", "--model", str(tmp_path / "model"), "--labels", ",".join(classes)]
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    names = sorted(os.listdir(tmp_path / "out"))
    assert names == [
        "2-seed0-0000.png",
        "a" * 150 + "-0-seed0-0000.png",
        "a" * 150 + "-1-seed0-0000.png",
    ]


def test_a_file_may_have_the_longest_name_there_is(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 255)
    write_bytes(path, b"content")
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [(path.name, b"content")]


def test_a_stem_keeps_whole_characters() -> None:
    assert usable_stem("photo 1") == "photo 1"
    assert usable_stem("é" * 100, longest=5) == "éé"
    assert usable_stem("a\tb\x9b\x7f") == "a_b__"
    assert usable_stem("caf\udce9") == "caf\udce9"


# A user of whom the system knows nothing

_NOBODY = """
import os, pwd, sys
def unknown(number):
    raise KeyError(f"getpwuid(): uid not found: {number}")
pwd.getpwuid = unknown
for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME", "STRAIT_CACHE"):
    os.environ.pop(name, None)
if sys.argv[1] == "python":
    from strait.runtime.files import cache_folder
    cache_folder()
from strait.cli import main
sys.exit(main())
"""


def as_nobody(*words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _NOBODY, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_user_without_a_home_trains_and_leaves_nothing_behind(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    few = ["--tokenizer_training.steps", "4", "--tokenizer_training.codebook.start", "1", "--run.sample_every", "0"]
    words = ["train", "tokenizer", "--config", "smoke", "--data", photo_folder, "--model", tmp_path / "model", *few]
    done = as_nobody(*words)
    assert done.returncode == 0, done.stderr
    assert not list((tmp_path / "temporary").glob("strait-home-*"))
    hub = as_nobody("describe", "--model", "nobody/nothing")
    assert hub.returncode == 2
    assert "home" not in hub.stderr
    assert "Traceback" not in hub.stderr


def test_a_programmer_without_a_home_is_told_what_to_set() -> None:
    assert "set HOME, or set STRAIT_CACHE" in as_nobody("python").stderr
