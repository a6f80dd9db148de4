"""Fingerprints are of the data: of every byte, of the order and of the classes; not of paths, times or copies."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

from strait.data import fingerprint
from strait.data.sources import FolderSource, open_images
from test_images import encoded, library, noise, parquet  # noqa: F401

CLASSES = ["n01 cat", "n02 dog", "n03 emu"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STRAIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files made just now count as having lain there for long."""
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 60)


def pictures(folder: Path, *names: str) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(Image.fromarray(noise(9, 9, seed=number)), "PNG"))
    return folder


def shards(library, folder: Path) -> Path:  # noqa: F811
    parquet(library, folder / "train-00000-of-00002.parquet", 4, CLASSES)
    parquet(library, folder / "train-00001-of-00002.parquet", 3, CLASSES, first=4)
    return folder


def of(path: Path) -> str:
    return open_images(str(path), "train").fingerprint()


def flip_a_byte(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.usefixtures("settled")
def test_copies_touched_and_moved_are_the_same_data(library, tmp_path: Path) -> None:  # noqa: F811
    first = shards(library, tmp_path / "here")
    before = of(first)
    for file in first.iterdir():
        os.utime(file, (0, 0))
    assert of(first) == before
    shutil.copytree(first, tmp_path / "elsewhere" / "deeper")
    assert of(tmp_path / "elsewhere" / "deeper") == before
    folder = pictures(tmp_path / "photographs", "cat/a.png", "cat/b.png", "dog/c.png")
    before = of(folder)
    os.utime(folder / "cat" / "a.png", (0, 0))
    assert of(folder) == before
    assert of(shutil.copytree(folder, tmp_path / "other")) == before
    loose = pictures(tmp_path / "loose", "a.png", "b.png")
    assert of(shutil.copytree(loose, tmp_path / "called something else")) == of(loose)


@pytest.mark.usefixtures("settled")
def test_a_byte_of_a_shard_counts(library, tmp_path: Path) -> None:  # noqa: F811
    folder = shards(library, tmp_path / "data")
    before = of(folder)
    shard = folder / "train-00001-of-00002.parquet"
    place = shard.read_bytes().index(b"IDAT") + 8  # in the midst of a picture: the file is as readable as before
    times, size = (0, 0), shard.stat().st_size
    flip_a_byte(shard, place)
    os.utime(shard, times)
    assert shard.stat().st_size == size
    assert of(folder) != before
    flip_a_byte(shard, place)
    assert of(folder) == before
    first, second = sorted(folder.iterdir())
    first.rename(folder / "aside")
    second.rename(first)
    (folder / "aside").rename(second)
    assert of(folder) != before, "the same pictures in another order"


@pytest.mark.usefixtures("settled")
def test_a_byte_a_class_and_the_order_of_pictures_count(tmp_path: Path) -> None:
    names = ("cat/a.png", "cat/b.png", "dog/c.png")
    fingerprints = {of(pictures(tmp_path / "plain", *names))}
    # Of the same size, and as old to the second: what a listing cannot tell.
    changed = pictures(tmp_path / "byte", *names)
    flip_a_byte(changed / "cat" / "b.png", -20)
    fingerprints.add(of(changed))
    fingerprints.add(of(pictures(tmp_path / "order", "cat/b.png", "cat/a.png", "dog/c.png")))
    fingerprints.add(of(pictures(tmp_path / "class", "cat/a.png", "cow/b.png", "dog/c.png")))
    fingerprints.add(of(pictures(tmp_path / "renamed", "cat/a.png", "cat/b.png", "emu/c.png")))
    assert len(fingerprints) == 5


def test_bytes_are_read_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pictures(tmp_path / "data", "cat/a.png", "dog/b.png")
    read: list[Path] = []
    content = fingerprint._content

    def counted(path: Path) -> bytes:
        read.append(path)
        return content(path)

    monkeypatch.setattr(fingerprint, "_content", counted)
    # What was written a moment ago may be written again within one tick of the clock: nothing is kept of it.
    before = of(folder)
    assert of(folder) == before
    assert len(read) == 4
    monkeypatch.setattr(time, "time", lambda now=time.time: now() + 60)
    assert of(folder) == before
    assert len(read) == 6
    assert FolderSource(folder).fingerprint() == before
    assert len(read) == 6
    (kept,) = (cache / "fingerprints").iterdir()
    assert kept.read_text().strip() == before
    kept.write_text("half a fin")
    assert of(folder) == before
    assert len(read) == 8
    flip_a_byte(folder / "cat" / "a.png", -20)
    assert of(folder) != before


@pytest.mark.usefixtures("settled")
def test_a_cache_that_cannot_be_written_costs_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = pictures(tmp_path / "data", "cat/a.png", "dog/b.png")
    before = of(folder)
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("STRAIT_CACHE", str(tmp_path / "file"))
    assert of(folder) == before
