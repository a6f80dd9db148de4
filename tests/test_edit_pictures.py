"""Users' pictures of any size and mode into the model and back: what is outside the mask comes back bit for bit."""

from __future__ import annotations

import io
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import EpsImagePlugin, Image

from conftest import make_photograph
from strait.apps.study.pictures import PictureStore
from strait.decoding.config import DecodingConfig
from strait.editing.config import EditConfig
from strait.editing.edits import (
    Edit,
    extend_picture,
    infill_picture,
    infilling_note,
    picture_canvases,
    transfer_picture,
)
from strait.editing.extended_canvas import ExtendedCanvas
from strait.editing.extension import Sides, extend, windows
from strait.editing.masks import box_mask
from strait.editing.placing import Window, blend, cut, put_back, window_around
from strait.model.strait import StraIT
from strait.pictures.reading import Picture, PictureError, read_mask, read_picture
from strait.types import Canvas

QUICK = DecodingConfig((3, 2), (1.0, 1.0))


@pytest.fixture(scope="module")
def model() -> StraIT:
    return StraIT.from_pretrained()


def photograph(height: int, width: int, channels: int = 3) -> Picture:
    pixels = np.asarray(make_photograph("stripes", 1).resize((width, height)))
    if channels == 4:
        alpha = np.linspace(0, 255, height * width).astype(np.uint8).reshape(height, width, 1)
        pixels = np.concatenate([pixels, alpha], axis=2)
    return Picture(pixels)


def some_mask(height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), bool)
    mask[height // 3 : height // 2 + 1, width // 4 : 3 * width // 4] = True
    return mask


# The way in


def saved(tmp_path: Path, picture: Image.Image, name: str, **options: object) -> Path:
    picture.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "CMYK", "RGBA", "LA", "I;16"])
def test_every_mode_is_read_as_eight_bits(mode: str, tmp_path: Path) -> None:
    grey = np.tile(np.arange(0, 250, 5, dtype=np.uint8), (20, 1))
    if mode == "I;16":
        picture = Image.fromarray(grey.astype(np.uint16) * 257)
    else:
        picture = Image.fromarray(np.stack([grey] * 3, -1)).convert(mode, palette=Image.Palette.ADAPTIVE)
    path = saved(tmp_path, picture, "picture.tif" if mode == "CMYK" else "picture.png")
    pixels = read_picture(path).pixels
    assert pixels.dtype == np.uint8
    assert pixels.shape == (20, 50, 4 if mode in ("RGBA", "LA") else 3)
    expected = grey if mode != "1" else np.asarray(picture.convert("L"))
    assert np.abs(pixels[..., :3].astype(int) - expected[..., None]).max() <= (4 if mode == "P" else 1)


