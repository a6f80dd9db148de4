"""Photographs from real files of every kind, damaged ones among them, to exact pixels and a stream that can resume."""

from __future__ import annotations

import contextlib
import gc
import io
import itertools
import struct
import tarfile
import zlib
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from strait.data.config import DataConfig
from strait.data.images import ImageBatch, augment, in_order, read_square
from strait.data.job import BadFiles
from strait.data.sources import DataError, FolderSource, ImageSource, has_split, open_images
from strait.data.training_images import ShuffledPositions, training_batches
from strait.data.workers import default_workers
from strait.pictures.reading import to_square

PLAIN = DataConfig(flip=False)


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def encoded(picture: Image.Image, kind: str, **settings) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **settings)
    return buffer.getvalue()


def square_of(content: bytes, size: int) -> np.ndarray:
    return to_square(Image.open(io.BytesIO(content)), size)


# What a picture becomes.


def test_a_picture_of_the_right_size_keeps_every_pixel() -> None:
    pixels = noise(8, 8)
    assert np.array_equal(square_of(encoded(Image.fromarray(pixels), "PNG"), 8), pixels)


@pytest.mark.parametrize(("height", "width"), [(12, 36), (36, 12), (12, 12), (12, 37)])
def test_the_centre_is_cut_out(height: int, width: int) -> None:
    pixels = noise(height, width)
    side = min(height, width)
    down, right = (height - side) // 2, (width - side) // 2
    square = square_of(encoded(Image.fromarray(pixels), "PNG"), side)
    if (width - side) % 2 == 0:
        assert np.array_equal(square, pixels[down : down + side, right : right + side])
    else:  # half a pixel to each side: between the two cuts
        cuts = [pixels[:, start : start + side].astype(float) for start in (right, right + 1)]
        assert np.abs(square - np.mean(cuts, axis=0)).mean() < min(np.abs(square - cut).mean() for cut in cuts)


def test_a_larger_picture_is_brought_to_size_smoothly() -> None:
    down, right = np.meshgrid(np.linspace(0, 255, 96), np.linspace(0, 255, 192), indexing="ij")
    pixels = np.stack([down, right, np.full_like(down, 77)], axis=-1).astype(np.uint8)
    averages = pixels[:, 48:144].reshape(16, 6, 16, 6, 3).mean((1, 3))
    square = square_of(encoded(Image.fromarray(pixels), "PNG"), 16)
    assert np.abs(square[1:-1, 1:-1] - averages[1:-1, 1:-1]).max() <= 2


