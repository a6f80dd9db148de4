"""Whatever people have: each situation played through every reader, and all of them come to the same pictures, classes
and messages."""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from strait.data.images import read_square
from strait.data.overlap import in_both
from strait.data.rows import features_of
from strait.data.sources import ClassesOf, DataError, FolderSource, ImageSource, has_split, open_images
from strait.data.streamed import open_stream
from strait.data.summary import changes, summary
from strait.pictures.recipe import png_bytes

arrow = pytest.importorskip("pyarrow", reason="parquet needs pyarrow (the extra train)")
parquet = pytest.importorskip("pyarrow.parquet")
datasets = pytest.importorskip("datasets")

SIDE = 8
Row = tuple[bytes | None, Any]


@pytest.fixture(autouse=True)
def library_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()


def pixels(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


def png(number: int, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(number)).save(buffer, kind)
    return buffer.getvalue()


def put(folder: Path, *names: str, first: int = 0) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(first + number, "PPM" if name.endswith((".pgm", ".pbm")) else "PNG"))
    return folder


def write_tar(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


# The readers: each writes rows as its users have them, and opens them.


def as_folder(folder: Path, rows: Sequence[Row]) -> Path:
    for number, (content, label) in enumerate(rows):
        place = folder if label is None else folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:03d}.png").write_bytes(content or b"")
    return folder


