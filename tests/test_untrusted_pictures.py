"""Pictures as cameras, scanners and strangers make them: profiles, ranges of values, passes without end."""

from __future__ import annotations

import io
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from strait.data.images import read_square
from strait.data.sources import FolderSource
from strait.pictures.as_images import as_mask, pixels_of
from strait.pictures.reading import PictureError, eight_bits, mask_of, picture_of, read_picture

SRGB_TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.072175], [0.0193339, 0.119192, 0.9503041]]
)
P3_TO_XYZ = np.array(
    [[0.4865709, 0.2656677, 0.1982173], [0.2289746, 0.6917385, 0.0792869], [0.0, 0.0451134, 1.0439444]]
)
TO_D50 = np.array(
    [[1.0478112, 0.0228866, -0.050127], [0.0295424, 0.9904844, -0.0170491], [-0.0092345, 0.0150436, 0.7521316]]
)
"""Bradford, from the white of a screen (D65) to that of a profile."""


def fixed(values: np.ndarray | list[float]) -> bytes:
    return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in values)


def profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile (version 2) of some tags, written by hand."""
    body, table, place = b"", struct.pack(">I", len(tags)), 128 + 4 + 12 * len(tags)
    for name, content in tags.items():
        content += bytes(-len(content) % 4)
        table += name + struct.pack(">II", place + len(body), len(content))
        body += content
    size = place + len(body)
    head = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02400000, b"mntr", space, b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + fixed([0.9642, 1.0, 0.8249])
    return head.ljust(128, b"\0") + table + body


def curve(gamma: float) -> bytes:
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def srgb_curve() -> bytes:
    x = np.linspace(0, 1, 1024)
    values = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return b"curv" + bytes(4) + struct.pack(">I", 1024) + (values * 65535).round().astype(">u2").tobytes()


def common() -> dict[bytes, bytes]:
    return {
        b"wtpt": b"XYZ " + bytes(4) + fixed([0.9642, 1.0, 0.8249]),
        b"desc": b"desc" + bytes(4) + struct.pack(">I", 3) + b"P3\0" + bytes(78),
    }


def display_p3() -> bytes:
    tags = common()
    for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), (TO_D50 @ P3_TO_XYZ).T, strict=True):
        tags[name] = b"XYZ " + bytes(4) + fixed(column)
    return profile(b"RGB ", {**tags, **dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), srgb_curve())})


def dark_grey() -> bytes:
    return profile(b"GRAY", {**common(), b"kTRC": curve(1.8)})


def encoded(picture: Image.Image, kind: str = "PNG", **settings: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **settings)  # type: ignore[arg-type]
    return buffer.getvalue()


def p3_as_srgb(pixels: np.ndarray) -> np.ndarray:
    """By the definitions of both spaces."""
    x = pixels / 255
    linear = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    linear = (linear @ P3_TO_XYZ.T @ np.linalg.inv(SRGB_TO_XYZ).T).clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.fixture(scope="module")
def colours() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)


def test_a_picture_in_display_p3_is_read_as_srgb(colours: np.ndarray, tmp_path: Path) -> None:
    content = encoded(Image.fromarray(colours), icc_profile=display_p3())
    (tmp_path / "a.png").write_bytes(content)
    expected = p3_as_srgb(colours)
    opened = Image.open(io.BytesIO(content))
    for pixels in (
        picture_of(content, "a").pixels,
        read_picture(tmp_path / "a.png").pixels,
        pixels_of(opened),
        pixels_of(eight_bits(opened)),  # once, however often it passes through
        read_square(FolderSource(tmp_path), 0, 16)[0],
    ):
        assert isinstance(pixels, np.ndarray)
        assert np.abs(pixels - expected).max() <= 2
    assert np.abs(colours - expected).max() > 20


def test_transparency_and_turning_survive_a_profile(colours: np.ndarray) -> None:
    layers = np.dstack([colours, np.arange(256, dtype=np.uint8).reshape(16, 16)])
    exif = Image.Exif()
    exif[0x0112] = 3
    pixels = picture_of(encoded(Image.fromarray(layers), icc_profile=display_p3(), exif=exif), "a").pixels[::-1, ::-1]
    assert np.array_equal(pixels[..., 3], layers[..., 3])
    assert np.abs(pixels[..., :3] - p3_as_srgb(colours)).max() <= 2


def test_a_grey_profile_is_one_of_grey_pictures(colours: np.ndarray) -> None:
    grey = colours[..., 0]
    pixels = picture_of(encoded(Image.fromarray(grey), icc_profile=dark_grey()), "a").pixels
    x = (grey / 255) ** 1.8
    expected = 255 * np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    assert np.abs(pixels - expected[..., None]).max() <= 2
    # Of other colours than the picture's, it says nothing.
    coloured_pixels = picture_of(encoded(Image.fromarray(colours), icc_profile=dark_grey()), "a").pixels
    assert np.array_equal(coloured_pixels, colours)


def test_ink_with_a_profile_of_another_kind_is_as_without(colours: np.ndarray) -> None:
    ink = Image.fromarray(colours).convert("CMYK")
    plain = picture_of(encoded(ink, "TIFF"), "a").pixels
    assert np.array_equal(picture_of(encoded(ink, "TIFF", icc_profile=display_p3()), "a").pixels, plain)


def test_a_damaged_profile_and_srgb_change_nothing(colours: np.ndarray) -> None:
    whole = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    broken = [b"", b"no profile", whole[:200], bytes(len(whole)), display_p3()[:140], bytes(5 << 20)]
    for content in (whole, *broken):
        kind = "TIFF" if len(content) > 1 << 20 else "PNG"
        pixels = picture_of(encoded(Image.fromarray(colours), kind, icc_profile=content), "a").pixels
        assert np.array_equal(pixels, colours)


# Ranges.


@pytest.mark.parametrize(
    ("values", "white"),
    [
        (np.array([[0, 0.5, 1.0]], np.float32), 1),
        (np.array([[0, 100, 255]], np.float32), 255),
        (np.array([[0, 2000, 4095]], np.float32), 4095),
        (np.array([[0, 30000, 65535]], np.float32), 65535),
        (np.array([[0, 100, 255]], np.int32), 255),
        (np.array([[0, 2000, 4000]], np.int32), 4095),
        (np.array([[0, 2000, 4000]], np.uint16), 4095),
        (np.array([[0, 30000, 65535]], np.int32), 65535),
        (np.array([[0, 2**20, 2**24 - 1]], np.int32), 2**24 - 1),
        (np.array([[0, 1_000_000_000, 2_100_000_000]], np.int32), 2**31 - 1),
    ],
)
def test_the_range_decides_what_is_white(values: np.ndarray, white: float) -> None:
    pixels = picture_of(encoded(Image.fromarray(values), "TIFF"), "a").pixels
    expected = values.astype(np.float64) * 255 / white
    assert np.abs(pixels[..., 0] - expected).max() < 1.001


def unsigned_tiff(values: np.ndarray) -> bytes:
    """A grey TIFF of 32 bits, as other programs write it."""
    height, width = values.shape
    entries = [
        (256, 4, width), (257, 4, height), (258, 3, 32), (259, 3, 1), (262, 3, 1),
        (273, 4, 8), (277, 3, 1), (278, 4, height), (279, 4, values.nbytes), (339, 3, 1),
    ]  # fmt: skip
    table = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries
    )
    return b"II*\0" + struct.pack("<I", 8 + values.nbytes) + values.astype("<u4").tobytes() + table + bytes(4)


def test_unsigned_integers_of_32_bits() -> None:
    values = np.array([[0, 1_250_000_000, 2_500_000_000, 2**32 - 1]], np.uint32)
    pixels = picture_of(unsigned_tiff(values), "a").pixels[0, :, 0]
    assert np.abs(pixels - values[0] * (255 / (2**32 - 1))).max() < 1.001


# Passes.


def progressive(scans: int, after: bytes = b"") -> bytes:
    content = encoded(Image.new("L", (1200, 1200), 90), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * scans + content[-2:] + after


def test_passes_without_end_are_refused_at_once(tmp_path: Path) -> None:
    content = progressive(1500)
    assert len(content) < 100_000
    (tmp_path / "a.jpg").write_bytes(content)
    begun = time.process_time()
    for read in (
        lambda: picture_of(content, "a"),
        lambda: read_picture(tmp_path / "a.jpg"),
        lambda: mask_of(content, (1200, 1200), "a"),
    ):
        with pytest.raises(PictureError, match="more than 100 scans"):
            read()
    assert time.process_time() - begun < 1


def test_usual_passes_are_read_whatever_else_lies_in_the_file() -> None:
    assert picture_of(progressive(20), "a").pixels.shape == (1200, 1200, 3)
    # A film behind the picture, as phones put it there, and a thumbnail before it.
    assert picture_of(progressive(1, b"\xff\xda" * 500), "a").pixels.shape == (1200, 1200, 3)
    content = progressive(1)
    comment = b"\xff\xfe" + struct.pack(">H", 2 + 1000) + b"\xff\xda" * 500
    assert picture_of(content[:2] + comment + content[2:], "a").pixels.shape == (1200, 1200, 3)


# Masks.


def test_a_mask_of_zeros_and_ones_is_boolean_however_it_comes_in(tmp_path: Path) -> None:
    mask = np.zeros((12, 9), bool)
    mask[2:5, 3:8] = True
    ones = mask.astype(np.uint8)
    for values in (mask, ones, ones * 255, ones.astype(np.int64), torch.tensor(ones), torch.tensor(mask)):
        assert np.array_equal(as_mask(values, mask.shape), mask)
    for picture in (Image.fromarray(ones), Image.fromarray(ones * 255), Image.fromarray(mask)):
        assert np.array_equal(as_mask(picture, mask.shape), mask)
        content = encoded(picture)
        assert np.array_equal(mask_of(content, mask.shape, "mask").fill, mask)
        (tmp_path / "mask.png").write_bytes(content)
        assert np.array_equal(as_mask(tmp_path / "mask.png", mask.shape), mask)
    deep = Image.fromarray(ones.astype(np.uint16))
    assert np.array_equal(mask_of(encoded(deep), mask.shape, "mask").fill, mask)
    assert not as_mask(ones * 100, mask.shape).any()
    with pytest.raises(PictureError, match=r"integers must lie in \[0, 255\], not \[-1, 0\]"):
        as_mask(np.minimum(-ones.astype(np.int64), 0), mask.shape)


def test_pages_without_end_are_counted_to_a_bound() -> None:
    entries = [(256, 4, 8), (257, 4, 8), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 4, 8)]
    entries.append((279, 4, 64))
    table = struct.pack("<H", len(entries))
    table += b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)

    def pages(count: int) -> bytes:
        size = len(table) + 4
        following = [72 + size * (number + 1) for number in range(count - 1)] + [0]
        chain = b"".join(table + struct.pack("<I", place) for place in following)
        return b"II*\0" + struct.pack("<I", 72) + bytes(64) + chain

    assert picture_of(pages(3), "a").pages == 3
    begun = time.process_time()
    assert picture_of(pages(60_000), "a").pages == 1000
    assert mask_of(pages(60_000), (8, 8), "a").pages == 1000
    assert time.process_time() - begun < 1
