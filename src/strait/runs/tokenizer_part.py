"""A tokenizer in training: the photographs it sees, those it is looked at with, and the classifier that judges it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from strait.config import Config
from strait.data.images import BadFiles, ImageBatch, in_order
from strait.data.sources import ImageSource
from strait.data.training_images import default_workers, training_batches
from strait.randomness import as_seed
from strait.runs.preview import PREVIEW, spread
from strait.runtime.ranks import Ranks
from strait.tokenizer.build import TrainableTokenizer
from strait.tokenizer.classifier import Classifier
from strait.training.tokenizer_loop import TokenizerTrainee

_SCALE = 51


@dataclass(frozen=True)
class Photographs:
    """What there is to learn from, what is kept apart, and the files that could not be read."""

    train: ImageSource
    validation: ImageSource | None
    bad_files: BadFiles


def tokenizer_trainee(
    network: TrainableTokenizer,
    config: Config,
    photographs: Photographs,
    device: torch.device,
    ranks: Ranks,
    pretrained: bool,
    classifier: Classifier | None,
) -> TokenizerTrainee:
    """A tokenizer, or one network of a cascade, with all that trains it.

    Args:
        network: whose weights are trained.
        config: all settings.
        photographs: to learn from; eight of those kept apart, if there are any, make the sample grid.
        device: where.
        ranks: the processes that train it together.
        pretrained: whether its weights, codes included, are to be gone on from.
        classifier: whose features its perceptual loss compares; None where it compares none.
    """
    # What is made from here on must not depend on what was trained before it in the same process.
    torch.manual_seed(as_seed(config.run.seed, _SCALE))
    workers = default_workers(config.data, device, os.cpu_count() or 1)
    size, batch_size, seed = config.image_size, config.tokenizer_training.batch_size, config.run.seed
    crop = config.tokenizer_training.crop

    def batches(step: int) -> Iterator[ImageBatch]:
        return training_batches(photographs.train, size, batch_size, config.data, seed, step, workers, ranks, crop)

    shown = photographs.train if photographs.validation is None else photographs.validation
    preview = next(in_order(shown, size, PREVIEW, spread(len(shown))), None)
    if preview is None or not len(preview.labels):
        preview = next(batches(0))
    return TokenizerTrainee(
        network,
        config.tokenizer_training,
        config.run,
        crop or size,
        batches,
        preview.images(device)[:PREVIEW],
        photographs.bad_files,
        device,
        pretrained=pretrained,
        ranks=ranks,
        judged=photographs.validation is not None,
        classifier=classifier,
    )