def as_structs(folder: Path, rows: Sequence[Row]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    cells = [None if content is None else {"bytes": content, "path": None} for content, _ in rows]
    columns = {"text": ["x"] * len(rows), "image": cells}
    if any(label is not None for _, label in rows):
        columns["label"] = [label for _, label in rows]
    parquet.write_table(arrow.table(columns), folder / "a.parquet", row_group_size=2)
    return folder


def as_bytes(folder: Path, rows: Sequence[Row]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = {"thumbnail": [b"no picture"] * len(rows), "image": [content for content, _ in rows]}
    if any(label is not None for _, label in rows):
        columns["label"] = [label for _, label in rows]
    parquet.write_table(arrow.table(columns), folder / "a.parquet", row_group_size=2)
    return folder


def as_tar(folder: Path, rows: Sequence[Row]) -> Path:
    members: list[tuple[str, bytes]] = []
    for number, (content, label) in enumerate(rows):
        if label is not None:
            members.append((f"{number:03d}.cls", str(label).encode()))
        if content is not None:
            members.append((f"{number:03d}.png", content))
    write_tar(folder / "a.tar", members)
    return folder


@dataclass(frozen=True)
class Reader:
    """A way to keep pictures, and one to open them."""

    write: Callable[[Path, Sequence[Row]], Path]
    open: Callable[..., ImageSource]


READERS = {
    "folder": Reader(as_folder, open_images),
    "structs": Reader(as_structs, open_images),
    "structs, streamed": Reader(as_structs, open_stream),
    "bytes": Reader(as_bytes, open_images),
    "bytes, streamed": Reader(as_bytes, open_stream),
    "tar": Reader(as_tar, open_images),
    "tar, streamed": Reader(as_tar, open_stream),
}


@pytest.fixture(params=list(READERS))
def reader(request: pytest.FixtureRequest) -> Reader:
    return READERS[request.param]


@dataclass(frozen=True)
class Situation:
    """Rows and what they mean; ``error`` where they mean nothing.

    Attributes:
        labels: of each row, as written.
        classes: that are found.
        found: the class of each row by its name, None without; in the order of rows.
        not_in_folders: whether a folder could not be named so.
    """

    labels: Sequence[Any]
    classes: Sequence[str] = ()
    found: Sequence[str | None] = field(default=())
    error: str = ""
    not_in_folders: bool = False


SITUATIONS = {
    "no labels": Situation([None, None, None], [], [None, None, None]),
    "words": Situation(["dog", "cat", "dog"], ["cat", "dog"], ["dog", "cat", "dog"]),
    "numbers with gaps": Situation([5, 1, 2, 5], ["1", "2", "5"], ["5", "1", "2", "5"]),
    "ids of eight digits": Situation([20250101, 10000007], ["10000007", "20250101"], ["20250101", "10000007"]),
    "a number without end": Situation([10**12, 3], ["3", str(10**12)], [str(10**12), "3"]),
    "some without": Situation([1, None, 0], ["0", "1"], ["1", None, "0"], not_in_folders=True),
    "minus one is none": Situation([1, -1, 0], ["0", "1"], ["1", None, "0"], not_in_folders=True),
    "words with spaces": Situation(["grey  owl", "elk"], ["elk", "grey owl"], ["grey owl", "elk"]),
}


@pytest.mark.parametrize("name", list(SITUATIONS))
def test_every_reader_comes_to_the_same(reader: Reader, name: str, tmp_path: Path) -> None:
    situation = SITUATIONS[name]
    if situation.not_in_folders and reader.write is as_folder:
        pytest.skip("a folder's pictures have all a class, or none has")
    rows = [(png(number), label) for number, label in enumerate(situation.labels)]
    source = reader.open(str(reader.write(tmp_path / "data", rows)), "train")
    assert len(source) == len(rows)
    # By number, and a folder's by name.
    by_name = sorted if reader.write is as_folder else list
    assert sorted(source.classes, key=lambda text: (len(text), text)) == sorted(
        situation.classes, key=lambda text: (len(text), text)
    )
    seen = []
    for index in range(len(rows)):
        square, label = read_square(source, index, SIDE)
        assert not isinstance(square, str), label
        assert label == source.labels()[index]
        number = next(number for number in range(len(rows)) if np.array_equal(square, pixels(number)))
        seen.append((number, source.classes[int(label)] if int(label) >= 0 else None))
    assert sorted(seen, key=lambda pair: pair[0]) == list(enumerate(situation.found))
    if by_name is list:
        assert [number for number, _ in seen] == list(range(len(rows)))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 0.7, 1], "row 1 of .* has the label 0.7"),
        ([0, 1, -7], "has the label -7"),
    ],
)
def test_what_is_no_class_names_its_row(reader: Reader, labels: list[Any], message: str, tmp_path: Path) -> None:
    if reader.write in (as_folder, as_tar):
        pytest.skip("what stands in a name or a file is a word")
    if reader.write is as_bytes and labels[1] == 0.7:
        labels = [float(label) for label in labels]
    rows = [(png(number), label) for number, label in enumerate(labels)]
    folder = reader.write(tmp_path / "data", [(content, float(label)) for content, label in rows])
    with pytest.raises(DataError, match=message) as caught:
        reader.open(str(folder), "train")
    assert "\n" not in str(caught.value)
    assert "data.unlabelled" in str(caught.value)
    assert list(reader.open(str(folder), "train", True).classes) == []


def test_whole_floats_and_missing_ones_are_classes_and_none(tmp_path: Path) -> None:
    """So pandas writes integers of which one is missing."""
    rows = [(png(0), 1.0), (png(1), float("nan")), (png(2), 0.0)]
    for reader in (READERS["structs"], READERS["structs, streamed"]):
        source = reader.open(str(as_structs(tmp_path / "data", rows)), "train")
        assert list(source.classes) == ["0", "1"]
        assert source.labels().tolist() == [1, -1, 0]


def test_without_classes_every_reader_takes_every_picture(reader: Reader, tmp_path: Path) -> None:
    folder = reader.write(tmp_path / "data", [(png(0), 4), (png(1), 9)])
    labelled, unlabelled = reader.open(str(folder), "train"), reader.open(str(folder), "train", True)
    assert list(unlabelled.classes) == []
    assert unlabelled.labels().tolist() == [-1, -1]
    assert [unlabelled.read(index)[1] for index in range(2)] == [-1, -1]
    assert labelled.fingerprint() != unlabelled.fingerprint()