def rotated(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """How a viewer shows a picture, by the table in the EXIF standard."""
    turned = pixels.transpose(1, 0, 2)
    return {
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: turned,
        6: turned[:, ::-1],
        7: turned[::-1, ::-1],
        8: turned[::-1],
    }[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_turned_as_exif_says(kind: str, orientation: int) -> None:
    pixels = np.kron(noise(2, 2, seed=4) // 2, np.ones((8, 8, 1), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    lossless = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    square = square_of(encoded(Image.fromarray(pixels), kind, exif=exif, **lossless), 16)
    assert np.abs(square.astype(int) - rotated(pixels, orientation)).max() <= (3 if kind == "JPEG" else 0)


def test_what_is_transparent_stands_on_white() -> None:
    pixels = noise(8, 8, 4)
    pixels[0, :, 3], pixels[1, :, 3] = 0, 255
    share = pixels[..., 3:].astype(float) / 255
    expected = share * pixels[..., :3] + (1 - share) * 255
    square = square_of(encoded(Image.fromarray(pixels, "RGBA"), "PNG"), 8)
    assert np.abs(square - expected).max() <= 1
    assert (square[0] == 255).all()


def test_grey_pictures_have_three_equal_channels() -> None:
    grey = noise(8, 8, 1)
    square = square_of(encoded(Image.fromarray(grey), "PNG"), 8)
    assert np.array_equal(square, np.repeat(grey[..., None], 3, axis=2))


def test_grey_pictures_with_transparency_stand_on_white() -> None:
    both = noise(8, 8, 2)
    share = both[..., 1].astype(float) / 255
    expected = share * both[..., 0] + (1 - share) * 255
    square = square_of(encoded(Image.fromarray(both, "LA"), "PNG"), 8)
    assert np.abs(square - expected[..., None]).max() <= 1


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_palettes_and_their_transparent_colour(kind: str) -> None:
    picture = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) % 4, "P")
    palette = [(10, 20, 30), (250, 0, 0), (0, 240, 0), (0, 0, 230)]
    picture.putpalette([value for colour in palette for value in colour])
    for transparent in (None, 2):
        settings = {} if transparent is None else {"transparency": transparent}
        shown = [(255, 255, 255) if index == transparent else colour for index, colour in enumerate(palette)]
        expected = np.array(shown, np.uint8)[np.asarray(picture)]
        assert np.array_equal(square_of(encoded(picture, kind, **settings), 8), expected)


def test_a_transparent_colour_of_an_rgb_picture() -> None:
    pixels = np.full((8, 8, 3), 90, np.uint8)
    pixels[:4] = (1, 2, 3)
    square = square_of(encoded(Image.fromarray(pixels), "PNG", transparency=(1, 2, 3)), 8)
    assert (square[:4] == 255).all()
    assert (square[4:] == 90).all()


@pytest.mark.parametrize("kind", ["TIFF", "JPEG"])
@pytest.mark.parametrize(
    ("ink", "colour"),
    [((0, 0, 0, 0), (255, 255, 255)), ((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 255), (0, 0, 0))],
)
def test_ink_becomes_colour(kind: str, ink: tuple[int, ...], colour: tuple[int, ...]) -> None:
    square = square_of(encoded(Image.new("CMYK", (16, 16), ink), kind), 16)
    assert np.abs(square.astype(int) - np.array(colour)).max() <= 3


def test_sixteen_bits_become_eight() -> None:
    grey = noise(8, 8, 1)
    deep = Image.fromarray(grey.astype(np.uint16) * 257)  # 0..255 spread over 0..65535
    for kind in ("PNG", "TIFF"):
        opened = Image.open(io.BytesIO(encoded(deep, kind)))
        assert opened.mode == "I;16"
        assert np.array_equal(to_square(opened, 8), np.repeat(grey[..., None], 3, axis=2))


@given(
    mode=st.sampled_from(["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I", "I;16", "F"]),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    size=st.integers(1, 24),
)
def test_any_mode_and_size_becomes_a_square(mode: str, height: int, width: int, size: int) -> None:
    square = to_square(Image.new(mode, (width, height)), size)
    assert square.shape == (size, size, 3)
    assert square.dtype == np.uint8
    assert (square == square[0, 0]).all()  # one colour stays one colour


# Augmentation.


@given(st.integers(0, 2**63 - 1))
def test_nothing_asked_nothing_done(draw: int) -> None:
    pixels = noise(6, 5)
    assert np.array_equal(augment(pixels, draw, flip=False, shift=0), pixels)


@given(st.integers(0, 2**63 - 1))
def test_half_are_mirrored(draw: int) -> None:
    pixels = noise(6, 5)
    assert np.array_equal(augment(pixels, draw, flip=True, shift=0), pixels[:, ::-1] if draw % 2 else pixels)


def moves(pixels: np.ndarray, shift: int) -> dict[bytes, tuple[int, int]]:
    """Every way to move a picture, its edges repeated, pixel by pixel."""
    height, width = pixels.shape[:2]
    versions = {}
    for down, right in itertools.product(range(-shift, shift + 1), repeat=2):
        rows = np.clip(np.arange(height) + down, 0, height - 1)
        columns = np.clip(np.arange(width) + right, 0, width - 1)
        versions[pixels[rows][:, columns].tobytes()] = (down, right)
    return versions


@given(draw=st.integers(0, 2**63 - 1), shift=st.integers(1, 3), flip=st.booleans())
def test_a_shift_moves_by_no_more_than_asked(draw: int, shift: int, flip: bool) -> None:
    pixels = noise(6, 5)
    version = augment(pixels, draw, flip, shift)
    assert np.array_equal(version, augment(pixels, draw, flip, shift))
    assert version.tobytes() in moves(pixels[:, ::-1] if flip and draw % 2 else pixels, shift)


def test_every_shift_and_mirror_image_occurs_about_equally_often() -> None:
    pixels, draws = noise(6, 5), np.random.default_rng(1).integers(0, 2**63, 3600)
    seen = [augment(pixels, int(draw), flip=True, shift=1).tobytes() for draw in draws]
    versions = {**moves(pixels, 1), **moves(pixels[:, ::-1], 1)}
    assert len(versions) == 18
    counts = [seen.count(version) for version in versions]
    assert sum(counts) == len(seen)
    assert 140 < min(counts) <= max(counts) < 270  # 200 each, five standard deviations


# Damaged files.


def half_a_jpeg() -> bytes:
    content = encoded(Image.fromarray(noise(64, 64)), "JPEG")
    return content[: len(content) // 2]


def nothing() -> bytes:
    return b""


def text() -> bytes:
    return b"this is no photograph\n"


def broken_png() -> bytes:
    content = bytearray(encoded(Image.fromarray(noise(32, 32)), "PNG"))
    place = content.index(b"IDAT") + 40
    content[place] ^= 0xFF
    return bytes(content)


def half_a_png() -> bytes:
    content = encoded(Image.fromarray(noise(32, 32)), "PNG")
    return content[: len(content) // 2]


def header_alone() -> bytes:
    return encoded(Image.fromarray(noise(8, 8)), "PNG")[:8]


def tiff_with_one_wrong_byte() -> bytes:
    """The entry that says where the pixels lie claims to be text."""
    content = bytearray(encoded(Image.fromarray(noise(24, 30)), "TIFF"))
    (directory,) = struct.unpack("<I", content[4:8])
    (entries,) = struct.unpack("<H", content[directory : directory + 2])
    for place in range(directory + 2, directory + 2 + 12 * entries, 12):
        if struct.unpack("<H", content[place : place + 2]) == (273,):
            content[place + 2] = 2
    return bytes(content)


def enormous() -> bytes:
    """A PNG of a few bytes that claims to be 60,000 pixels a side."""
    content = bytearray(encoded(Image.new("L", (1, 1)), "PNG"))
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(bytes(content[12:29])))
    return bytes(content)


DAMAGE = [
    half_a_jpeg,
    nothing,
    text,
    broken_png,
    half_a_png,
    header_alone,
    enormous,
    tiff_with_one_wrong_byte,
]


class BytesSource:
    """Pictures from memory."""

    def __init__(self, contents: list[bytes]) -> None:
        self.contents = contents

    def __len__(self) -> int:
        return len(self.contents)

    def name(self, index: int) -> str:
        return f"picture {index}"

    def read(self, index: int) -> tuple[Image.Image, int]:
        return Image.open(io.BytesIO(self.contents[index])), index


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_file_is_named_with_a_reason_of_one_line(damage: Callable[[], bytes], tmp_path: Path) -> None:
    (tmp_path / "0.jpg").write_bytes(damage())
    name, reason = read_square(FolderSource(tmp_path), 0, 8)
    assert name == str(tmp_path / "0.jpg")
    assert isinstance(reason, str)
    assert reason
    assert "\n" not in reason


@settings(max_examples=150)
@given(
    kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP", "PPM"]),
    cut=st.one_of(st.just(1.0), st.floats(0, 1)),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=4),
)
def test_no_damage_whatever_stops_the_reader(kind: str, cut: float, changes: list[tuple[float, int]]) -> None:
    content = bytearray(encoded(Image.fromarray(noise(12, 10)), kind))
    content = content[: int(cut * len(content))]
    for place, value in changes:
        if content:
            content[int(place**2 * len(content))] = value  # more often near the start, where the headers are
    first, second = read_square(BytesSource([bytes(content)]), 0, 8)
    if isinstance(first, str):
        assert first == "picture 0"
        assert second
    else:
        assert first.shape == (8, 8, 3)
        assert second == 0


@pytest.fixture
def damaged_folder(tmp_path: Path) -> Path:
    """Nine pictures in two classes, four of which cannot be read: 1, 2, 5 and 8 in their order."""
    contents: list[bytes] = [encoded(Image.fromarray(noise(20, 20, seed=index)), "PNG") for index in range(9)]
    for index, damage in ((1, half_a_jpeg), (2, nothing), (5, text), (8, broken_png)):
        contents[index] = damage()
    for index, content in enumerate(contents):
        path = tmp_path / ("first" if index < 5 else "second") / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    return tmp_path


BAD = {1, 2, 5, 8}


def test_damaged_files_are_skipped_reported_once_and_counted(
    damaged_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, notes = FolderSource(damaged_folder), BadFiles()
    for _ in range(2):
        indices: list[int] = []
        for batch in in_order(source, 20, batch_size=2):
            notes.note(batch.bad)
            indices += batch.indices.tolist()
            for pixels, label, index in zip(batch.pixels, batch.labels, batch.indices, strict=True):
                assert np.array_equal(pixels.numpy(), noise(20, 20, seed=int(index)))
                assert int(label) == int(index >= 5)
        assert indices == [0, 3, 4, 6, 7]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 4
    for line, index in zip(sorted(lines), sorted(BAD), strict=True):
        assert line.startswith(f"skipped {source.name(index)}: ")
    notes.summary()
    assert capsys.readouterr().err == "4 unreadable images were skipped\n"


def test_nothing_damaged_nothing_said(photo_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    notes = BadFiles()
    assert sum(len(batch.indices) for batch in in_order(FolderSource(photo_folder), 8, 16)) == 40
    notes.summary()
    notes.note([("one", "why")])
    notes.summary()
    assert capsys.readouterr().err == "skipped one: why\n1 unreadable image was skipped\n"


def test_chosen_pictures_come_in_the_order_asked_for(photo_folder: Path) -> None:
    source = FolderSource(photo_folder)
    batches = list(in_order(source, 8, batch_size=2, indices=[31, 4, 17]))
    assert [batch.indices.tolist() for batch in batches] == [[31, 4], [17]]
    first, _ = read_square(source, 17, 8)
    assert np.array_equal(batches[1].pixels[0].numpy(), first)
    assert batches[1].labels.tolist() == [1]


def test_pixels_become_images_from_minus_one_to_one() -> None:
    pixels = torch.from_numpy(noise(4, 6)[None])
    images = ImageBatch(pixels, torch.zeros(1), torch.zeros(1), []).images(torch.device("cpu"))
    assert images.shape == (1, 3, 4, 6)
    expected = pixels.numpy().astype(np.float64).transpose(0, 3, 1, 2) / 255 * 2 - 1
    np.testing.assert_allclose(images.numpy(), expected, atol=1e-6)


# Where they lie.


def test_a_folder_of_class_folders(photo_folder: Path) -> None:
    source = open_images(str(photo_folder), "train")
    assert list(source.classes) == ["disc", "gradient", "square", "stripes"]
    assert len(source) == 40
    labels = [source.read(index)[1] for index in range(40)]
    assert labels == [label for label in range(4) for _ in range(10)]
    assert [Path(source.name(index)).parent.name for index in (0, 10, 20, 30)] == list(source.classes)
    assert not has_split(str(photo_folder), "validation")


def put(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(Image.fromarray(noise(9, 9, seed=number)), "PNG"))


def test_pictures_alone_have_no_classes(tmp_path: Path) -> None:
    put(tmp_path, "b.png", "a.JPG", "c.webp")
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden").mkdir()
    put(tmp_path / ".hidden", "d.png")
    source = open_images(str(tmp_path), "train")
    assert len(source.classes) == 0
    assert [Path(source.name(index)).name for index in range(len(source))] == ["a.JPG", "b.png", "c.webp"]
    assert [source.read(index)[1] for index in range(3)] == [-1, -1, -1]


def test_pictures_beside_class_folders_are_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, "cats/1.png", "cats/deeper/2.png", "dogs/1.png", "loose.png")
    (tmp_path / "empty").mkdir()
    source = open_images(str(tmp_path), "train")
    assert list(source.classes) == ["cats", "dogs"]
    assert len(source) == 3
    assert "ignored 1 pictures beside the class folders" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("train", "validation"), [("train", "validation"), ("train", "val"), ("training", "valid"), ("train", "test")]
)
def test_both_splits_in_one_folder(tmp_path: Path, train: str, validation: str) -> None:
    put(tmp_path, f"{train}/cats/1.png", f"{train}/dogs/2.png", f"{train}/dogs/3.png", f"{validation}/cats/4.png")
    assert len(open_images(str(tmp_path), "train")) == 3
    assert len(open_images(str(tmp_path), "validation")) == 1
    assert has_split(str(tmp_path), "train")
    assert has_split(str(tmp_path), "validation")


def test_a_split_that_is_not_there_gives_what_there_is(tmp_path: Path) -> None:
    put(tmp_path, "train/cats/1.png", "train/dogs/2.png")
    assert len(open_images(str(tmp_path), "validation")) == 2
    assert not has_split(str(tmp_path), "validation")


@pytest.fixture
def library(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """The library ``datasets``, with a cache of its own for this test."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    datasets.disable_progress_bars()
    return datasets


def parquet(library, path: Path, count: int, classes: list[str] | None, first: int = 0, label: str = "label") -> None:
    images = [
        {"bytes": encoded(Image.fromarray(noise(9, 9, seed=first + row)), "PNG"), "path": f"{row}.png"}
        for row in range(count)
    ]
    columns, features = {"image": images}, {"image": library.Image()}
    if classes is not None:
        columns[label] = [row % 3 for row in range(count)]
        features[label] = library.ClassLabel(names=classes) if classes else library.Value("int64")
    path.parent.mkdir(parents=True, exist_ok=True)
    library.Dataset.from_dict(columns, features=library.Features(features)).to_parquet(path)


def test_parquet_files_with_both_splits(library, tmp_path: Path) -> None:
    parquet(library, tmp_path / "train-00000-of-00002.parquet", 4, ["n01 cat", "n02 dog", "n03 emu"])
    parquet(library, tmp_path / "train-00001-of-00002.parquet", 3, ["n01 cat", "n02 dog", "n03 emu"], first=4)
    parquet(library, tmp_path / "validation-00000-of-00001.parquet", 2, ["n01 cat", "n02 dog", "n03 emu"], first=50)
    train, validation = (open_images(str(tmp_path), split) for split in ("train", "validation"))
    assert len(train) == 7
    assert len(validation) == 2
    assert list(train.classes) == ["n01 cat", "n02 dog", "n03 emu"]
    for source, first in ((train, 0), (validation, 50)):
        for index in range(len(source)):
            pixels, label = read_square(source, index, 9)
            assert np.array_equal(pixels, noise(9, 9, seed=first + index))
            assert label == (index - 4 if index >= 4 else index) % 3
    assert train.name(5) == f"row 1 of {tmp_path / 'train-00001-of-00002.parquet'} (1.png)"
    assert has_split(str(tmp_path), "validation")


def test_one_parquet_file_and_labels_without_names(library, tmp_path: Path) -> None:
    parquet(library, tmp_path / "photos.parquet", 5, [], label="fine_label")
    source = open_images(str(tmp_path / "photos.parquet"), "validation")
    assert list(source.classes) == ["0", "1", "2"]
    assert [source.read(index)[1] for index in range(5)] == [0, 1, 2, 0, 1]


@pytest.mark.parametrize("names", [None, ["a", "b", "c"]])
def test_a_row_without_a_label_is_of_no_class(library, tmp_path: Path, names: list[str] | None) -> None:
    picture = {"bytes": encoded(Image.fromarray(noise(9, 9)), "PNG"), "path": None}
    kind = library.ClassLabel(names=names) if names else library.Value("int64")
    features = library.Features({"image": library.Image(), "label": kind})
    columns = {"image": [picture] * 3, "label": [2, None, 0]}
    library.Dataset.from_dict(columns, features=features).to_parquet(tmp_path / "a.parquet")
    source = open_images(str(tmp_path), "train")
    # Without names only the numbers that occur are classes.
    assert list(source.classes) == (names or ["0", "2"])
    labels = [2, -1, 0] if names else [1, -1, 0]
    assert [source.read(index)[1] for index in range(3)] == labels == source.labels().tolist()


def test_parquet_without_labels_has_no_classes(library, tmp_path: Path) -> None:
    parquet(library, tmp_path / "photos.parquet", 2, None)
    source = open_images(str(tmp_path), "train")
    assert len(source.classes) == 0
    assert source.read(1)[1] == -1


def test_parquet_without_pictures_names_its_columns(library, tmp_path: Path) -> None:
    library.Dataset.from_dict({"text": ["a"], "label": [0]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no column of images; its columns are text, label"):
        open_images(str(tmp_path), "train")


def test_damaged_pictures_in_parquet_are_skipped_by_name(library, tmp_path: Path) -> None:
    good = encoded(Image.fromarray(noise(9, 9)), "PNG")
    rows = [{"bytes": good, "path": "a.png"}, {"bytes": half_a_jpeg(), "path": "b.jpg"}, {"bytes": b"", "path": None}]
    features = library.Features({"image": library.Image()})
    library.Dataset.from_dict({"image": rows}, features=features).to_parquet(tmp_path / "a.parquet")
    (batch,) = in_order(open_images(str(tmp_path), "train"), 9, 8)
    assert batch.indices.tolist() == [0]
    file = tmp_path / "a.parquet"
    assert [name for name, _ in batch.bad] == [f"row 1 of {file} (b.jpg)", f"row 2 of {file}"]


def test_a_row_without_a_picture_is_skipped_like_a_damaged_one(library, tmp_path: Path) -> None:
    rows = [{"bytes": encoded(Image.fromarray(noise(9, 9)), "PNG"), "path": None}, None]
    features = library.Features({"image": library.Image()})
    library.Dataset.from_dict({"image": rows}, features=features).to_parquet(tmp_path / "a.parquet")
    (batch,) = in_order(open_images(str(tmp_path), "train"), 9, 8)
    assert batch.indices.tolist() == [0]
    assert [name for name, _ in batch.bad] == [f"row 1 of {tmp_path / 'a.parquet'}"]


def test_a_webdataset_tar(library, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard-000.tar", "w") as tar:
        for row in range(4):
            content = half_a_png() if row == 2 else encoded(Image.fromarray(noise(9, 9, seed=row)), "PNG")
            for suffix, data in (("png", content), ("cls", str(row % 2).encode())):
                entry = tarfile.TarInfo(f"{row:04d}.{suffix}")
                entry.size = len(data)
                tar.addfile(entry, io.BytesIO(data))
    source = open_images(str(tmp_path), "train")
    assert list(source.classes) == ["0", "1"]
    (batch,) = in_order(source, 9, 8)
    assert batch.indices.tolist() == [0, 1, 3]
    assert batch.labels.tolist() == [0, 1, 1]
    assert len(batch.bad) == 1
    assert batch.bad[0][0] == f"{tmp_path / 'shard-000.tar'}/0002.png"
    assert np.array_equal(batch.pixels[1].numpy(), noise(9, 9, seed=1))


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing of the kind"])
@pytest.mark.parametrize("name", ["train-0.parquet", "a.tar"])
def test_a_damaged_shard_is_an_error_of_one_line(library, tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"--data: {tmp_path} could not be read: .+") as caught:
        open_images(str(tmp_path), "train")
    assert "\n" not in str(caught.value)


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="nowhere does not exist"):
        open_images(str(tmp_path / "nowhere"), "train")
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    with pytest.raises(DataError, match="empty has no pictures"):
        open_images(str(tmp_path / "empty"), "train")
    (tmp_path / "photo.txt").write_text("hello")
    with pytest.raises(DataError, match="neither parquet nor tar"):
        open_images(str(tmp_path / "photo.txt"), "train")


# The stream.


@given(length=st.integers(1, 23), batch_size=st.integers(1, 9), seed=st.integers(0, 99))
def test_each_epoch_is_a_permutation(length: int, batch_size: int, seed: int) -> None:
    batches = itertools.islice(ShuffledPositions(length, batch_size, seed, 0), 3 * length)
    stream = [entry for batch in batches for entry in batch]
    assert [position for _, position in stream] == list(range(3 * length * batch_size))
    order = [image for image, _ in stream]
    epochs = [order[start : start + length] for start in range(0, len(order), length)][: 3 * batch_size]
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
    if length > 8:
        assert len({tuple(epoch) for epoch in epochs}) == len(epochs)


@given(step=st.integers(0, 30), length=st.integers(1, 23), batch_size=st.integers(1, 9), seed=st.integers(0, 99))
def test_the_order_can_be_entered_at_any_step(step: int, length: int, batch_size: int, seed: int) -> None:
    whole = itertools.islice(ShuffledPositions(length, batch_size, seed, 0), step, step + 4)
    resumed = itertools.islice(ShuffledPositions(length, batch_size, seed, step), 4)
    assert list(whole) == list(resumed)


def test_seeds_give_different_orders() -> None:
    orders = {str(next(iter(ShuffledPositions(40, 40, seed, 0)))) for seed in range(5)}
    assert len(orders) == 5


VARIED = DataConfig(flip=True, shift=2)


def stream(
    source: ImageSource, first_step: int = 0, workers: int = 0, seed: int = 3
) -> Generator[ImageBatch, None, None]:
    return training_batches(source, 12, 7, VARIED, seed, first_step, workers)


def assert_same(first: ImageBatch, second: ImageBatch) -> None:
    assert torch.equal(first.pixels, second.pixels)
    assert torch.equal(first.labels, second.labels)
    assert torch.equal(first.indices, second.indices)
    assert first.bad == second.bad


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_stream_is_the_uninterrupted_one(photo_folder: Path, workers: int) -> None:
    source = FolderSource(photo_folder)
    whole = list(itertools.islice(stream(source), 12))
    with contextlib.closing(stream(source, first_step=8, workers=workers)) as later:
        resumed = list(itertools.islice(later, 4))
    for first, second in zip(whole[8:], resumed, strict=True):
        assert_same(first, second)
    # Five batches and a bit are an epoch of 40: everything has been seen once.
    seen = torch.cat([batch.indices for batch in whole])[:40]
    assert sorted(seen.tolist()) == list(range(40))


def test_the_stream_holds_the_pictures_it_names(photo_folder: Path) -> None:
    source = FolderSource(photo_folder)
    versions: dict[int, set[bytes]] = {}
    for batch in itertools.islice(stream(source), 12):
        assert batch.pixels.shape == (7, 12, 12, 3)
        for pixels, label, index in zip(batch.pixels.numpy(), batch.labels, batch.indices, strict=True):
            plain, true_label = read_square(source, int(index), 12)
            assert not isinstance(plain, str)
            assert int(label) == true_label
            assert pixels.tobytes() in {**moves(plain, 2), **moves(plain[:, ::-1], 2)}
            versions.setdefault(int(index), set()).add(pixels.tobytes())
    # Two epochs and a bit: nearly every image has been seen twice, and seldom the same way.
    assert sum(len(seen) >= 2 for seen in versions.values()) > 30


def test_a_damaged_picture_gives_way_to_the_next_good_one(damaged_folder: Path) -> None:
    source = FolderSource(damaged_folder)
    substitutes = {1: 3, 2: 3, 5: 6, 8: 0}
    order = itertools.chain.from_iterable(ShuffledPositions(9, 7, 3, 0))
    whole = list(itertools.islice(stream(source), 9))
    for batch in whole:
        assert len(batch.indices) == 7
        for index in batch.indices.tolist():
            position = next(order)[0]
            assert index == substitutes.get(position, position)
    assert {name for batch in whole for name, _ in batch.bad} == {source.name(index) for index in BAD}
    for first, second in zip(whole[4:], itertools.islice(stream(source, first_step=4), 5), strict=True):
        assert_same(first, second)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_without_one_good_picture_is_an_error_of_one_line(
    workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How long a worker that failed is waited for.
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.2)
    source = BytesSource([text(), nothing(), half_a_png()])
    with pytest.raises(DataError, match=r"^--data: none of the 3 images can be read \(the first: picture [012]\)$"):
        next(stream(source, workers=workers))  # type: ignore[arg-type]
    gc.collect()  # the worker ends here, not in the middle of another test


def test_a_cpu_model_keeps_the_cores_for_itself() -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert default_workers(PLAIN, cpu, cores=16) == 0
    assert default_workers(PLAIN, gpu, cores=16) == 8
    assert default_workers(PLAIN, gpu, cores=4) == 3
    assert default_workers(DataConfig(workers=5), cpu, cores=2) == 5


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"shift": -1}, "data.shift"),
        ({"cache_variants": 0}, "data.cache_variants"),
        ({"cache_variants": 2, "flip": False}, "data.cache_variants: 2 versions of an image would all be identical"),
    ],
)
def test_settings_that_cannot_be_are_named(changes: dict[str, int], name: str) -> None:
    with pytest.raises(ValueError, match=name):
        DataConfig(**changes)  # type: ignore[arg-type]
