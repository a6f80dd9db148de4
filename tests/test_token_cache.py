"""The token cache holds what encoding by hand gives, is made once, and is never believed half made or damaged."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from strait.data.config import DataConfig
from strait.data.encoding import Encoding, build_token_cache
from strait.data.images import read_square
from strait.data.job import Job
from strait.data.sources import DataError, FolderSource
from strait.data.token_cache import TokenCache
from strait.types import Images, StratifiedTokens, Tokens

SIZE = 16
CPU = torch.device("cpu")
MADE_FROM = {"data": "photographs", "tokenizer": "0123abcd"}


class CountingEncoder:
    """Brightness of each cell as an id, and how many images have been asked for."""

    def __init__(self, codes: int = 5000) -> None:
        self.images, self.codes = 0, codes

    def ids(self, images: Images, side: int) -> torch.Tensor:
        cells = F.avg_pool2d(images.mean(1, keepdim=True), SIZE // side)[:, 0]
        return ((cells + 1) / 2 * (self.codes - 1)).round().long()

    def __call__(self, images: Images) -> Tokens:
        self.images += len(images)
        return StratifiedTokens((self.ids(images, 4), self.ids(images, 8)))


def build(
    folder: Path,
    source: FolderSource,
    encode: Callable[[Images], Tokens],
    config: DataConfig | None = None,
    made_from: dict[str, Any] | None = None,
    **settings: Any,
) -> TokenCache:
    settings = {"batch_size": 7, **settings}
    names, limit = settings.pop("names", ("top", "bottom")), settings.pop("limit", None)
    plain = DataConfig(flip=False)
    encoding = Encoding(source, encode, names, SIZE, config or plain, made_from or MADE_FROM, limit)
    return build_token_cache(folder, encoding, Job(CPU), **settings)


def by_hand(source: FolderSource, index: int, mirrored: bool = False) -> list[list[int]]:
    pixels, _ = read_square(source, index, SIZE)
    assert isinstance(pixels, np.ndarray)
    image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    tokens = CountingEncoder()(image.flip(3) if mirrored else image)
    return [level.flatten().tolist() for level in tokens.levels]


@pytest.fixture
def source(photo_folder: Path) -> FolderSource:
    return FolderSource(photo_folder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "tokens" / "train"


def test_it_holds_what_encoding_by_hand_gives(source: FolderSource, folder: Path) -> None:
    seen: list[int] = []
    cache = build(folder, source, CountingEncoder(), progress=seen.append)
    assert sum(seen) == 40
    assert len(cache) == 40
    assert cache.variants == 1
    assert cache.grids == [(4, 4), (8, 8)]
    assert [level.shape for level in cache.levels] == [(1, 40, 16), (1, 40, 64)]
    assert cache.labels.tolist() == [label for label in range(4) for _ in range(10)]
    for index in range(40):
        assert [level[0, index].tolist() for level in cache.levels] == by_hand(source, index)


def test_entries_are_read_in_any_order(source: FolderSource, folder: Path) -> None:
    cache = build(folder, source, CountingEncoder())
    levels, labels = cache.read(np.zeros(3, np.int64), np.array([33, 2, 33]))
    assert labels.tolist() == [3, 0, 3]
    assert all(level.dtype == torch.int64 for level in levels)
    for row, index in enumerate((33, 2, 33)):
        assert [level[row].tolist() for level in levels] == by_hand(source, index)


@pytest.mark.parametrize("codes", [200, 8192, 65536])
def test_ids_of_any_codebook_come_back(source: FolderSource, folder: Path, codes: int) -> None:
    encode = CountingEncoder(codes)
    cache = build(folder, source, encode)
    pixels, _ = read_square(source, 12, SIZE)
    image = torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 127.5 - 1
    tokens = encode(image)
    for level, grid in zip(cache.levels, tokens.levels, strict=True):
        assert level[0, 12].tolist() == grid.flatten().tolist()
    assert int(cache.levels[1].max()) > codes / 2


def test_every_variant_is_a_draw_of_the_picture(source: FolderSource, folder: Path) -> None:
    cache = build(folder, source, CountingEncoder(), DataConfig(flip=True, cache_variants=3))
    assert cache.variants == 3
    mirrored = [0, 0, 0]
    for index in range(40):
        plain, mirror_image = by_hand(source, index), by_hand(source, index, mirrored=True)
        versions = [[level[variant, index].tolist() for level in cache.levels] for variant in range(3)]
        for variant in range(3):
            assert versions[variant] in (plain, mirror_image)
            mirrored[variant] += versions[variant] == mirror_image != plain
    assert all(10 < count < 30 for count in mirrored)  # about half of 40, each drawn for itself
    again = build(folder.with_name("again"), source, CountingEncoder(), DataConfig(flip=True, cache_variants=3))
    assert all(np.array_equal(a, b) for a, b in zip(cache.levels, again.levels, strict=True))


def test_worker_processes_read_the_same_variants(source: FolderSource, folder: Path) -> None:
    settings = DataConfig(flip=True, shift=2, smallest_crop=0.5, cache_variants=3)
    cache = build(folder, source, CountingEncoder(), settings)
    apart = build(folder.with_name("apart"), source, CountingEncoder(), replace(settings, workers=2))
    assert all(np.array_equal(a, b) for a, b in zip(cache.levels, apart.levels, strict=True))
    assert not multiprocessing.active_children()


def test_shifts_make_variants_differ(source: FolderSource, folder: Path) -> None:
    cache = build(folder, source, CountingEncoder(), DataConfig(flip=False, shift=3, cache_variants=4))
    different = {level.tobytes() for level in cache.levels[1][:, 4]}
    assert len(different) >= 3
    pixels, _ = read_square(source, 4, SIZE)
    assert isinstance(pixels, np.ndarray)
    padded = np.pad(pixels, ((3, 3), (3, 3), (0, 0)), mode="edge")
    moved = [padded[down : down + SIZE, right : right + SIZE] for down in range(7) for right in range(7)]
    images = torch.from_numpy(np.stack(moved)).permute(0, 3, 1, 2).float() / 127.5 - 1
    of_moves = CountingEncoder()(images).levels[1].flatten(1).tolist()
    assert all(cache.levels[1][variant, 4].tolist() in of_moves for variant in range(4))


def test_random_crops_make_variants_and_a_cache_from_before_them_still_opens(
    source: FolderSource, folder: Path
) -> None:
    config = DataConfig(flip=False, smallest_crop=0.3, cache_variants=4)
    cache = build(folder, source, CountingEncoder(), config)
    assert all(len({level.tobytes() for level in cache.levels[1][:, index]}) == 4 for index in range(40))
    before = folder.with_name("before")
    build(before, source, CountingEncoder())
    about = json.loads((before / "cache.json").read_text())
    del about["smallest_crop"]
    (before / "cache.json").write_text(json.dumps(about))
    encode = CountingEncoder()
    build(before, source, encode)
    assert encode.images == 0
    build(before, source, encode, DataConfig(flip=False, smallest_crop=0.3))
    assert encode.images == 40


def test_one_level_has_one_array(source: FolderSource, folder: Path) -> None:
    encode = CountingEncoder()
    cache = build(folder, source, lambda images: Tokens((encode.ids(images, 4),)), names=["top"])
    assert sorted(path.name for path in folder.iterdir()) == ["cache.json", "labels.npy", "top.npy"]
    assert cache.levels[0][0, 8].tolist() == by_hand(source, 8)[0]


def test_pictures_without_classes_have_no_label(photo_folder: Path, folder: Path) -> None:
    cache = build(folder, FolderSource(photo_folder / "disc"), CountingEncoder())
    assert cache.labels.tolist() == [-1] * 10


def test_a_limit_takes_images_from_all_over(source: FolderSource, folder: Path) -> None:
    cache = build(folder, source, CountingEncoder(), limit=8)
    assert cache.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert [level[0, 3].tolist() for level in cache.levels] == by_hand(source, 15)
    assert len(build(folder, source, CountingEncoder(), limit=1000)) == 40


def test_it_is_opened_again_where_nothing_changed(source: FolderSource, folder: Path) -> None:
    first = build(folder, source, CountingEncoder())
    encode = CountingEncoder()
    second = build(folder, source, encode)
    assert encode.images == 0
    assert all(np.array_equal(a, b) for a, b in zip(first.levels, second.levels, strict=True))
    assert torch.equal(first.labels, second.labels)


@pytest.mark.parametrize(
    ("config", "made_from", "limit"),
    [
        (DataConfig(flip=False), {**MADE_FROM, "tokenizer": "4567cdef"}, None),
        (DataConfig(flip=False), {**MADE_FROM, "data": "others"}, None),
        (DataConfig(flip=True), MADE_FROM, None),
        (DataConfig(flip=False, shift=1), MADE_FROM, None),
        (DataConfig(flip=False, shift=1, cache_variants=2), MADE_FROM, None),
        (DataConfig(flip=False), MADE_FROM, 11),
    ],
)
def test_it_is_made_again_where_something_changed(
    source: FolderSource, folder: Path, config: DataConfig, made_from: dict[str, str], limit: int | None
) -> None:
    build(folder, source, CountingEncoder())
    encode = CountingEncoder()
    cache = build(folder, source, encode, config, made_from, limit=limit)
    assert encode.images == (limit or 40) * config.cache_variants
    assert cache.made_from["tokenizer"] == made_from["tokenizer"]
    again = CountingEncoder()
    build(folder, source, again, config, made_from, limit=limit)
    assert again.images == 0


def test_it_is_made_again_where_images_were_added(photo_folder: Path, folder: Path, tmp_path: Path) -> None:
    photographs = tmp_path / "photographs"
    shutil.copytree(photo_folder, photographs)
    build(folder, FolderSource(photographs), CountingEncoder())
    shutil.copy(photo_folder / "disc" / "00.jpg", photographs / "stripes" / "more.jpg")
    encode = CountingEncoder()
    assert len(build(folder, FolderSource(photographs), encode)) == 41
    assert encode.images == 41


@pytest.mark.parametrize(("variants", "workers"), [(1, 0), (2, 0), (2, 2)])
def test_damaged_images_are_left_out(
    photo_folder: Path, folder: Path, tmp_path: Path, variants: int, workers: int, capsys: pytest.CaptureFixture[str]
) -> None:
    photographs = tmp_path / "photographs"
    shutil.copytree(photo_folder, photographs)
    bad = [0, *range(13, 21), 39]  # all of the third batch
    paths = sorted(photographs.glob("*/*.jpg"))
    for index in bad:
        paths[index].write_bytes(paths[index].read_bytes()[:200])
    source = FolderSource(photographs)
    config = DataConfig(flip=True, cache_variants=variants, workers=workers)
    cache = build(folder, source, CountingEncoder(), config)
    good = [index for index in range(40) if index not in bad]
    assert [level.shape for level in cache.levels] == [(variants, 30, 16), (variants, 30, 64)]
    assert cache.labels.tolist() == [index // 10 for index in good]
    for row, index in enumerate(good):
        versions = [by_hand(source, index), by_hand(source, index, mirrored=True)]
        for variant in range(variants):
            assert [level[variant, row].tolist() for level in cache.levels] in versions
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[0] for line in lines] == [f"skipped {paths[index]}" for index in bad]
    encode = CountingEncoder()
    build(folder, source, encode, config)
    assert encode.images == 0


class Flaky(FolderSource):
    """Reading some images fails once: the first time (the first variant) or the second."""

    def __init__(self, folder: Path, failures: dict[int, int]) -> None:
        super().__init__(folder)
        self.failures, self.reads = failures, dict.fromkeys(failures, 0)

    def read(self, index: int) -> tuple[Image.Image, int]:
        if index in self.failures:
            self.reads[index] += 1
            if self.reads[index] == self.failures[index]:
                raise OSError("the disk is tired")
        return super().read(index)


@pytest.mark.parametrize("failures", [{2: 1}, {3: 2}, {2: 1, 3: 2}, {0: 1, 1: 2, 2: 2, 3: 1, 4: 1, 5: 2, 6: 2}])
def test_an_image_that_fails_once_is_left_out_of_every_variant(
    photo_folder: Path, folder: Path, failures: dict[int, int]
) -> None:
    source = Flaky(photo_folder, failures)
    cache = build(folder, source, CountingEncoder(), DataConfig(cache_variants=2))
    kept = [index for index in range(len(source)) if index not in failures]
    assert len(cache) == len(kept)
    plain = FolderSource(photo_folder)
    for variant in (0, 1):
        levels, labels = cache.read(np.full(len(kept), variant), np.arange(len(kept)))
        for row, index in enumerate(kept):
            either = [by_hand(plain, index, mirrored) for mirrored in (False, True)]
            assert [level[row].tolist() for level in levels] in either
            assert int(labels[row]) == plain.read(index)[1]


def test_nothing_readable_is_an_error(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no")
    (tmp_path / "b.jpg").write_bytes(b"")
    with pytest.raises(DataError, match="none of the 2 images can be read"):
        build(folder, FolderSource(tmp_path), CountingEncoder())
    assert not folder.exists()


class Killed(BaseException):
    pass


def kill_after(images: int) -> Callable[[int], None]:
    seen = [0]

    def progress(count: int) -> None:
        seen[0] += count
        if seen[0] >= images:
            raise Killed

    return progress


@pytest.mark.parametrize("images", [7, 21, 40])
def test_a_build_that_was_killed_does_not_count(source: FolderSource, folder: Path, images: int) -> None:
    with pytest.raises(Killed):
        build(folder, source, CountingEncoder(), progress=kill_after(images))
    assert not folder.exists()
    assert any(folder.parent.iterdir())  # what it left behind
    encode = CountingEncoder()
    cache = build(folder, source, encode)
    assert encode.images == 40
    assert [level[0, 39].tolist() for level in cache.levels] == by_hand(source, 39)
    assert list(folder.parent.iterdir()) == [folder]


def test_a_killed_rebuild_leaves_the_old_one(source: FolderSource, folder: Path) -> None:
    build(folder, source, CountingEncoder())
    origin = {**MADE_FROM, "tokenizer": "another"}
    with pytest.raises(Killed):
        build(folder, source, CountingEncoder(), made_from=origin, progress=kill_after(21))
    encode = CountingEncoder()
    build(folder, source, encode)
    assert encode.images == 0


def cut_in_half(folder: Path) -> None:
    path = folder / "bottom.npy"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_to_nothing(folder: Path) -> None:
    (folder / "top.npy").write_bytes(b"")


def remove_a_level(folder: Path) -> None:
    (folder / "top.npy").unlink()


def remove_labels(folder: Path) -> None:
    (folder / "labels.npy").unlink()


def other_shape(folder: Path) -> None:
    np.save(folder / "top.npy", np.zeros((1, 39, 16), np.uint16))


def other_labels(folder: Path) -> None:
    np.save(folder / "labels.npy", np.zeros(12, np.int32))


def no_array(folder: Path) -> None:
    (folder / "top.npy").write_text("hello")


def half_a_description(folder: Path) -> None:
    path = folder / "cache.json"
    path.write_text(path.read_text()[:50])


def poor_description(folder: Path) -> None:
    (folder / "cache.json").write_text(json.dumps({"levels": ["top"]}))


def odd_description(folder: Path) -> None:
    (folder / "cache.json").write_text("[1, 2]")


@pytest.mark.parametrize(
    "damage",
    [
        *(cut_in_half, cut_to_nothing, remove_a_level, remove_labels, other_shape, other_labels),
        *(no_array, half_a_description, poor_description, odd_description),
    ],
)
def test_a_damaged_cache_is_named(source: FolderSource, folder: Path, damage: Callable[[Path], None]) -> None:
    build(folder, source, CountingEncoder())
    damage(folder)
    with pytest.raises(DataError, match=f"{folder} is .*; delete it to build it again") as caught:
        build(folder, source, CountingEncoder())
    assert "\n" not in str(caught.value)
    shutil.rmtree(folder)
    assert len(build(folder, source, CountingEncoder())) == 40


class Dying(CountingEncoder):
    """An encoder that dies, without a word, after some images."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.after = after

    def __call__(self, images: Images) -> Tokens:
        if self.images + len(images) > self.after:
            os._exit(9)
        return super().__call__(images)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_what_a_dead_process_had_finished_is_not_made_again(source: FolderSource, folder: Path) -> None:
    child = os.fork()
    if child == 0:
        try:
            build(folder, source, Dying(27), piece_images=10, batch_size=5)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert not folder.exists()
    seen: list[int] = []
    again = CountingEncoder()
    cache = build(folder, source, again, piece_images=10, batch_size=5, progress=seen.append)
    assert again.images == 20  # two of the four pieces stood
    assert sum(seen) == 40
    whole = build(folder.with_name("whole"), source, CountingEncoder())
    assert torch.equal(cache.labels, whole.labels)
    assert all(np.array_equal(a, b) for a, b in zip(cache.levels, whole.levels, strict=True))
    assert sorted(path.name for path in folder.parent.iterdir()) == ["train", "whole"]


@pytest.mark.parametrize("changes", [{"made_from": {"tokenizer": "another"}}, {"piece_images": 9}])
def test_pieces_of_another_cache_are_not_taken_up(source: FolderSource, folder: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(Killed):
        build(folder, source, CountingEncoder(), piece_images=10, progress=kill_after(21))
    again = CountingEncoder()
    build(folder, source, again, **{"piece_images": 10, **changes})
    assert again.images == 40


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_an_array_that_cannot_be_written_is_named(source: FolderSource, folder: Path, tmp_path: Path) -> None:
    """In a process whose files may have 4,000 bytes: the pieces and the top fit, the bottom does not."""
    import resource

    error_file = tmp_path / "said"
    child = os.fork()
    if child == 0:
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
            build(folder, source, CountingEncoder(), piece_images=10)
        except OSError as error:
            error_file.write_text(str(error))
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert error_file.read_text().startswith("[Errno 27] File too large: '")
    assert error_file.read_text().endswith("bottom.npy'")
    assert not folder.exists()
    again = CountingEncoder()
    build(folder, source, again, piece_images=10)
    assert again.images == 0  # the pieces stood