def test_a_scan_bomb_is_skipped_by_every_reader(reader: Reader, tmp_path: Path) -> None:
    folder = reader.write(tmp_path / "data", [(scan_bomb(), None), (png(1), None)])
    source = reader.open(str(folder), "train")
    begun = time.process_time()
    name, reason = read_square(source, 0, SIDE)
    assert time.process_time() - begun < 1
    assert isinstance(name, str)
    assert "more than 100 scans" in str(reason)
    assert not isinstance(read_square(source, 1, SIDE)[0], str)


def scan_bomb(scans: int = 1500) -> bytes:
    """A progressive grey JPEG whose last pass is repeated."""
    buffer = io.BytesIO()
    Image.new("L", (800, 800), 90).save(buffer, "JPEG", progressive=True)
    content = buffer.getvalue()
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * scans + content[-2:]


# Tables.


def test_what_is_noted_of_columns_may_be_nested_without_end() -> None:
    assert features_of(arrow.schema([("image", arrow.binary())], metadata={"huggingface": "[" * 100_000})) == {}


def labelled_table(tmp_path: Path, labels: list[int], names: list[str]) -> Path:
    columns = {"image": [{"bytes": png(number), "path": None} for number in range(len(labels))], "label": labels}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=[*names, "more"])})
    table = datasets.Dataset.from_dict(columns, features=features).data.table
    schema = features.arrow_schema
    # The library would refuse to write a label beyond its names; others do not.
    about = {b"huggingface": schema.metadata[b"huggingface"].replace(b', "more"', b"")}
    parquet.write_table(table.replace_schema_metadata(about), tmp_path / "a.parquet")
    return tmp_path


@pytest.mark.parametrize("opened", [open_images, open_stream])
def test_a_label_beyond_its_names_is_found_where_the_data_are_opened(
    opened: Callable[..., ImageSource], tmp_path: Path
) -> None:
    assert list(opened(str(labelled_table(tmp_path, [0, 1], ["a", "b"])), "train").classes) == ["a", "b"]
    with pytest.raises(
        DataError, match=r"row 1 of .*a.parquet has the label 2, but the data name only 2 classes \(0 to 1\)"
    ):
        opened(str(labelled_table(tmp_path, [0, 2], ["a", "b"])), "train")


@pytest.mark.parametrize("opened", [open_images, open_stream])
def test_a_path_without_bytes_opens_nothing(opened: Callable[..., ImageSource], tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(7))
    cells = [{"bytes": None, "path": str(secret)}, {"bytes": png(1), "path": "x.png"}]
    (tmp_path / "data").mkdir()
    parquet.write_table(arrow.table({"image": cells}), tmp_path / "data" / "a.parquet")
    source = opened(str(tmp_path / "data"), "train")
    name, reason = read_square(source, 0, SIDE)
    assert isinstance(name, str)
    assert f"holds a path ({secret}) and no image" in str(reason)
    assert np.array_equal(read_square(source, 1, SIDE)[0], pixels(1))


def test_too_many_classes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("strait.data.rows.MOST_CLASSES", 3)
    folder = as_structs(tmp_path / "data", [(png(number), number * 1000) for number in range(4)])
    for opened in (open_images, open_stream):
        with pytest.raises(DataError, match="4 classes for 4 pictures are too many"):
            opened(str(folder), "train")


# Tars.


def tar_of(tmp_path: Path, *names: str) -> list[tuple[str, str | None]]:
    """The pictures and classes found in a tar of such members, by both ways to read it, which agree."""
    members = [(name, name.encode() if name.endswith(".cls") else png(number)) for number, name in enumerate(names)]
    members = [(name, b"1" if name.endswith(".cls") else content) for name, content in members]
    path = write_tar(tmp_path / "a.tar", members)
    readings = []
    for opened in (open_images, open_stream):
        source = opened(str(path), "train")
        rows = []
        for index in range(len(source)):
            square, label = read_square(source, index, SIDE)
            assert not isinstance(square, str), label
            (number,) = [n for n in range(len(names)) if np.array_equal(square, pixels(n))]
            assert source.name(index) == f"{path}/{names[number]}"
            rows.append((names[number], source.classes[int(label)] if int(label) >= 0 else None))
        readings.append(rows)
    assert readings[0] == readings[1]
    return readings[0]


