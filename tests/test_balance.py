"""The order of an epoch: a permutation, or one in which classes come as often as their shares say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from strait.cli import main
from strait.data.balance import epoch_order
from strait.data.config import DataConfig
from strait.data.sources import ClassesOf, FolderSource, open_images
from strait.data.streamed import open_stream
from strait.data.training_images import ShuffledPositions
from strait.randomness import permutation

labellings = st.lists(st.integers(-1, 4), min_size=1, max_size=60).map(lambda labels: np.array(labels, np.int64))


@given(labellings, st.sampled_from([0.0, 0.3, 0.5, 1.0]), st.integers(0, 5))
def test_classes_come_in_their_shares_and_images_of_a_class_alike(
    labels: np.ndarray, balance: float, epoch: int
) -> None:
    order = epoch_order(len(labels), labels, balance, 7, epoch).numpy()
    assert order.shape == labels.shape
    without = int((labels < 0).sum())
    assert int((labels[order] < 0).sum()) == without  # not a class that could be rare
    sizes = {int(label): int((labels == label).sum()) for label in np.unique(labels) if label >= 0}
    total = sum(size ** (1 - balance) for size in sizes.values())
    for label, size in sizes.items():
        share = (len(labels) - without) * size ** (1 - balance) / total
        assert abs(int((labels[order] == label).sum()) - share) < 1
        times = np.bincount(order[labels[order] == label], minlength=len(labels))[labels == label]
        assert times.max() - times.min() <= 1


def test_without_balance_or_classes_it_is_the_permutation() -> None:
    labels = np.array([0] * 30 + [1] * 5)
    assert torch.equal(epoch_order(35, labels, 0.0, 3, 1), permutation(35, 3, 1))
    assert torch.equal(epoch_order(35, None, 1.0, 3, 1), permutation(35, 3, 1))


def test_epochs_repeat_other_images_in_another_order() -> None:
    labels = np.array([0] * 50 + [1] * 8)
    epochs = [epoch_order(58, labels, 1.0, 3, epoch).numpy() for epoch in range(6)]
    assert len({str(order) for order in epochs}) == 6
    # 29 of the 50 common images in each epoch: after six all of them have come.
    assert len(np.unique(np.concatenate(epochs))) == 58
    assert np.array_equal(epochs[2], epoch_order(58, labels, 1.0, 3, 2).numpy())


def test_the_stream_follows_it() -> None:
    labels = np.array([0] * 36 + [1] * 4)
    batches = ShuffledPositions(40, 10, 5, 0, labels=labels, balance=1.0)
    stream = iter(batches)
    images = [image for _ in range(4) for image, _ in next(stream)]
    assert (labels[images] == 1).sum() == 20


def test_every_source_knows_its_labels_without_reading_pictures(photo_folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    source = FolderSource(photo_folder)
    renumbered = ClassesOf(source, [*reversed(source.classes), "another"])
    content = datasets.Dataset.from_dict(
        {
            "image": [{"bytes": Path(source.name(index)).read_bytes(), "path": None} for index in range(40)],
            "label": [source.read(index)[1] for index in range(40)],
        },
        features=datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(source.classes))}
        ),
    )
    content.to_parquet(str(tmp_path / "train-0.parquet"))
    for opened in (source, renumbered, open_images(str(tmp_path), "train"), open_stream(str(tmp_path), "train")):
        assert opened.labels().tolist() == [opened.read(index)[1] for index in range(len(opened))]


def test_a_stream_in_the_order_of_its_shards_cannot_be_balanced() -> None:
    with pytest.raises(ValueError, match=r"data\.balance: a stream"):
        DataConfig(streaming=True, balance=0.5)


def test_pictures_without_classes_have_no_rare_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").mkdir()
    for number in range(3):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "data" / f"{number}.png")
    words = ["train", "tokenizer", "--config", "smoke", "--data", str(tmp_path / "data"), "--data.balance", "1"]
    assert main([*words, "--model", str(tmp_path / "model")]) == 2
    assert "data.balance: these pictures have no classes; set it to 0" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()
