"""Streams out of parquet files and tars: nothing lost or twice, resumed in the midst of an epoch, no copy."""

from __future__ import annotations

import contextlib
import io
import itertools
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conftest import make_photograph
from strait.data import shards
from strait.data.config import DataConfig
from strait.data.encoding import Encoding, build_token_cache
from strait.data.images import ImageBatch, in_order, read_square
from strait.data.job import BadFiles, Job
from strait.data.sources import DataError, FolderSource, open_images
from strait.data.stream_order import StreamedPositions, lane_order, lanes_for
from strait.data.streamed import StreamedSource, open_stream, stream_has_split
from strait.data.training_images import training_batches
from strait.runtime.ranks import ALONE, Ranks
from strait.types import Images, StratifiedTokens, Tokens
from test_resume import command, environment, wait_for_checkpoint

arrow = pytest.importorskip("pyarrow", reason="parquet needs pyarrow (the extra train)")
parquet = pytest.importorskip("pyarrow.parquet")

SIZE, CLASSES = 16, ("disc", "gradient", "square", "stripes")
CPU = torch.device("cpu")


def encoded(name: str, number: int) -> bytes:
    stream = io.BytesIO()
    make_photograph(name, number).save(stream, "PNG")
    return stream.getvalue()


def rows(count: int) -> list[tuple[bytes, int]]:
    """As the photographs of a folder come: sorted by class."""
    each = count // len(CLASSES)
    return [(encoded(name, number), label) for label, name in enumerate(CLASSES) for number in range(each)]


def write_parquet(path: Path, content: list[tuple[bytes | None, Any]], group: int = 5) -> None:
    table = arrow.table(
        {
            "image": [None if data is None else {"bytes": data, "path": None} for data, _ in content],
            "label": [label for _, label in content],
        }
    )
    parquet.write_table(table, path, row_group_size=group)


def write_tar(path: Path, content: list[tuple[bytes | None, Any]], first: int = 0) -> None:
    with tarfile.open(path, "w") as tar:
        for row, (data, label) in enumerate(content):
            for suffix, stuff in (("cls", str(label).encode()), ("png", data)):
                if stuff is not None:
                    entry = tarfile.TarInfo(f"{first + row:04d}.{suffix}")
                    entry.size = len(stuff)
                    tar.addfile(entry, io.BytesIO(stuff))


def write(folder: Path, kind: str, content: list[tuple[bytes | None, Any]], files: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, part in enumerate(np.array_split(np.arange(len(content)), files)):
        of_file = [content[row] for row in part]
        name = f"train-{number:03d}.{kind}"
        if kind == "parquet":
            write_parquet(folder / name, of_file)
        else:
            write_tar(folder / name, of_file, int(part[0]))
    return folder


@pytest.fixture(autouse=True)
def small_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "TAR_ROWS", 5)