def test_rows_of_a_tar(tmp_path: Path) -> None:
    assert tar_of(tmp_path, "7.seg.png", "7.png", "7.cls", "8.png") == [("7.png", "1"), ("8.png", None)]
    dotted = [f"photo.{number:03d}.{kind}" for number in range(12) for kind in ("jpg", "cls")]
    assert tar_of(tmp_path, *dotted) == [(name, "1") for name in dotted if name.endswith("jpg")]
    assert tar_of(tmp_path, "./a/1.png", "./b/1.png") == [("./a/1.png", None), ("./b/1.png", None)]
    assert tar_of(tmp_path, "1.5_cat.png", "1.5_cat.cls") == [("1.5_cat.png", "1")]
    hidden = ["__MACOSX/._1.png", "._1.png", "a/.ipynb_checkpoints/1.png", "1.png"]
    assert tar_of(tmp_path, *hidden) == [("1.png", None)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["1.png", "1.jpg"], "two pictures in one row .1.png and 1.jpg."),
        (["1.png", "2.png", "1.png"], "contains the picture 1.png twice"),
    ],
)
def test_a_row_whose_picture_comes_twice_is_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        tar_of(tmp_path, *names)


@pytest.mark.parametrize(
    ("content", "message"), [(b"9" * 3_000, "longer than 256 bytes"), (b"\xff\xfe", "not UTF-8 text")]
)
def test_a_hostile_class_of_a_tar_names_its_row(tmp_path: Path, content: bytes, message: str) -> None:
    path = write_tar(tmp_path / "a.tar", [("1.png", png(1)), ("1.cls", content)])
    for opened in (open_images, open_stream):
        with pytest.raises(DataError, match=f"the class of .*a.tar/1.png is {message}"):
            opened(str(path), "train")


# Folders.


def names_in(source: ImageSource, folder: Path) -> list[str]:
    return [str(Path(source.name(index)).relative_to(folder)) for index in range(len(source))]


@pytest.mark.parametrize(
    ("names", "classes", "pictures"),
    [
        (("a/1.jfif", "a/2.jpe", "b/1.pgm", "b/2.PBM"), ["a", "b"], 4),
        (("a/1.png", "__MACOSX/a/._1.png", "b/2.png", "b/._2.png", ".ipynb_checkpoints/3.png"), ["a", "b"], 2),
        (("a/1.png", "a/.thumbs/1.png", "a/@eaDir/1.png", "b/1.png"), ["a", "b"], 2),
        (("flowers/rose/1.png", "flowers/iris/2.png"), ["iris", "rose"], 2),
        (("cats/1.png", "cats/2.png"), ["cats"], 2),
        (("images/1.png", "images/2.png"), [], 2),
        (
            ("seg_train/seg_train/sea/1.png", "seg_train/seg_train/ice/1.png", "seg_test/seg_test/sea/1.png"),
            ["ice", "sea"],
            2,
        ),
        (("Train/a/1.png", "Train/b/1.png", "Val/a/2.png"), ["a", "b"], 2),
        (("set/TRAIN/a/1.png", "set/TRAIN/b/1.png", "set/Test/a/2.png"), ["a", "b"], 2),
        (("bullet_train/1.png", "test_tube/1.png"), ["bullet_train", "test_tube"], 2),
        (("train/1.png", "aeroplane/1.png"), ["aeroplane", "train"], 2),
    ],
)
def test_what_a_folder_means(tmp_path: Path, names: tuple[str, ...], classes: list[str], pictures: int) -> None:
    put(tmp_path, *names)
    for opened in (open_images, open_stream):
        source = opened(str(tmp_path), "train")
        assert list(source.classes) == classes
        assert len(source) == pictures


