"""What lies in people's folders besides pictures, or in their place: links, pipes, archives, classes in files."""

from __future__ import annotations

import json
import os
import re
import socket
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from strait.data.images import read_square
from strait.data.sources import DataError, ImageSource, open_images
from strait.data.streamed import open_stream
from strait.pictures.reading import PictureError, picture_of
from test_readers import SIDE, Reader, pixels, png, put, reader, write_tar

__all__ = ["reader"]


def classes_of(source: ImageSource, folder: Path) -> dict[str, str | None]:
    """Every picture's class, by name."""
    named = [source.classes[label] if label >= 0 else None for label in source.labels().tolist()]
    return {str(Path(source.name(index)).relative_to(folder)): name for index, name in enumerate(named)}


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


# Links and what is no file.


def test_a_link_that_leads_back_is_no_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path / "data", "cats/1.png", "dogs/2.png")
    (tmp_path / "data" / "here").symlink_to(".")
    (tmp_path / "data" / "above").symlink_to(tmp_path)
    source = open_images(str(tmp_path / "data"), "train")
    assert classes_of(source, tmp_path / "data") == {"cats/1.png": "cats", "dogs/2.png": "dogs"}
    assert said(capsys).count("is a link to a folder that contains it; it is ignored\n") == 2


def test_a_class_may_be_a_link_and_what_is_not_followed_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path / "data", "cats/1.png")
    put(tmp_path / "elsewhere", "2.png", "3.png")
    (tmp_path / "data" / "dogs").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "cats" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "cats" / "gone.png").symlink_to("/nowhere/gone.png")
    source = open_images(str(tmp_path / "data"), "train")
    assert list(classes_of(source, tmp_path / "data").values()) == ["cats", "dogs", "dogs"]
    line = said(capsys)
    assert "1 links to folders within folders" in line
    assert "1 links that lead nowhere" in line


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes with names here")
def test_a_pipe_is_waited_for_by_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, "cats/1.png", "2.png")
    os.mkfifo(tmp_path / "cats" / "pipe.png")
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener:
        place = os.getcwd()
        os.chdir(tmp_path)  # the path of a socket is short
        try:
            listener.bind("cats/socket.png")
        finally:
            os.chdir(place)
        source = open_images(str(tmp_path), "train")
    assert classes_of(source, tmp_path) == {"cats/1.png": "cats"}
    assert "3 pipes, sockets and devices" in said(capsys)