@pytest.fixture(scope="module", params=["parquet", "tar"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("shards") / request.param, request.param, rows(48))


def streamed(folder: Path) -> StreamedSource:
    source = open_stream(str(folder), "train")
    assert isinstance(source, StreamedSource)
    return source


def test_a_stream_holds_what_was_written(folder: Path) -> None:
    source = streamed(folder)
    assert len(source) == 48
    assert list(source.classes) == ["0", "1", "2", "3"]
    assert len(source.blocks) > 9
    for index in (0, 47, 13, 14, 15, 16, 31):  # in any order
        pixels, label = read_square(source, index, SIZE)
        photograph = make_photograph(CLASSES[index // 12], index % 12)
        assert label == index // 12
        stored = io.BytesIO()
        photograph.save(stored, "PNG")
        assert np.array_equal(np.asarray(source.read(index)[0]), np.asarray(Image.open(stored)))
        assert isinstance(pixels, np.ndarray)
    assert str(folder / "train-001.") in source.name(20)


def batches(
    source: StreamedSource, first: int = 0, workers: int = 0, ranks: Ranks = ALONE, batch: int = 12, **settings: Any
) -> Any:
    stream = {"streaming": True, "shuffle_buffer": 16, "stream_lanes": 4}
    data = DataConfig(**{"flip": True, "shift": 2, **stream, **settings})
    return training_batches(source, SIZE, batch, data, 3, first, workers, ranks)


def taken(stream: Any, count: int) -> list[ImageBatch]:
    with contextlib.closing(stream):
        return list(itertools.islice(stream, count))


def test_two_processes_of_two_workers_share_an_epoch_without_overlap_or_loss(folder: Path) -> None:
    """And each batch is, put together, the batch that one process without workers sees."""
    alone = taken(batches(streamed(folder)), 8)
    shared = [taken(batches(streamed(folder), workers=2, ranks=Ranks(rank, 2)), 8) for rank in (0, 1)]
    for number, whole in enumerate(alone):
        for name in ("pixels", "labels", "indices"):
            parts = [getattr(part[number], name) for part in shared]
            assert torch.equal(torch.cat(parts), getattr(whole, name))
    for epoch in (0, 4):  # four batches are an epoch of 48
        seen = [index for rank in shared for batch in rank[epoch : epoch + 4] for index in batch.indices.tolist()]
        assert sorted(seen) == list(range(48))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_resumed_in_the_midst_of_an_epoch_is_the_uninterrupted_one(folder: Path, workers: int) -> None:
    whole = taken(batches(streamed(folder)), 9)
    for first in (2, 5):
        resumed = taken(batches(streamed(folder), first, workers), 4)
        for ours, theirs in zip(resumed, whole[first:], strict=False):
            assert torch.equal(ours.pixels, theirs.pixels)
            assert torch.equal(ours.indices, theirs.indices)


def counting_loads(source: StreamedSource) -> list[tuple[str, int]]:
    loads: list[tuple[str, int]] = []
    for shard in source._shards:

        def load(block: int, shard: Any = shard, real: Any = shard.load) -> Any:
            loads.append((shard.file.path, block))
            return real(block)

        shard.load = load  # type: ignore[method-assign]
    return loads


def test_a_block_is_read_once_an_epoch_and_resuming_reads_no_more(folder: Path) -> None:
    source = streamed(folder)
    loads = counting_loads(source)
    taken(batches(source, batch=4), 12)  # an epoch
    # The ends of lanes lie within blocks, which are then read for both.
    assert len(source.blocks) - 1 <= len(loads) <= len(source.blocks) - 1 + 4
    del loads[:]
    taken(batches(source, 100_000, batch=4), 1)
    assert len(loads) <= 4


@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=9),
    lanes=st.integers(1, 5),
    buffer=st.integers(1, 20),
    epoch=st.integers(0, 3),
)
def test_lanes_hold_each_image_once_and_none_comes_too_late(
    sizes: list[int], lanes: int, buffer: int, epoch: int
) -> None:
    blocks = np.concatenate([[0], np.cumsum(sizes)])
    total = int(blocks[-1])
    orders = [lane_order(blocks, lane, lanes, buffer, 7, epoch) for lane in range(lanes)]
    assert sorted(np.concatenate(orders).tolist()) == list(range(total))
    for lane, order in enumerate(orders):
        plain = lane_order(blocks, lane, lanes, 1, 7, epoch)  # a buffer of one shuffles nothing
        places = {int(image): place for place, image in enumerate(plain)}
        assert all(abs(places[int(image)] - place) <= buffer for place, image in enumerate(order))
        steps = np.diff(plain)
        assert np.all((steps == 1) | np.isin(plain[1:], blocks))  # along within a block


@given(
    step=st.integers(0, 40),
    batch=st.sampled_from([4, 6, 12]),
    processes=st.sampled_from([1, 2]),
    seed=st.integers(0, 9),
)
def test_any_number_of_processes_and_pieces_takes_the_same_positions(
    step: int, batch: int, processes: int, seed: int
) -> None:
    blocks = np.array([0, 5, 9, 20, 23])

    def entries(ranks: Ranks, pieces: int) -> list[tuple[int, int]]:
        order = StreamedPositions(blocks, batch, seed, step, 4, 8, pieces, ranks)
        return [entry for piece in itertools.islice(order, 3 * pieces) for entry in piece]

    whole = entries(ALONE, 1)
    shares = [entries(Ranks(rank, processes), 2) for rank in range(processes)]
    assert sorted(whole, key=lambda entry: entry[1]) == sorted(itertools.chain(*shares), key=lambda entry: entry[1])
    assert [position for _, position in whole] == list(range(step * batch, (step + 3) * batch))


def test_lanes_divide_a_batch() -> None:
    assert [lanes_for(batch, 1000, 16) for batch in (256, 12, 10, 7, 1)] == [16, 12, 10, 7, 1]
    assert lanes_for(256, 3, 16) == 2


def test_the_buffer_really_shuffles() -> None:
    """Far over the edges of blocks, evenly, and otherwise in each epoch and for each seed."""
    blocks = np.arange(0, 4001, 100)
    plain = lane_order(blocks, 0, 1, 1, 0, 0)
    order = lane_order(blocks, 0, 1, 1000, 0, 0)
    place = np.empty(4000, np.int64)
    place[plain] = np.arange(4000)
    moved = place[order] - np.arange(4000)
    assert 200 < np.abs(moved[1000:3000]).mean() < 400  # the mean of two draws' distance out of 1000: a third
    inside = order[1000:1250]  # what a batch in the midst is made of: images of many blocks
    assert len(set((inside // 100).tolist())) >= 8
    neighbours = np.abs(np.diff(place[order]))[1000:3000]
    assert np.median(neighbours) > 100
    others = [lane_order(blocks, 0, 1, 1000, seed, epoch).tolist() for seed, epoch in ((0, 1), (1, 0))]
    assert order.tolist() not in others
    assert others[0] != others[1]


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_damaged_pictures_are_reported_once(tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    content: list[tuple[bytes | None, Any]] = [*rows(16)]
    content[3], content[9] = (content[3][0][:60], 0), (None, 2)  # type: ignore[index]
    source, bad_files = streamed(write(tmp_path / "shards", kind, content)), BadFiles()
    seen: set[int] = set()
    for batch in taken(batches(source, batch=4), 9):  # twice all of them
        bad_files.note(batch.bad)
        seen |= set(batch.indices.tolist())
    bad_files.summary()
    lines = capsys.readouterr().err.splitlines()
    assert sorted(seen) == [index for index in range(16) if index not in (3, 9)]
    assert len(lines) == 3
    assert lines[-1] == "2 unreadable images were skipped"
    assert {line.split(": ")[0] for line in lines[:-1]} == {f"skipped {source.name(index)}" for index in (3, 9)}


@pytest.mark.parametrize("content", [b"", b"PAR1 and then nothing of the kind"])
@pytest.mark.parametrize("name", ["train-0.parquet", "a.tar"])
def test_a_damaged_shard_is_an_error_of_one_line(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"--data: {tmp_path}") as caught:
        open_stream(str(tmp_path), "train")
    assert "\n" not in str(caught.value)


def test_labels_that_are_words_are_classes(tmp_path: Path) -> None:
    content = [(data, CLASSES[label]) for data, label in rows(8)]
    write_parquet(tmp_path / "a.parquet", content[:5])
    write_parquet(tmp_path / "b.parquet", content[5:])
    source = streamed(tmp_path)
    assert list(source.classes) == list(CLASSES)
    assert [source.read(index)[1] for index in range(8)] == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_stream_of_a_library_s_parquet_is_what_the_library_reads(tmp_path: Path, monkeypatch: Any) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    columns = {"image": [{"bytes": data, "path": None} for data, _ in rows(8)], "label": [0, 1, 2, 1, 0, 2, 2, 1]}
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])}
    (tmp_path / "data").mkdir()
    for name in ("train-0.parquet", "validation-0.parquet"):
        datasets.Dataset.from_dict(columns, features=datasets.Features(features)).to_parquet(tmp_path / "data" / name)
    ours, theirs = open_stream(str(tmp_path / "data"), "train"), open_images(str(tmp_path / "data"), "train")
    assert stream_has_split(str(tmp_path / "data"), "validation")
    assert list(ours.classes) == list(theirs.classes) == ["a", "b", "c"]
    for index in range(8):
        first, second = read_square(ours, index, SIZE), read_square(theirs, index, SIZE)
        assert np.array_equal(first[0], second[0])
        assert first[1] == second[1]


def test_folders_of_pictures_are_read_as_they_are(photo_folder: Path) -> None:
    assert isinstance(open_stream(str(photo_folder), "train"), FolderSource)
    with pytest.raises(DataError, match="does not exist"):
        open_stream(str(photo_folder / "nowhere"), "train")


def test_a_hub_is_read_where_it_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system in memory stands in for it: the same interface, and no network."""
    memory = pytest.importorskip("fsspec").filesystem("memory")
    for number, path in enumerate(sorted(folder.iterdir())):
        split = "train" if number < 2 else "validation"
        memory.pipe(f"datasets/someone/photos/data/{split}-{number}{path.suffix}", path.read_bytes())
    memory.pipe("datasets/someone/photos/README.md", b"hello")
    for module in ("shards", "hub_data"):
        monkeypatch.setattr(f"strait.data.{module}.hub", lambda: memory)
    try:
        source = open_stream("someone/photos", "train")
        assert len(source) == 32
        assert stream_has_split("someone/photos", "validation")
        local = streamed(folder)
        for index in (0, 17, 31):
            assert np.array_equal(read_square(source, index, SIZE)[0], read_square(local, index, SIZE)[0])
        with pytest.raises(DataError, match="no parquet or tar files"):
            open_stream("someone/else", "train")
    finally:
        memory.rm("/datasets", recursive=True)


def test_tokens_are_cached_from_a_stream(folder: Path, tmp_path: Path) -> None:
    def encode(images: Images) -> Tokens:
        cells = torch.nn.functional.avg_pool2d(images.mean(1, keepdim=True), 4)[:, 0]
        ids = ((cells + 1) / 2 * 99).round().long()
        return StratifiedTokens((ids, ids.repeat_interleave(2, 1).repeat_interleave(2, 2)))

    def cached(name: str, source: Any) -> Any:
        encoding = Encoding(source, encode, ("top", "bottom"), SIZE, DataConfig(flip=False))
        return build_token_cache(tmp_path / name, encoding, Job(CPU), batch_size=7, piece_images=20)

    source = streamed(folder)
    loads = counting_loads(source)
    cache = cached("stream", source)
    assert len(loads) <= len(source.blocks) + 3  # along: only the ends of pieces lie within blocks
    assert cache.labels.tolist() == [label for label in range(4) for _ in range(12)]
    pixels = np.concatenate([batch.pixels.numpy() for batch in in_order(streamed(folder), SIZE, 48)])
    tokens = encode(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert np.array_equal(cache.levels[0][0], tokens.levels[0].flatten(1).numpy())


def files_under(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def test_training_from_shards_leaves_no_copy_and_is_resumed_to_the_bit(folder: Path, tmp_path: Path) -> None:
    """From the command line: killed midway and gone on with, beside a run left alone; caches stay empty."""
    home = tmp_path / "home"
    places = {**environment(), "HF_HOME": str(home), "HF_DATASETS_CACHE": str(home / "datasets"), "HOME": str(home)}
    settings = ("--data.streaming", "true", "--data.shuffle_buffer", "16", "--device", "cpu")
    settings += ("--run.precision", "float32", "--tokenizer_training.batch_size", "20")  # epochs end within batches

    def words(model: str) -> list[str]:
        arguments = command(folder, tmp_path / model, *settings)
        place = arguments.index("train") + 1
        return [*arguments[:place], "tokenizer", *arguments[place:]]

    def run(model: str) -> None:
        done = subprocess.run(words(model), env=places, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    run("whole")
    process = subprocess.Popen(words("parts"), env=places, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_checkpoint(tmp_path / "parts", "tokenizer", process)
    process.kill()
    process.wait()
    assert not (tmp_path / "parts" / "runs" / "tokenizer" / "finished.json").exists()
    run("parts")
    name = "tokenizer.safetensors"
    assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # Nothing of the pictures: datasets alone would keep them all.
    assert [path for path in files_under(home) if path.suffix in (".arrow", ".parquet", ".tar", ".lock")] == []


def test_what_a_process_holds_is_bounded() -> None:
    """Blocks of its own lanes, over the buffer's length, and one more at either end."""
    blocks = np.arange(0, 100_001, 100)
    alone = StreamedPositions(blocks, 256, 0, 0, 16, 8192, 1)
    assert alone.blocks_at_work() == 16 * (6 + 2)
    one_of_many = StreamedPositions(blocks, 256, 0, 0, 16, 8192, 2, Ranks(3, 8))
    assert one_of_many.blocks_at_work() == 1 * (6 + 2)
