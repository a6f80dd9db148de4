"""Random squares of photographs: inside, large enough, anywhere, and what training then sees of them."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from strait.data.config import DataConfig
from strait.data.images import random_window, training_view
from strait.data.sources import FolderSource
from strait.data.training_images import training_batches
from strait.pictures.reading import to_square

sides = st.integers(5, 300)


@given(sides, sides, st.sampled_from([(64, 64), (64, 32), (128, 64)]), st.floats(0.05, 1), st.integers(0, 2**62))
def test_a_window_lies_in_the_picture_and_is_not_smaller_than_its_pixels(
    width: int, height: int, sizes: tuple[int, int], smallest: float, draw: int
) -> None:
    size, crop = sizes
    left, top, side = random_window(width, height, size, crop, smallest, draw)
    assert 0 <= left <= width - side
    assert 0 <= top <= height - side
    largest = min(width, height)
    assert side >= min(largest, crop)
    assert side >= int(smallest**0.5 * largest * crop / size) - 1
    assert side <= max(largest * crop / size, min(largest, crop)) + 1
    assert (left, top, side) == random_window(width, height, size, crop, smallest, draw)


def test_windows_reach_every_corner_and_every_size() -> None:
    windows = [random_window(100, 60, 30, 30, 0.4, draw) for draw in range(4000)]
    lefts, tops, sides_seen = (np.array(values) for values in zip(*windows, strict=True))
    assert sides_seen.min() <= 39
    assert sides_seen.max() == 60
    assert lefts.min() == tops.min() == 0
    assert (lefts + sides_seen).max() == 100
    assert (tops + sides_seen).max() == 60
    # Uniform over the room there is: the middle of it is the mean.
    room = 100 - sides_seen
    assert abs(float((lefts / room).mean()) - 0.5) < 0.02


def test_the_whole_square_is_the_centre_and_crops_of_it_stay_inside() -> None:
    assert {random_window(101, 60, 30, 30, 1.0, draw) for draw in range(50)} == {(21, 0, 60)}
    for draw in range(200):
        left, top, side = random_window(101, 60, 60, 30, 1.0, draw)
        assert side == 30
        assert 21 <= left <= 51
        assert 0 <= top <= 30


def numbered(width: int, height: int) -> Image.Image:
    """A picture whose pixels say where they are."""
    down, right = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([right, down, right * 0], axis=-1).astype(np.uint8))


def test_a_view_is_the_window_cut_resized_and_mirrored_by_hand() -> None:
    picture = numbered(200, 120)
    config = DataConfig(flip=True, smallest_crop=0.3)
    mirrored = 0
    for draw in range(60):
        left, top, side = random_window(200, 120, 64, 32, 0.3, draw)
        cut = picture.crop((left, top, left + side, top + side))
        by_hand = np.asarray(cut if side == 32 else cut.resize((32, 32), Image.Resampling.LANCZOS))
        seen = training_view(picture, 64, config, draw, crop=32)
        assert seen.shape == (32, 32, 3)
        mirrored += draw & 1
        # Resizing a box may look at pixels beside it; by hand they are cut off.
        expected = by_hand[:, ::-1] if draw & 1 else by_hand
        assert np.abs(seen[3:-3, 3:-3].astype(int) - expected[3:-3, 3:-3]).max() <= 1
        assert 0.2 < np.abs(seen.astype(int) - expected).max() + 1 < 12
    assert mirrored == 30


def test_without_crops_a_view_is_the_square_as_it_always_was() -> None:
    picture = numbered(90, 50)
    for draw in (0, 2, 4):
        assert np.array_equal(training_view(picture, 20, DataConfig(flip=True), draw), to_square(picture, 20))
    assert np.array_equal(training_view(picture, 20, DataConfig(flip=True), 1), to_square(picture, 20)[:, ::-1])


def test_the_stream_gives_crops_that_differ_each_time(photo_folder: Path) -> None:
    config = DataConfig(flip=False, smallest_crop=0.5)
    source = FolderSource(photo_folder)
    views: dict[int, set[bytes]] = {}
    for batch in itertools.islice(training_batches(source, 16, 20, config, 3, 0, 0, crop=8), 6):
        assert batch.pixels.shape == (20, 8, 8, 3)
        for pixels, index in zip(batch.pixels.numpy(), batch.indices.tolist(), strict=True):
            views.setdefault(index, set()).add(pixels.tobytes())
    assert all(len(seen) == 3 for seen in views.values())  # three epochs of 40


@pytest.mark.parametrize("value", [0.0, 1.1, float("nan")])
def test_a_share_that_cannot_be_is_named(value: float) -> None:
    with pytest.raises(ValueError, match=r"data\.smallest_crop"):
        DataConfig(smallest_crop=value)