@pytest.fixture
def as_somebody() -> Iterator[Path]:
    """A folder to work in as a user who may not read everything, which the superuser may."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        is_root = os.geteuid() == 0
        if is_root:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if is_root:
                os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="there are no such rights here")
def test_a_folder_that_may_not_be_read_is_not_passed_over(as_somebody: Path) -> None:
    put(as_somebody / "data", "cats/1.png", "dogs/2.png", "dogs/deep/3.png")
    (as_somebody / "data" / "lost+found").mkdir(mode=0)  # at the root of a disk; nobody's photographs
    closed = as_somebody / "data" / "dogs" / "deep"
    closed.chmod(0)
    try:
        with pytest.raises(
            DataError, match=r"--data: .*dogs/deep cannot be read \(Permission denied\); give yourself"
        ):
            open_images(str(as_somebody / "data"), "train")
    finally:
        closed.chmod(0o700)
    assert len(open_images(str(as_somebody / "data"), "train")) == 3


def test_names_with_backslashes_are_a_zip_unpacked_wrongly(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, "train\\cats\\1.png", "train\\dogs\\1.png")
    assert list(open_images(str(tmp_path), "train").classes) == []
    assert "2 names hold backslashes, such as train\\cats\\1.png: a zip that was unpacked wrongly" in said(capsys)


# Folders that number, and files that say classes.


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (("00000/00000.png", "00000/00999.png", "01000/01000.png", "69000/69999.png"), []),
        (("00000/img00000000.png", "00000/img00000999.png", "00001/img00001000.png"), []),
        (("00000/00005.png",), []),
        # Traffic signs: the numbers are classes, and begin anew in each.
        (("00000/00000_00029.png", "00001/00000_00000.png", "00002/00001_00000.png"), ["00000", "00001", "00002"]),
        (("00000/00000.png", "01000/00999.png"), ["00000", "01000"]),
        (("0/0.png", "1/1000.png"), ["0", "1"]),  # as digits are kept
        (("00000/a.png", "00001/b.png"), ["00000", "00001"]),
        (("1998/1998001.png", "1999/1999001.png"), []),
    ],
)
def test_folders_that_only_number_the_pictures(
    names: tuple[str, ...], classes: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, *names)
    for opened in (open_images, open_stream):
        source = opened(str(tmp_path), "train")
        assert list(source.classes) == classes
        assert len(source) == len(names)
    assert ("only number the pictures" in said(capsys)) == (not classes)


DATASET = {"labels": [["00000/img00000000.png", 6], ["00000/img00000001.png", 9], ["00001/img00001000.png", 6]]}
LINES = [{"file_name": "1.png", "label": "cat"}, {"file_name": "2.png", "label": "dog"}]


def test_the_classes_of_stylegans_tools(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, *(name for name, _ in DATASET["labels"]), "00001/img00001001.png")
    (tmp_path / "dataset.json").write_text(json.dumps(DATASET))
    expected = {name: str(label) for name, label in DATASET["labels"]} | {"00001/img00001001.png": None}
    assert classes_of(open_images(str(tmp_path), "train"), tmp_path) == expected
    assert f"classes are read from {tmp_path}/dataset.json; it has none for 1 of 4 pictures" in said(capsys)
    assert list(open_images(str(tmp_path), "train", True).classes) == []
    (tmp_path / "dataset.json").write_text(json.dumps({"labels": None}))
    assert list(open_images(str(tmp_path), "train").classes) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.jsonl", "\ufeff" + "\n".join(map(json.dumps, LINES)) + "\n\n"),
        ("metadata.csv", "file_name,label,text\n1.png,cat,a\n2.png,dog,b\n"),
    ],
)
def test_the_classes_of_a_folder_of_the_library_datasets(name: str, content: str, tmp_path: Path) -> None:
    put(tmp_path, "1.png", "2.png")
    (tmp_path / name).write_text(content, encoding="utf-8")
    source = open_images(str(tmp_path), "train")
    assert classes_of(source, tmp_path) == {"1.png": "cat", "2.png": "dog"}
    before = source.fingerprint()
    (tmp_path / name).write_text(content.replace("dog", "fox"), encoding="utf-8")
    assert open_images(str(tmp_path), "train").fingerprint() != before


def test_a_file_of_classes_may_lie_above_the_splits_and_may_be_of_something_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, "train/1.png", "val/2.png")
    (tmp_path / "metadata.csv").write_text("file_name,label\ntrain/1.png,7\nval/2.png,7\n")
    for split, name in (("train", "train/1.png"), ("validation", "val/2.png")):
        assert classes_of(open_images(str(tmp_path), split), tmp_path) == {name: "7"}
    put(tmp_path / "captions", "cats/1.png", "dogs/2.png")
    (tmp_path / "captions" / "metadata.jsonl").write_text('{"file_name": "cats/1.png", "text": "a cat"}\n')
    assert list(open_images(str(tmp_path / "captions"), "train").classes) == ["cats", "dogs"]
    said(capsys)
    (tmp_path / "captions" / "metadata.jsonl").write_text('{"file_name": "other.png", "label": 3}\n')
    assert list(open_images(str(tmp_path / "captions"), "train").classes) == ["cats", "dogs"]
    assert "metadata.jsonl lists none of the pictures" in said(capsys)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.jsonl", "{not json}\n"),
        ("metadata.jsonl", '[1]\n"x"\n'),
        ("dataset.json", '{"labels": [[1, 2, 3]]}'),
        ("dataset.json", '{"labels": [7]}'),
        ("dataset.json", '{"labels": [["1.png", [0.5, 0.5]]]}'),
    ],
)
def test_a_damaged_file_of_classes_is_a_line(name: str, content: str, tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=r"^--data: ") as caught:
        open_images(str(tmp_path), "train")
    assert "\n" not in str(caught.value)


# Archives and shards.


def test_a_picture_that_a_tar_has_under_two_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As tar itself writes hard links; links by name are said."""
    path = write_tar(tmp_path / "a.tar", [("1.png", png(1)), ("1.cls", b"0")])
    with tarfile.open(path, "a") as tar:
        for name, kind, target in (
            ("2.png", tarfile.LNKTYPE, "1.png"),
            ("2.cls", tarfile.LNKTYPE, "1.cls"),
            ("3.png", tarfile.SYMTYPE, "1.png"),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            tar.addfile(entry)
    for opened in (open_images, open_stream):
        source = opened(str(path), "train")
        assert [Path(source.name(index)).name for index in range(len(source))] == ["1.png", "2.png"]
        assert source.labels().tolist() == [0, 0]
        assert all(np.array_equal(read_square(source, index, SIDE)[0], pixels(1)) for index in range(2))
    assert "ignored 1 symbolic links to pictures; write the tar with -h" in said(capsys)


def test_suffixes_of_shards_in_any_case(reader: Reader, tmp_path: Path) -> None:
    folder = reader.write(tmp_path / "data", [(png(0), "a"), (png(1), "b")])
    for path in list(folder.rglob("*.*")):
        path.rename(path.with_suffix(path.suffix.upper()))
    source = reader.open(str(folder), "train")
    assert (len(source), list(source.classes)) == (2, ["a", "b"])
    for path in folder.iterdir():
        assert len(reader.open(str(path), "train")) == (1 if path.is_dir() else 2)


def test_pictures_beside_a_tar_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, "cats/1.png", "dogs/2.png")
    write_tar(tmp_path / "all.tar", [("1.png", png(1))])
    assert len(open_images(str(tmp_path), "train")) == 1
    assert f".tar files in {tmp_path} are used, the pictures beside them are not" in said(capsys)
    (tmp_path / "all.tar").rename(tmp_path / "all.TAR")
    assert len(open_stream(str(tmp_path), "train")) == 1


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("a.zip", "unpack the archive first, and name the folder"),
        ("a.tar.gz", "unpack the archive first (tar -xf)"),
        ("data-00000-of-00001.arrow", "to_parquet"),
        ("a.tfrecord", "write the pictures as PNG files first"),
        ("a.heic", "convert the pictures to JPEG or PNG first"),
    ],
)
def test_what_holds_pictures_and_cannot_be_read_says_what_to_do(name: str, cure: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"something")
    for data in (tmp_path, tmp_path / name):
        for opened in (open_images, open_stream):
            with pytest.raises(DataError, match="; ") as caught:
                opened(str(data), "train")
            assert cure in str(caught.value)