def test_splits_are_told_apart_and_what_is_not_used_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, "seg_train/seg_train/sea/1.png", "seg_test/seg_test/sea/2.png", "seg_pred/seg_pred/3.png")
    assert has_split(str(tmp_path), "validation")
    assert names_in(open_images(str(tmp_path), "validation"), tmp_path) == ["seg_test/seg_test/sea/2.png"]
    assert "seg_train, seg_test; unused: seg_pred" in capsys.readouterr().err


def test_what_is_left_out_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, "a/1.png", "b/1.png")
    for name in ("a/1.heic", "a/2.HEIC", "a/notes.txt", "c/1.avif"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"something")
    for _ in range(2):
        open_images(str(tmp_path), "train")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"{tmp_path}: ignored 4 files that are not pictures (.heic 2, .txt 1, .avif 1)"
    assert len(lines) == 2
    assert lines[1].startswith(f"{tmp_path}: ignored folders without pictures ")
    assert lines[1].endswith(": c")


def test_what_the_package_made_is_no_photograph(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(tmp_path, *(f"{number}.png" for number in range(48)))
    (tmp_path / "out").mkdir()
    for number in range(3):
        content = png_bytes(Image.fromarray(pixels(100 + number)), {"seed": 0})
        (tmp_path / "out" / f"{number}.png").write_bytes(content)
    put(tmp_path, "model/runs/top/samples/1.png")
    (tmp_path / "model" / "runs" / "config.yaml").write_text("image_size: 16\n")
    source = open_images(str(tmp_path), "train")
    assert list(source.classes) == []
    assert len(source) == 48
    assert "ignored 3 images generated by this package" in capsys.readouterr().err
    alone = open_images(str(tmp_path / "out"), "train")
    assert len(alone) == 3
    assert "all 3 pictures" in capsys.readouterr().err
    assert len(FolderSource(tmp_path / "out", generated=True)) == 3


def test_more_pictures_beside_the_folders_than_in_them_is_a_question(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "1.png", "2.png")
    with pytest.raises(DataError, match=r"2 pictures beside 1 folder\(s\) with only 1.*data.unlabelled"):
        open_images(str(tmp_path), "train")
    source = open_images(str(tmp_path), "train", True)
    assert sorted(names_in(source, tmp_path)) == ["1.png", "2.png", "a/1.png"]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path / "data") + b"/a"
    os.makedirs(raw)
    with open(raw + b"/caf\xe9.png", "wb") as file:
        file.write(png(0))
    source = open_images(str(tmp_path / "data"), "train")
    assert len(source.fingerprint()) == 12
    assert np.array_equal(read_square(source, 0, SIDE)[0], pixels(0))
    os.makedirs(os.fsencode(tmp_path / "data") + b"/th\xe9")
    with open(os.fsencode(tmp_path / "data") + b"/th\xe9/1.png", "wb") as file:
        file.write(png(1))
    with pytest.raises(DataError, match=r"class folder .*/th\\xe9 is not UTF-8") as caught:
        open_images(str(tmp_path / "data"), "train")
    str(caught.value).encode()  # which can be printed anywhere


