"""A model folder of an adversary's ends in one line, before memory is taken for what it asks for."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from strait.model import memory
from strait.model.config import ModelError
from strait.model.strait import StraIT, random_model
from test_fuzz import CONFIG

CLASSES = ["a", "b"]
_LOAD = """
import resource, sys
from strait.model.config import ModelError
from strait.model.strait import StraIT
used = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = used()
try:
    StraIT.from_pretrained(sys.argv[1])
except ModelError as error:
    print(used() - before, error)
"""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "model"
    random_model(CONFIG, CLASSES).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "model"))


def refused(folder: Path) -> str:
    with pytest.raises(ModelError) as error:
        StraIT.from_pretrained(folder)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
    return str(error.value)


def described(folder: Path, *place: str, value: Any) -> None:
    """Put a value into config.json."""
    content = json.loads((folder / "config.json").read_text())
    inner = content
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    (folder / "config.json").write_text(json.dumps(content))


def test_many_layers_take_no_memory(folder: Path) -> None:
    described(folder, "model", "top", "layers", value=500)
    described(folder, "model", "bottom", "layers", value=500)
    run = subprocess.run([sys.executable, "-c", _LOAD, str(folder)], capture_output=True, text=True, check=True)
    megabytes, _, message = run.stdout.partition(" ")
    assert "top.safetensors does not fit config.json: it holds" in message
    assert "too few for so many layers" in message
    # Their networks took 90 to 280 MB.
    assert int(megabytes) < 30


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("model", "top", "layers"), 500, "top.safetensors does not fit"),
        (("model", "bottom", "layers"), 10**9, "transformer.layers: 1000000000 must be at most 1000"),
        (("model", "bottom", "layers"), 10**4000, "transformer.layers"),
        (("model", "tokenizer", "res_blocks"), 90, "too few for so many blocks"),
        (("model", "tokenizer", "stem_blocks"), 90, "too few for so many blocks"),
        (("model", "tokenizer", "decoder_blocks"), 90, "too few for so many blocks"),
        (("model", "tokenizer", "stem_blocks"), 10**6, "tokenizer.stem_blocks: 1000000 must be at most 100"),
        (("model", "tokenizer", "multipliers"), [1] * 100_000, "100000 of them are too many"),
        (("model", "tokenizer", "multipliers"), [1, 1, 2**40], "tokenizer.channels"),
        (("model", "tokenizer", "channels"), 2**62, "tokenizer.channels"),
        (("model", "tokenizer", "code_dim"), 2**62, "code_dim"),
        (("model", "tokenizer", "codebook_size"), 2**62, "more than 65536 codes"),
        (("model", "tokenizer", "codebook_size"), 60_000, "does not fit"),
        (("model", "tokenizer", "patch"), 2**60, "image_size"),
        (("model", "image_size"), 2**40, "image_size: 1099511627776 must be at most 65536"),
        (("model", "image_size"), 2**16, "does not fit"),
        (("model", "top", "width"), 2**62, "transformer.width"),
        (("model", "top", "width"), 2**28, "does not fit"),
        (("model", "top", "mlp"), 2**28, "does not fit"),
        (("model", "top", "dropout"), float("nan"), "transformer.dropout"),
        (("decoding", "guidance"), float("inf"), "decoding.guidance"),
        (("decoding", "temperature"), [float("nan"), 1], "decoding.temperature"),
        (("decoding",), {"steps": [1] * 5, "temperature": [1] * 5}, "more levels than the 2"),
        (("model", "top", "layers"), ["x" * 1000] * 900, "must be int"),
        (("model", "x" * 100_000), 1, "is not a setting"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_no_weights_could_bear_is_one_line(
    folder: Path, place: tuple[str, ...], value: Any, message: str
) -> None:
    described(folder, *place, value=value)
    assert message in refused(folder)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"format":' * 50_000, " " * (2**20 + 1)], ids=len)
def test_a_description_without_end(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content)
    assert refused(folder).startswith(str(folder / "config.json"))


@pytest.mark.parametrize("name", ["config.json", "classes.txt", "README.md", "top.safetensors"])
@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device here")
def test_a_device_or_a_pipe_is_no_file(folder: Path, name: str) -> None:
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to("/dev/zero")
    assert f"{folder / name}" in refused(folder)
    (folder / name).unlink()
    os.mkfifo(folder / name)
    assert f"{folder / name}" in refused(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ab\n" * 1_500_000, "more than 4,194,304 bytes"),
        (b"ab\n" * 100_001, "100001 classes are too many (at most 100000)"),
        (b"ab\n" * 50_000, "it has no table for 50000 classes"),
        (b"a\n\xff\n", "can't decode"),
    ],
)
def test_classes_without_end(folder: Path, content: bytes, message: str) -> None:
    (folder / "classes.txt").write_bytes(content)
    error = refused(folder)
    assert message in error
    assert str(folder) in error


def test_a_card_without_end(folder: Path) -> None:
    (folder / "README.md").write_bytes(b"#" * (2**24 + 1))
    assert refused(folder) == f"{folder / 'README.md'}: it has more than 16,777,216 bytes"


def header(content: Any, size: int | None = None) -> bytes:
    """The beginning of a safetensors file."""
    text = json.dumps(content).encode() if not isinstance(content, bytes) else content
    return struct.pack("<Q", len(text) if size is None else size) + text


@pytest.mark.parametrize(
    "content",
    [
        header(b"{}", 2**63),
        header(b"{}", 2**24 + 1),
        header(b"[" * 100_000),
        header({"a": {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 8]}}) + bytes(8),
        header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}) + bytes(8),
        header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}) + bytes(4),
        header({"a": {"dtype": "X" * 10_000, "shape": [1], "data_offsets": [0, 4]}}) + bytes(4),
        header({"__metadata__": {"a": {"b": 1}}}),
        header({"__metadata__": [1]}),
        header({"__metadata__": {"a": "b" * 10**6}}),
        header({f"{number}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for number in range(1000)}),
    ],
    ids=lambda content: str(content[8:60]),
)
def test_headers_of_weight_files(folder: Path, content: bytes) -> None:
    (folder / "top.safetensors").write_bytes(content)
    assert str(folder / "top.safetensors") in refused(folder)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_numbers_of_another_kind_are_no_weights(folder: Path, dtype: torch.dtype) -> None:
    weights = load_file(folder / "top.safetensors")
    weights["head.norm.weight"] = weights["head.norm.weight"].to(dtype)
    save_file(weights, folder / "top.safetensors")
    assert "head.norm.weight holds" in refused(folder)


@pytest.mark.parametrize("removed", [(), ("top", "bottom")])
def test_weights_beyond_the_memory_are_refused_before_it_is_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch, removed: tuple[str, ...]
) -> None:
    """Of parts that have no file, too: nothing else bounds them."""
    for part in removed:
        (folder / f"{part}.safetensors").unlink()
        described(folder, "model", part, "width", value=2**20)
        described(folder, "model", part, "mlp", value=2**20)
    taken: list[object] = []
    emptied: Callable[..., Any] = StraIT.to_empty
    monkeypatch.setattr(
        StraIT, "to_empty", lambda *words, **options: taken.append(words) or emptied(*words, **options)
    )
    if not removed:
        monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    assert "GB are free here" in refused(folder)
    assert not taken