def test_a_picture_is_turned_as_its_exif_says(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    pixels = np.zeros((4, 9, 3), np.uint8)
    pixels[0, 0] = 255
    turned_pixels = read_picture(saved(tmp_path, Image.fromarray(pixels), "turned.png", exif=exif)).pixels
    assert turned_pixels.shape == (9, 4, 3)
    assert turned_pixels[0, 3].tolist() == [255] * 3


def test_transparent_pixels_are_white_for_the_model_and_unchanged_for_the_user() -> None:
    picture = Picture(np.zeros((5, 5, 4), np.uint8))
    assert np.asarray(picture.rgb()).tolist() == np.full((5, 5, 3), 255).tolist()


def test_the_first_of_several_pictures_is_taken(tmp_path: Path) -> None:
    pages = [Image.new("RGB", (6, 4), colour) for colour in ("red", "lime", "blue")]
    for name in ("many.gif", "many.tif", "many.webp"):
        path = saved(tmp_path, pages[0], name, save_all=True, append_images=pages[1:], lossless=True)
        picture = read_picture(path)
        assert picture.pages == 3
        assert picture.pixels[0, 0, :3].tolist() == [255, 0, 0]


def test_files_that_are_no_pictures_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty.png").touch()
    (tmp_path / "text.png").write_text("no picture")
    buffer = io.BytesIO()
    make_photograph("disc", 0).save(buffer, format="PNG")
    (tmp_path / "cut.png").write_bytes(buffer.getvalue()[: len(buffer.getvalue()) // 2])
    for name, message in (
        ("missing.png", "there is no file"),
        ("empty.png", r"is empty \(0 bytes\)"),
        ("text.png", "is not a picture, or is damaged"),
        ("cut.png", r"cannot be read \("),
    ):
        with pytest.raises(PictureError, match=rf"^picture: .*{message}") as caught:
            read_picture(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1
    with pytest.raises(PictureError, match="there is no file"):
        read_picture(tmp_path)
    path = saved(tmp_path, Image.new("L", (100, 100)), "bomb.png")
    for limit in (9_999, 4_999):  # above the limit PIL warns, above twice the limit it refuses
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(PictureError, match="has too many pixels"):
            read_picture(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    assert read_picture(path).size == (100, 100)


def test_masks_are_white_where_to_fill(tmp_path: Path) -> None:
    grey = np.zeros((4, 6), np.uint8)
    grey[0], grey[1], grey[2] = 255, 128, 127
    expected = grey >= 128
    assert np.array_equal(read_mask(saved(tmp_path, Image.fromarray(grey), "grey.png"), (4, 6)).fill, expected)
    assert np.array_equal(read_mask(saved(tmp_path, Image.fromarray(expected), "one.png"), (4, 6)).fill, expected)
    strokes = np.full((4, 6, 4), 255, np.uint8)  # white paint on a transparent layer
    strokes[..., 3] = expected * 255
    assert np.array_equal(read_mask(saved(tmp_path, Image.fromarray(strokes), "layer.png"), (4, 6)).fill, expected)
    with pytest.raises(PictureError, match=r"--mask: .* is 6x4 pixels but the picture is 8x5; their sizes must match"):
        read_mask(tmp_path / "grey.png", (5, 8))
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn, which 4x6 is refused for and 6x4 needs
    turned = saved(tmp_path, Image.fromarray(grey), "turned.png", exif=exif)
    assert np.array_equal(read_mask(turned, (6, 4)).fill, np.rot90(expected, -1))
    with pytest.raises(PictureError, match=r"--mask: .* is 4x6 pixels but the picture is 6x4; their sizes must match"):
        read_mask(turned, (4, 6))


def test_a_mask_of_another_size_is_refused_by_its_head_alone(tmp_path: Path) -> None:
    """Its pixels are not even there: only who looks at them finds out."""
    path = saved(tmp_path, Image.new("L", (9000, 9900)), "large.png")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(PictureError, match=r"is 9000x9900 pixels but the picture is 64x64; their sizes must match"):
        read_mask(path, (64, 64))
    with pytest.raises(PictureError, match="cannot be read"):
        read_mask(path, (9900, 9000))


def test_a_mask_of_several_pages_says_how_many(tmp_path: Path) -> None:
    pages = [Image.new("L", (6, 4), grey) for grey in (255, 0)]
    mask = read_mask(saved(tmp_path, pages[0], "many.tif", save_all=True, append_images=pages[1:]), (4, 6))
    assert mask.pages == 2
    assert mask.fill.all()


def test_no_file_starts_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PIL reads EPS by Ghostscript, whatever the file is called."""
    started = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *words, **options: started.append(words))
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, format="EPS")
    path = tmp_path / "photo.png"
    path.write_bytes(buffer.getvalue())
    Image.open(path)  # by itself PIL would take it
    for read in (lambda: read_picture(path), lambda: read_mask(path, (8, 8))):
        with pytest.raises(PictureError, match=r"is not a picture, or is damaged \(supported formats: JPEG, PNG"):
            read()
    with pytest.raises(ValueError, match="is not a picture, or is damaged"):
        PictureStore(tmp_path / "store").add(path)
    assert started == []


def test_floats_that_are_no_numbers_are_black_and_infinite_ones_white(tmp_path: Path) -> None:
    values = np.array([[0.0, 0.5, 1.0], [np.nan, np.inf, -np.inf]], np.float32)
    for scale in (1, 65535, 3e38):
        path = saved(tmp_path, Image.fromarray(values * np.float32(scale)), f"{scale}.tif")
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            pixels = read_picture(path).pixels
        middle = 255 if scale == 3e38 else 127
        assert pixels[..., 0].tolist() == [[0, middle, 255], [0, 255, 0]]
    nothing = saved(tmp_path, Image.fromarray(np.full((2, 2), np.nan, np.float32)), "nothing.tif")
    assert not read_picture(nothing).pixels.any()


@pytest.mark.parametrize("box", ["1,2,3", "a,b,c,d", "0,0,9,4", "3,0,3,4", "-1,0,2,2", "0,3,5,2"])
def test_boxes_that_are_none_are_refused(box: str) -> None:
    with pytest.raises(PictureError, match="--box: "):
        box_mask(box, (4, 8))
    assert int(box_mask("1,2,8,4", (4, 8)).sum()) == 14


# The window


@given(
    st.integers(1, 60),
    st.integers(1, 60),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0.01, 1),
    st.floats(0.01, 1),
    st.floats(1, 4),
)
def test_the_window_holds_the_whole_mask(
    height: int, width: int, y: float, x: float, tall: float, wide: float, context: float
) -> None:
    mask = np.zeros((height, width), bool)
    top, left = int(y * (height - 1)), int(x * (width - 1))
    mask[top : top + max(1, int(tall * height)), left : left + max(1, int(wide * width))] = True
    window = window_around(mask, 16, context, 4)
    inside = np.zeros_like(mask)
    inside[max(window.top, 0) : window.top + window.side, max(window.left, 0) : window.left + window.side] = True
    assert not (mask & ~inside).any()
    extent = max(mask.any(0).sum(), mask.any(1).sum())
    assert window.side == max(extent, min(height, width, max(16, int(context * extent))))
    assert window_around(mask, 16, 1e308, 4) == window_around(mask, 16, 2.0 * max(height, width), 4)
    if window.side <= min(height, width):
        assert 0 <= window.top <= height - window.side
        assert 0 <= window.left <= width - window.side


def test_a_mask_so_long_that_no_square_fits_around_it_is_refused() -> None:
    mask = np.ones((2, 100_000), bool)
    with pytest.raises(PictureError, match=r"mask: the square around its 100000 pixels is too large"):
        window_around(mask, 64, 2.0, 4)


@given(
    st.integers(20, 60),
    st.integers(20, 60),
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0.05, 1), st.floats(0.05, 1)),
    st.floats(1, 3),
    st.sampled_from([0.0, 0.25, 0.6]),
)
def test_no_other_place_of_the_window_leaves_more_top_tokens_known(
    height: int, width: int, box: tuple[float, float, float, float], context: float, cover: float
) -> None:
    """Against all places, one after the other; a box that is covered along both sides is covered in area, too."""
    mask = np.zeros((height, width), bool)
    top, left = int(box[0] * (height - 1)), int(box[1] * (width - 1))
    mask[top : top + max(1, int(box[2] * height)), left : left + max(1, int(box[3] * width))] = True
    window = window_around(mask, 16, context, 4, cover)
    if window.side > min(height, width):
        return
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))

    def drawn(place: Window) -> tuple[int, int]:
        """Rows and columns of tokens of which more than a share is covered."""
        _, (seen,) = cut(Image.new("RGB", (width, height)), mask, place, 16)
        tall, wide = (seen.any(axis).float().reshape(4, 4).mean(1) for axis in (1, 0))
        return int((tall > cover).sum()), int((wide > cover).sum())

    counts = drawn(window)
    for place in range(max(0, rows[-1] + 1 - window.side), min(rows[0], height - window.side) + 1):
        assert drawn(Window(place, window.left, window.side))[0] >= counts[0]
    for place in range(max(0, columns[-1] + 1 - window.side), min(columns[0], width - window.side) + 1):
        assert drawn(Window(window.top, place, window.side))[1] >= counts[1]


def test_a_box_between_tokens_leaves_the_picture_around_it_known(model: StraIT) -> None:
    """28 to 228 of 256 pixels touches every top token of a window that sees all of the picture."""
    picture, mask = photograph(256, 256), box_mask("28,28,228,228", (256, 256))
    edit = Edit(model, 3, decoding=QUICK)
    for cover, unknown in ((0.0, 64), (0.25, 36)):
        config = EditConfig(cover=cover)
        top, bottom = picture_canvases(edit, picture, mask, config)(torch.tensor([0]))
        assert int(top.masked.sum()) == unknown
        assert int(bottom.masked.sum()) == 196  # 14 to 114 of 128: 14 of 16 bottom tokens along a side
        (result,) = infill_picture(edit, picture, mask, config)
        changed = (result != picture.pixels).any(-1)
        assert not (changed & ~mask).any()
        assert changed[mask].mean() > 0.9


def test_one_is_told_where_nothing_of_the_picture_stays_known(model: StraIT) -> None:
    none = infilling_note(model, box_mask("0,0,256,256", (256, 256)), EditConfig())
    assert none is not None
    assert none.startswith("mask: no top token stays known")
    assert infilling_note(model, box_mask("28,28,228,228", (256, 256)), EditConfig(cover=0)) == none
    assert infilling_note(model, box_mask("28,28,228,228", (256, 256)), EditConfig()) is None
    assert infilling_note(model, np.zeros((256, 256), bool), EditConfig()) is None


def test_a_seam_changes_so_many_pixels_outside_the_mask_and_no_more(model: StraIT) -> None:
    picture, mask = photograph(64, 64), box_mask("20,20,40,40", (64, 64))
    (hard,) = infill_picture(Edit(model, 3, decoding=QUICK), picture, mask, EditConfig(feather=0))
    (soft,) = infill_picture(Edit(model, 3, decoding=QUICK), picture, mask, EditConfig(feather=0, seam=5))
    assert np.array_equal(hard[~mask], picture.pixels[~mask])
    assert np.array_equal(soft[mask], hard[mask])
    band = box_mask("15,15,45,45", (64, 64))
    assert np.array_equal(soft[~band], picture.pixels[~band])
    assert (soft != picture.pixels).any(-1)[band & ~mask].mean() > 0.8
    # One step in five at a time: the outermost ring of the band is the nearest to the picture.
    away = np.abs(soft.astype(int) - picture.pixels).mean(-1)
    outer, inner = band & ~box_mask("16,16,44,44", (64, 64)), box_mask("19,19,41,41", (64, 64)) & ~mask
    assert away[outer].mean() < away[inner].mean() / 2


def test_what_lies_beyond_the_picture_is_unknown() -> None:
    mask = np.zeros((8, 32), bool)
    mask[2:4] = True
    window = window_around(mask, 16, 1.0, 4)
    assert window == Window(-12, 0, 32)
    images, masks = cut(Image.new("RGB", (32, 8), "red"), mask, window, 16)
    places = (~masks[0]).nonzero()
    assert images.shape == (1, 3, 16, 16)
    assert places[:, 0].unique().tolist() == [6, 8, 9]  # pixels 0-1, 4-7 of eight, by twos


def test_a_picture_of_the_models_size_is_not_resampled() -> None:
    picture = photograph(64, 64)
    mask = some_mask(64, 64)
    images, masks = cut(picture.rgb(), mask, Window(0, 0, 64), 64)
    assert np.array_equal(masks[0].numpy(), mask)
    assert np.array_equal(((images[0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy(), picture.pixels)


# The way back


@given(st.integers(0, 6), st.integers(0, 200), st.sampled_from([3, 4]))
def test_blending_leaves_all_outside_the_mask(feather: int, seed: int, channels: int) -> None:
    draw = np.random.default_rng(seed)
    old, new = draw.integers(0, 256, (12, 10, channels), np.uint8), draw.integers(0, 256, (12, 10, 3), np.uint8)
    mask = draw.random((12, 10)) < draw.random()
    before = old.copy()
    result = blend(old, new, mask, feather)
    assert np.array_equal(old, before)
    assert np.array_equal(result[~mask], old[~mask])
    seen = np.asarray(Picture(old).rgb())
    low, high = np.minimum(seen, new), np.maximum(seen, new)
    low[~mask], high[~mask] = old[~mask, :3], old[~mask, :3]
    assert ((result[..., :3] >= low) & (result[..., :3] <= high)).all()
    assert (result[mask, 3:] == 255).all()
    if feather <= 1:
        assert np.array_equal(result[mask][:, :3], new[mask])


def test_the_new_fades_into_white_where_the_old_is_transparent() -> None:
    """Not into the colour that stands in the file of a transparent pixel, which nobody has seen."""
    old, new = np.zeros((9, 9, 4), np.uint8), np.full((9, 9, 3), 255, np.uint8)
    old[..., 0], old[..., 2] = 255, 255  # magenta, hidden
    mask = np.zeros((9, 9), bool)
    mask[2:7, 2:7] = True
    result = blend(old, new, mask, 3)
    assert (result[mask] == 255).all()
    assert np.array_equal(result[~mask], old[~mask])


@pytest.mark.parametrize("size", [(128, 128), (100, 61), (30, 200), (7, 5), (2, 3), (500, 333)])
@pytest.mark.parametrize("channels", [3, 4])
def test_pixels_outside_the_mask_come_back_bit_for_bit(model: StraIT, size: tuple[int, int], channels: int) -> None:
    picture, mask = photograph(*size, channels), some_mask(*size)
    for feather in (0, 3):
        (result,) = infill_picture(Edit(model, 3, decoding=QUICK), picture, mask, EditConfig(feather=feather))
        assert result.shape == picture.pixels.shape
        assert np.array_equal(result[~mask], picture.pixels[~mask])
        assert not np.array_equal(result[mask], picture.pixels[mask])


def test_a_square_that_reaches_beyond_the_picture_comes_back_in_its_place() -> None:
    """A window of 8 over a picture of 4x8: two of its rows lie above, two below."""
    image = torch.linspace(-1, 1, 8)[None, None, :, None].expand(1, 3, 8, 8)
    pixels, mask = np.zeros((4, 8, 3), np.uint8), np.ones((4, 8), bool)
    result = put_back(pixels, image, mask, Window(-2, 0, 8), 0)
    expected = [round(index * 255 / 7) for index in range(2, 6)]
    assert result[:, 3, 0].tolist() == expected
    wide = put_back(pixels.transpose(1, 0, 2), image.transpose(2, 3), mask.T, Window(0, -2, 8), 0)
    assert wide[3, :, 0].tolist() == expected


def test_each_result_draws_a_share_of_its_own(model: StraIT) -> None:
    edit = Edit(model, 3, 4)
    canvases = picture_canvases(edit, photograph(64, 64), np.ones((64, 64), bool), EditConfig(strength=0.5))
    top = canvases(torch.arange(4))[0].masked
    assert top.sum(1).tolist() == [32] * 4
    assert len({tuple(row) for row in top.tolist()}) == 4
    assert torch.equal(canvases(torch.tensor([2]))[0].masked, top[2:3])


def test_a_mask_longer_than_the_picture_is_high_is_filled_whole(model: StraIT) -> None:
    picture, mask = photograph(20, 90), np.zeros((20, 90), bool)
    mask[5:15, 2:88] = True
    (result,) = infill_picture(Edit(model, 3, decoding=QUICK), picture, mask, EditConfig(feather=0))
    assert np.array_equal(result[~mask], picture.pixels[~mask])
    assert (result[mask] != picture.pixels[mask]).any(-1).mean() > 0.9


def test_what_the_mask_hides_says_nothing_at_any_size(model: StraIT) -> None:
    picture, mask = photograph(150, 170), some_mask(150, 170)
    pixels = picture.pixels.copy()
    pixels[mask] = 255 - pixels[mask]
    original, inverted = (
        list(infill_picture(Edit(model, 3, decoding=QUICK), seen, mask, EditConfig(feather=0)))
        for seen in (picture, Picture(pixels))
    )
    assert np.array_equal(original[0], inverted[0])


def test_without_compositing_the_model_draws_its_whole_square(model: StraIT) -> None:
    picture, mask = photograph(64, 64), some_mask(64, 64)
    (result,) = infill_picture(Edit(model, 3, decoding=QUICK), picture, mask, EditConfig(composite=False))
    assert (result != picture.pixels).any(-1).mean() > 0.9


def test_an_empty_mask_gives_the_picture_back_bit_for_bit(model: StraIT) -> None:
    picture, nothing = photograph(70, 64), np.zeros((70, 64), np.uint8)
    for mask in (nothing, nothing.astype(bool), Image.fromarray(nothing)):
        (result,) = infill_picture(Edit(model, 3, decoding=QUICK), picture, mask)
        assert np.array_equal(result, picture.pixels)


def test_an_empty_mask_without_compositing_gives_the_reconstruction(model: StraIT) -> None:
    picture, plain = photograph(128, 128), EditConfig(composite=False)
    (result,) = infill_picture(Edit(model, 3, decoding=QUICK), picture, np.zeros((128, 128), bool), plain)
    images, _ = cut(picture.rgb(), np.zeros((128, 128), bool), Window(0, 0, 128), 128)
    again = model.decode(model.encode(images))[0]
    assert np.array_equal(result, ((again + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())


def test_an_all_black_picture_is_edited_like_any_other(model: StraIT) -> None:
    picture, mask = Picture(np.zeros((128, 128, 3), np.uint8)), np.ones((128, 128), bool)
    for region in (mask, some_mask(128, 128)):
        (result,) = infill_picture(Edit(model, 3, decoding=QUICK), picture, region)
        assert not result[~region].any()
    edit = Edit(model, 3, decoding=QUICK)
    (wider,) = extend_picture(edit, picture, Sides(left=1))
    assert not wider[:, 16:].any()
    (moved,) = transfer_picture(edit, picture)
    assert moved.shape == (128, 128, 3)


def test_result_k_of_a_seed_is_the_same_however_many_are_asked_for(model: StraIT) -> None:
    picture, mask = photograph(70, 64), some_mask(70, 64)
    several = list(infill_picture(Edit(model, 3, 3, 8, QUICK, batch_size=2), picture, mask, EditConfig(strength=0.5)))
    first = list(infill_picture(Edit(model, 3, 1, 8, QUICK), picture, mask, EditConfig(strength=0.5)))
    assert np.array_equal(several[0], first[0])
    assert len({result.tobytes() for result in several}) == 3


def test_transfer_gives_the_middle_square(model: StraIT) -> None:
    picture = photograph(128, 180)
    region = np.zeros((128, 180), bool)
    region[:16] = True
    (moved,) = transfer_picture(Edit(model, 3, decoding=QUICK), picture, 0.5)
    assert moved.shape == (128, 128, 3)
    (same,) = transfer_picture(Edit(model, 3, decoding=QUICK), picture, 1.0, keep_bottom=True)
    square = cut(picture.rgb(), region, Window(0, 26, 128), 128)[0]
    tokens = model.encode(square)
    expected = model.decode(tokens)[0]
    assert np.array_equal(same, ((expected + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
    by_region = list(transfer_picture(Edit(model, 3, 2, decoding=QUICK), picture, region=region))
    by_confidence = list(transfer_picture(Edit(model, 3, 2, decoding=QUICK), picture, 0.5, "confidence"))
    assert len({result.tobytes() for result in [moved, *by_region, *by_confidence]}) == 5


def test_transfer_keeps_the_transparency_of_its_square(model: StraIT) -> None:
    picture = photograph(64, 90, 4)
    (moved,) = transfer_picture(Edit(model, 3, decoding=QUICK), picture)
    (opaque,) = transfer_picture(Edit(model, 3, decoding=QUICK), Picture(np.asarray(picture.rgb())))
    assert np.array_equal(moved[..., 3], picture.pixels[:, 13:77, 3])
    assert np.array_equal(moved[..., :3], opaque)


# Extension


@given(
    st.integers(2, 5), st.integers(2, 5), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)
)
def test_windows_cover_everything_and_start_from_what_is_known(
    high: int, wide: int, left: int, right: int, up: int, down: int
) -> None:
    known = torch.zeros(high + up + down, wide + left + right, dtype=torch.bool)
    known[up : up + high, left : left + wide] = True
    for row, column in windows(known, (high, wide)):
        part = known[row : row + high, column : column + wide]
        assert part.shape == (high, wide)
        assert part.any()
        assert not part.all()
        known[row : row + high, column : column + wide] = True
    assert known.all()


def test_windows_overlap_by_half_where_they_can() -> None:
    known = torch.zeros(4, 12, dtype=torch.bool)
    known[:, 4:8] = True
    assert sorted(windows(known, (4, 4))) == [(0, 0), (0, 2), (0, 6), (0, 8)]


def test_an_extension_keeps_its_tokens_and_is_wider_than_the_training_size(
    model: StraIT, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = torch.rand(2, 3, 128, 192, generator=torch.Generator().manual_seed(0)) * 2 - 1
    image_tokens = model.encode(images)
    decoded = []
    monkeypatch.setattr(model, "decode", lambda tokens: decoded.append(tokens) or StraIT.decode(model, tokens))
    extended_images = extend(model, images, Sides(left=9, up=1), torch.tensor([3, 4]), seed=2, decoding=QUICK)
    assert extended_images.shape == (2, 3, 144, 336)
    (tokens,) = decoded
    for level, factor in ((0, 1), (1, 2)):
        grid = tokens.levels[level]
        assert grid.shape == (2, 9 * factor, 21 * factor)
        assert torch.equal(grid[:, factor:, 9 * factor :], image_tokens.levels[level])
    alone = extend(
        model, images[1:], Sides(left=9, up=1), torch.tensor([4]), seed=2, indices=torch.tensor([1]), decoding=QUICK
    )
    assert torch.equal(extended_images[1:], alone)


def test_each_window_is_given_what_is_already_there(model: StraIT, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two windows to the right; the second keeps the first one's new tokens on its left."""
    seen: list[tuple[list[Canvas], list[torch.Tensor]]] = []

    def watched(labels, seed, indices, decoding, canvases):
        steps = list(StraIT.decoding_steps(model, labels, seed, indices, decoding, canvases))
        ends = {step.level: step.canvas.as_grid() for step in steps}
        seen.append((canvases, list(ends.values())))
        return iter(steps)

    monkeypatch.setattr(model, "decoding_steps", watched)
    images = torch.zeros(1, 3, 128, 128)
    extend(model, images, Sides(right=8), torch.tensor([3]), decoding=QUICK)
    (first, grids), (second, _) = seen
    for level, half in ((0, 4), (1, 8)):
        masked = first[level].masked.view(1, 2 * half, 2 * half)
        assert not masked[..., :half].any()
        assert masked[..., half:].all()
        left = second[level].as_grid()[..., :half]
        assert torch.equal(left, grids[level][..., half:])
        assert not second[level].masked.view(1, 2 * half, 2 * half)[..., :half].any()


@pytest.mark.parametrize(("size", "channels"), [((128, 128), 3), ((50, 75), 4), ((200, 130), 3), ((128, 200), 4)])
def test_an_extended_picture_holds_the_old_one(model: StraIT, size: tuple[int, int], channels: int) -> None:
    picture = photograph(*size, channels)
    token = min(size) / 8
    (extended_pixels,) = extend_picture(Edit(model, 3, decoding=QUICK), picture, Sides(left=1, down=2), feather=3)
    left, down = round(token), round(2 * token)
    assert extended_pixels.shape == (size[0] + down, size[1] + left, channels)
    assert np.array_equal(extended_pixels[: size[0], left:], picture.pixels)
    (drawn,) = extend_picture(Edit(model, 3, decoding=QUICK), picture, Sides(left=1, down=2), composite=False)
    assert drawn.shape == extended_pixels.shape
    assert not np.array_equal(drawn[: size[0], left:], picture.pixels)


@given(
    st.integers(20, 90),
    st.integers(20, 90),
    st.tuples(*[st.integers(0, 3)] * 4),
    st.integers(0, 100),
)
def test_an_extended_canvas_agrees_with_counting_pixels(
    height: int, width: int, sides: tuple[int, int, int, int], seed: int
) -> None:
    canvas = ExtendedCanvas((height, width), Sides(*sides), (4, 4))
    token = min(height, width) / 4
    for length, count in zip((height, width), canvas.picture_tokens, strict=True):
        assert (count - 1) * token < length - 1e-6 <= count * token
    known = canvas.known()
    for row in range(known.shape[0]):
        for column in range(known.shape[1]):
            reaches_out = (row + 1) * token > height + 1e-4 or (column + 1) * token > width + 1e-4
            assert bool(known[row, column]) == (not reaches_out)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    larger, outside = canvas.with_repeated_edges(pixels), canvas.outside()
    assert larger.shape[:2] == outside.shape == canvas.size
    assert np.array_equal(larger[~outside].reshape(pixels.shape), pixels)
    left, right, up, down = (round(count * token) for count in sides)
    assert outside[:up].all()
    assert outside[:, :left].all()
    assert canvas.size == (height + up + down, width + left + right)
    rows, columns = canvas.tokens
    drawn = canvas.at_picture_scale(torch.zeros(1, 3, rows * 4, columns * 4))
    assert drawn.shape == (*canvas.size, 3)
    images = canvas.as_model_images(Picture(pixels), 16)
    assert images.shape == (1, 3, canvas.picture_tokens[0] * 4, canvas.picture_tokens[1] * 4)


def test_extensions_that_cannot_be_are_refused(model: StraIT, monkeypatch: pytest.MonkeyPatch) -> None:
    picture = photograph(64, 64)
    with pytest.raises(PictureError, match="extend: give a number of top tokens"):
        next(extend_picture(Edit(model), picture, Sides()))
    with pytest.raises(ValueError, match="left: -1 must not be negative"):
        Sides(left=-1)
    for size, sides, canvas in (
        ((3000, 2), Sides(left=1), "9x12000"),
        ((1, 1), Sides(left=100_000), "100008x8"),
        ((64, 64), Sides(up=10**400), rf"8x{10**400 + 8}"),
        ((64, 64), Sides(right=505), "513x8"),
    ):
        start = time.process_time()
        with pytest.raises(PictureError, match=rf"extend: the canvas would have {canvas} top tokens, more than 64 of"):
            next(extend_picture(Edit(model), Picture(np.zeros((*size, 3), np.uint8)), sides))
        assert time.process_time() - start < 1
    with pytest.raises(ValueError, match=r"extend: a canvas of 7x9 top tokens must be at least 8x8"):
        extend(model, torch.zeros(1, 3, 112, 128), Sides(right=1), torch.tensor([3]))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    with pytest.raises(PictureError, match="extend: the result would have 224x64 pixels"):
        next(extend_picture(Edit(model), picture, Sides(left=20)))