def test_foreign_classes_to_validate_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As in the folder of Tiny-ImageNet: classes to train on, one folder of all pictures to validate."""
    put(tmp_path, "train/n01/images/1.JPEG", "train/n02/images/1.JPEG", "val/images/1.JPEG", "val/images/2.JPEG")
    train, validation = (open_images(str(tmp_path), split) for split in ("train", "validation"))
    assert list(train.classes) == ["n01", "n02"]
    assert len(validation) == 2
    assert ClassesOf(validation, train.classes).labels().tolist() == [-1, -1]
    put(tmp_path / "other", "emu/1.png", "elk/1.png")
    foreign = ClassesOf(FolderSource(tmp_path / "other"), train.classes)
    assert foreign.labels().tolist() == [-1, -1]
    assert [foreign.read(index)[1] for index in range(2)] == [-1, -1]
    assert "none of the 2 classes of the validation images, such as 'elk'" in capsys.readouterr().err
    put(tmp_path / "mixed", "n01/1.png", "elk/1.png")
    with pytest.raises(DataError, match=r"the class 'elk' \(of .*mixed/elk/1.png\) is not a training class"):
        ClassesOf(FolderSource(tmp_path / "mixed"), train.classes)


# What is not there.


def test_a_typo_asks_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "photos/cats/1.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda *_, **__: pytest.fail("a hub was asked"))
    monkeypatch.setattr("strait.data.hub_data.hub", lambda: pytest.fail("a hub was asked"))
    for opened in (open_images, open_stream, has_split):
        with pytest.raises(DataError, match=r"--data: photos/catz does not exist; did you mean photos/cats\?"):
            opened("photos/catz", "train")
    for opened in (open_images, open_stream):
        with pytest.raises(DataError, match="is not a hub id"):
            opened("nowhere", "train")


@pytest.mark.parametrize("opened", [open_images, open_stream, has_split])
def test_a_hub_is_asked_once(opened: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def nothing(*_: Any, **__: Any) -> Any:
        asked.append(1)
        raise ConnectionError("Connection refused\nand more")

    class Nothing:
        find = staticmethod(nothing)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", nothing)
    monkeypatch.setattr("strait.data.hub_data.hub", Nothing)
    with pytest.raises(
        DataError, match=r"someone/photos is not a local folder, and the hub did not return it: Connection refused$"
    ):
        opened("someone/photos", "train")
    assert len(asked) == 1


# What is said.


def test_pictures_in_both_splits_are_counted(reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRAIT_CACHE", str(tmp_path / "kept"))
    train = reader.open(str(reader.write(tmp_path / "train", [(png(n), "a") for n in range(5)])), "train")
    some = reader.write(tmp_path / "validation", [(png(n), "a") for n in (3, 4, 9)])
    validation = reader.open(str(some), "train")
    assert in_both(validation, train) == 2
    assert in_both(validation, train) == 2  # by what was kept
    (tmp_path / "kept" / "fingerprints" / f"{train.fingerprint()}-pictures.npy").write_bytes(b"half a fi")
    assert in_both(validation, train) == 2
    assert in_both(train, train) == 5


def test_what_was_found_is_said(tmp_path: Path) -> None:
    put(tmp_path, *(f"{name}/{number}.png" for name in ("1", "2", "10") for number in range(2)))
    lines = summary(open_images(str(tmp_path), "train"), None)
    assert lines[0] == "--data: 6 pictures of 3 classes (1, 10, 2) for training, none for validation"
    assert lines[1] == (
        "--data: class names are numbers: label 1 means the class with this name; #1 means class number 1, '10'"
    )
    many = as_tar(tmp_path / "many", [(png(number), 1000 + number) for number in range(12)])
    source = open_images(str(many), "train")
    assert "12 classes for 12 pictures" in summary(source, source)[1]
    assert summary(open_images(str(many), "train", True), source) == [
        "--data: 12 pictures without classes for training, 12 for validation"
    ]


def test_data_that_changed_is_said_once(tmp_path: Path) -> None:
    put(tmp_path / "data", "a/1.png", "b/1.png")
    note = tmp_path / "data.json"

    def said() -> str | None:
        source = open_images(str(tmp_path / "data"), "train")
        return changes(note, source, source.fingerprint())

    assert said() is None
    assert said() is None
    put(tmp_path / "data", "a/2.png")
    line = said()
    assert line is not None
    assert "the pictures have changed since the last run (then 2 with fingerprint " in line
    assert "; now 3 with " in line
    assert said() is None