def test_a_compressed_tar_by_another_name(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w:gz") as tar:
        tar.addfile(tarfile.TarInfo("1.png"))
    for opened in (open_images, open_stream):
        with pytest.raises(DataError, match=r"a.tar is compressed; unpack it first \(gunzip\)"):
            opened(str(tmp_path), "train")


# In the place of a picture.


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "a Git LFS pointer.*git lfs pull"),
        (b"\n<!DOCTYPE html><html><title>404</title>", "a web page"),
        (b"<HTML><body>Forbidden", "a web page"),
        (b"\0\0\0\x1cftypheic\0\0\0\0mif1heic", "HEIC or AVIF, whatever its name"),
        (b"\0\0\0\x1cftypavif\0\0\0\0", "HEIC or AVIF, whatever its name"),
        (b"nothing of a picture", "not an image, or damaged|is not a picture, or is damaged"),
    ],
)
def test_what_stands_in_the_place_of_a_picture(content: bytes, reason: str, reader: Reader, tmp_path: Path) -> None:
    """Every reader says the same, and so does what opens a picture to edit."""
    source = reader.open(str(reader.write(tmp_path / "data", [(content, "a"), (png(1), "a")])), "train")
    _, why = read_square(source, 0, SIDE)
    assert re.search(reason, str(why)), why
    assert not isinstance(read_square(source, 1, SIDE)[0], str)
    with pytest.raises(PictureError, match=reason):
        picture_of(content, "picture: x.jpg")


def test_an_empty_file_says_so(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    (tmp_path / "0.png").write_bytes(b"")
    source = open_images(str(tmp_path), "train")
    assert read_square(source, 0, SIDE) == (str(tmp_path / "0.png"), "it is empty (0 bytes)")


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "mpo"])
def test_of_several_frames_the_first_is_taken(kind: str, tmp_path: Path) -> None:
    frames = [Image.new("RGB", (SIDE, SIDE), (shade, shade, shade)) for shade in (40, 120, 200)]
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:])
    (tmp_path / f"a.{kind}").rename(tmp_path / ("a.jpg" if kind == "mpo" else f"a.{kind}"))
    square, _ = read_square(open_images(str(tmp_path), "train"), 0, SIDE)
    assert not isinstance(square, str)
    assert np.abs(square.astype(int) - 40).max() <= 6
