"""Pictures leave as they were made: exact pixels, exact places on a sheet, equal bytes for equal images."""

from __future__ import annotations

import io
import json
import struct
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from strait.data.images import ImageBatch
from strait.pictures.images import to_pictures
from strait.pictures.recipe import edit_options, png_bytes, recipe, recipe_in
from strait.pictures.sheets import _RANGES, contact_sheet, in_letters_of_the_font, title_font
from strait.runtime.files import write_new

WHITE = 255


def random_images(count: int, height: int, width: int) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(3)) * 1.6 - 0.8


def test_every_pixel_value_goes_in_and_out_unchanged() -> None:
    pixels = torch.arange(256 * 3, dtype=torch.int64).remainder(256).to(torch.uint8).reshape(1, 16, 16, 3)
    none = torch.zeros(1, dtype=torch.int64)
    images = ImageBatch(pixels, none, none, []).images(torch.device("cpu"))
    assert float(images.min()) == -1
    assert float(images.max()) == 1
    (picture,) = to_pictures(images)
    assert np.array_equal(np.asarray(picture), pixels[0].numpy())


def test_values_beyond_the_range_are_held_at_its_ends() -> None:
    images = torch.tensor([-7.0, -1.0, 1.0, 7.0]).expand(1, 3, 1, 4)
    assert np.asarray(to_pictures(images)[0])[0, :, 0].tolist() == [0, 0, 255, 255]


def test_channels_rows_and_columns_keep_their_places() -> None:
    images = -torch.ones(1, 3, 4, 5)
    images[0, 1, 2, 3] = 1
    (picture,) = to_pictures(images.bfloat16().requires_grad_())
    assert picture.size == (5, 4)
    assert np.argwhere(np.asarray(picture)).tolist() == [[2, 3, 1]]


@pytest.mark.parametrize("titles", [(), ("first row", "second row")])
def test_a_contact_sheet_holds_each_picture_in_its_place(titles: tuple[str, ...]) -> None:
    images, gap = random_images(5, 6, 8), 3
    sheet = np.asarray(contact_sheet(images, columns=3, titles=titles, gap=gap)).copy()
    band = 16 if titles else 0
    assert sheet.shape == (2 * (band + 6 + gap) + gap, 3 * (8 + gap) + gap, 3)
    for index, picture in enumerate(to_pictures(images)):
        down = gap + (index // 3) * (band + 6 + gap) + band
        right = gap + (index % 3) * (8 + gap)
        place = np.s_[down : down + 6, right : right + 8]
        assert np.array_equal(sheet[place], np.asarray(picture))
        sheet[place] = WHITE
    rest = [row for row in range(sheet.shape[0]) if (sheet[row] != WHITE).any()]
    if titles:  # what is left are the titles, each in the band above its row
        rows = [range(gap, gap + band), range(gap + band + 6 + gap, gap + band + 6 + gap + band)]
        assert all(any(row in above for row in rest) for above in rows)
        assert all(any(row in above for above in rows) for row in rest)
    else:
        assert rest == []


def test_a_png_carries_its_settings_and_nothing_that_changes() -> None:
    (picture,) = to_pictures(random_images(1, 6, 8))
    content = png_bytes(picture, {"seed": 4, "labels": ["teddy"]})
    assert content == png_bytes(picture.copy(), {"labels": ["teddy"], "seed": 4})
    assert content != png_bytes(picture, {"seed": 5, "labels": ["teddy"]})
    opened = Image.open(io.BytesIO(content))
    assert json.loads(opened.text["strait"]) == {"seed": 4, "labels": ["teddy"]}  # type: ignore[attr-defined]
    assert np.array_equal(np.asarray(opened), np.asarray(picture))
    chunks, place = [], 8
    while place < len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        chunks.append(kind)
        place += 12 + length
    assert set(chunks) == {b"IHDR", b"tEXt", b"IDAT", b"IEND"}


def test_what_a_png_says_is_read_as_it_was_written() -> None:
    (picture,) = to_pictures(random_images(1, 4, 4))
    settings = recipe("0123", 5, {"steps": [8, 4]}, label=None, index=3, edit="extend", sides={"left": 1})
    assert recipe_in(Image.open(io.BytesIO(png_bytes(picture, settings)))) == settings
    assert settings["model"] == "0123"
    assert settings["decoding"] == {"steps": [8, 4]}
    assert edit_options(settings)["left"] == edit_options({**settings, "left": 1, "sides": {}})["left"] == 1
    with pytest.raises(KeyError):
        recipe_in(picture)
    with pytest.raises(TypeError):
        recipe_in(Image.open(io.BytesIO(png_bytes(picture, [1]))))  # type: ignore[arg-type]


def test_a_file_is_never_written_over_another(tmp_path: Path) -> None:
    path = tmp_path / "made" / "on the way" / "0.png"
    write_new(path, b"one", overwrite=False)
    write_new(path, b"one", overwrite=False)
    with pytest.raises(FileExistsError, match=r"0\.png exists and differs.*--overwrite"):
        write_new(path, b"two", overwrite=False)
    assert path.read_bytes() == b"one"
    write_new(path, b"two", overwrite=True)
    assert path.read_bytes() == b"two"


def test_every_letter_of_the_font_has_a_shape_of_its_own() -> None:
    """A box stands for what a font lacks: no letter may look like that of a sign that no font has."""
    font, missing = title_font(11), title_font(11).getmask("\uffff")
    box = (missing.size, bytes(missing))
    for first, last in _RANGES:
        for code in range(first, last + 1):
            if unicodedata.category(chr(code))[0] in "LNP" and unicodedata.name(chr(code), ""):
                mask = font.getmask(chr(code))
                assert (mask.size, bytes(mask)) != box, hex(code)


@pytest.mark.parametrize(
    ("title", "shown"),
    [
        ("Löwe, mère, żółw, Жук, ελιά", "Löwe, mère, żółw, Жук, ελιά"),
        ("o\u0308", "ö"),
        ("ね", "ne"),
        ("کتاب", None),
        ("猫 cat", "[732B] cat"),
        ("ﬁsh\u200b ½", "fish ½"),
        ("a\nb", "a b"),
        ("\U0001f63a", "[1F63A]"),
    ],
)
def test_titles_in_any_script_are_readable(title: str, shown: str | None) -> None:
    written = in_letters_of_the_font(title)
    assert shown is None or written == shown
    assert in_letters_of_the_font(written) == written != ""
    plain = contact_sheet(torch.zeros(1, 3, 32, 120), 1, [""])
    sheet = contact_sheet(torch.zeros(1, 3, 32, 120), 1, [title])
    assert np.asarray(sheet).tobytes() != np.asarray(plain).tobytes()
