"""A thousand damaged pictures in a folder of good ones: the good ones are trained on, the bad ones reported once."""

from __future__ import annotations

import io
import random
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import make_photograph
from strait.data.config import DataConfig
from strait.data.job import BadFiles
from strait.data.sources import FolderSource
from strait.data.training_images import training_batches
from test_resume import environment

SIZE = 16


def encoded(number: int, kind: str) -> bytes:
    stream = io.BytesIO()
    make_photograph("disc", number).save(stream, kind)
    return stream.getvalue()


def huge_png(side: int) -> bytes:
    """A few bytes that say they are a picture of any size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


def truncated(draw: random.Random, number: int) -> bytes:
    content = encoded(number, draw.choice(["JPEG", "PNG"]))
    return content[: int(len(content) * draw.uniform(0, 0.8))]


def flipped(draw: random.Random, number: int) -> bytes:
    content = bytearray(encoded(number, draw.choice(["JPEG", "PNG"])))
    for _ in range(draw.randint(1, 30)):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(content)


def of_another_kind(draw: random.Random, number: int) -> bytes:
    return draw.choice(
        [b"", b"<html></html>", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", b"\0" * 999]
    )


def huge(draw: random.Random, number: int) -> bytes:
    return huge_png(draw.choice([9_500, 20_000, 60_000, 2**31 - 1]))


KINDS: list[Callable[[random.Random, int], bytes]] = [truncated, flipped, of_another_kind, huge]


def can_be_read(content: bytes) -> bool:
    """By PIL alone: turned bits may leave a picture, of other colours."""
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG", "PNG"]) as picture:
            picture.convert("RGB")
    except Exception:
        return False
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, set[str], set[str]]:
    """The folder, and the names of the good and of the bad pictures in it."""
    folder, draw = tmp_path_factory.mktemp("damaged"), random.Random(0)
    good, bad = set(), set()
    for name in ("a", "b"):
        (folder / name).mkdir()
    for number in range(40):
        # Their names lie among those of the bad ones: which give way to the next good one, and all before it are read.
        path = folder / "ab"[number % 2] / f"{25 * number:04d}-good.png"
        make_photograph("square", number).save(path)
        good.add(str(path))
    number = 0
    while len(bad) < 1000:
        kind = KINDS[number % len(KINDS)]
        content, number = kind(draw, number % 50), number + 1
        if kind is not huge and can_be_read(content):
            continue
        name = f"{number:04d}-{kind.__name__}{draw.choice(['.jpg', '.png', '.webp', '.tif'])}"
        path = folder / draw.choice("ab") / name
        path.write_bytes(content)
        bad.add(str(path))
    return folder, good, bad


def test_all_good_ones_are_trained_on_and_all_bad_ones_reported_once(
    folder: tuple[Path, set[str], set[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    root, good, bad = folder
    source, bad_files = FolderSource(root), BadFiles()
    assert len(source) == 1040
    stream = training_batches(source, SIZE, 104, DataConfig(flip=False), 0, 0, 0)
    seen: set[str] = set()
    for _ in range(11):  # an epoch, and the beginning of the next
        batch = next(stream)
        bad_files.note(batch.bad)
        assert batch.pixels.shape == (104, SIZE, SIZE, 3)
        seen |= {source.name(index) for index in batch.indices.tolist()}
    bad_files.summary()
    assert seen == good
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "1000 unreadable images were skipped"
    reported = [line.removeprefix("skipped ").split(": ")[0] for line in lines[:-1]]
    assert sorted(reported) == sorted(bad)
    assert all(line.split(": ", 1)[1].strip() for line in lines[:-1])  # and each with a reason


def test_two_processes_report_a_bad_one_once(tmp_path: Path) -> None:
    pytest.importorskip("accelerate")
    data = tmp_path / "data"
    data.mkdir()
    for number in range(12):
        make_photograph("square", number).save(data / f"{number:02d}.png")
        (data / f"{number:02d}-bad.png").write_bytes(b"no picture")
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    words += ["-m", "strait.cli", "train", "tokenizer", "--config", "smoke", "--data", str(data)]
    words += ["--model", str(tmp_path / "model"), "--device", "cpu"]
    # One step, which is one epoch: half of it is seen by the second process alone.
    words += ["--run.sample_every", "0", "--tokenizer_training.batch_size", "24"]
    words += ["--tokenizer_training.steps", "1", "--tokenizer_training.codebook.start", "0"]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    reported = re.findall(r"skipped \S*?(\d\d)-bad\.png: ", done.stderr)
    assert sorted(map(int, reported)) == list(range(12))


def test_a_sound_picture_of_too_many_pixels_is_reported(tmp_path: Path) -> None:
    Image.new("1", (9_500, 9_500)).save(tmp_path / "huge.png")
    make_photograph("disc", 0).save(tmp_path / "small.png")
    assert (tmp_path / "huge.png").stat().st_size < 100_000
    batch = next(training_batches(FolderSource(tmp_path), SIZE, 2, DataConfig(), 0, 0, 0))
    assert [(Path(name).name, "exceeds limit of 89478485 pixels" in reason) for name, reason in batch.bad] == [
        ("huge.png", True)
    ]


def test_sixteen_bits_and_palettes_are_not_damage(tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 20), 40_000, np.uint16)).save(tmp_path / "deep.png")
    make_photograph("disc", 0).convert("P").save(tmp_path / "palette.gif")
    source = FolderSource(tmp_path)
    batch = next(training_batches(source, SIZE, 4, DataConfig(), 0, 0, 0))
    assert batch.bad == []
