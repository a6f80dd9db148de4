"""The classifier for the tokenizer's perceptual loss: built, trained before the tokenizer, and loaded.

M/classifier.safetensors    not part of the model: generation does not need it
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from strait.config import Config
from strait.data.images import ImageBatch, in_order
from strait.data.sources import DataError, ImageSource
from strait.data.training_images import training_batches
from strait.data.workers import default_workers
from strait.model.config import ModelError
from strait.model.folder import check_part, load_part
from strait.runs.part import ModelRun
from strait.tokenizer.classifier import Classifier
from strait.training.classifier_loop import ClassifierTrainee

_VALIDATION_IMAGES, _VALIDATION_BATCH = 2000, 250


def build_classifier(config: Config, num_classes: int, data: str) -> Classifier:
    """A classifier with random weights.

    Raises:
        DataError: if the images have fewer than two classes.
        ValueError: if the images are too small for its stages.
    """
    if num_classes < 2:
        classes = "one class" if num_classes else "no classes"
        raise DataError(
            f"classifier: the images of {data} have {classes}, but it needs at least two; set "
            "tokenizer_training.perceptual to 'none', 'lpips' or a TorchScript file"
        )
    if config.image_size < config.classifier.smallest_image:
        raise ValueError(
            f"classifier.multipliers: {len(config.classifier.multipliers)} stages need images of at least "
            f"{config.classifier.smallest_image} pixels, not {config.image_size}"
        )
    return Classifier(config.classifier, num_classes)


class ClassifierPart:
    """Training of the classifier; see ``runs.part.Part``."""

    def __init__(self, run: ModelRun) -> None:
        self.run = run

    def prepare(self, config: Config) -> None:
        """Does nothing: it is trained on photographs."""

    def networks(self) -> dict[str, str]:
        return {"classifier": ""}

    def trainee(self, network: str, config: Config) -> ClassifierTrainee:
        run, training, size = self.run, config.classifier_training, config.image_size
        torch.manual_seed(config.run.seed)
        classifier = build_classifier(config, len(run.classes), run.data)
        run.start_weights("classifier", classifier, config)
        workers = default_workers(config.data, run.job.device, os.cpu_count() or 1)

        def batches(step: int) -> Iterator[ImageBatch]:
            seed, ranks = config.run.seed, run.job.ranks
            return training_batches(
                run.photographs, size, training.batch_size, config.data, seed, step, workers, ranks
            )

        validation = None if run.validation is None else partial(_evenly_spaced, run.validation, size)
        return ClassifierTrainee(classifier, training, config.run, batches, validation, run.job)


def _evenly_spaced(source: ImageSource, size: int) -> Iterator[ImageBatch]:
    count = min(_VALIDATION_IMAGES, len(source))
    indices = [index * len(source) // count for index in range(count)]
    return in_order(source, size, _VALIDATION_BATCH, indices)


def load_classifier(folder: Path, config: Config, num_classes: int, data: str) -> Classifier:
    """The trained classifier of a model folder.

    Raises:
        ModelError: if it is missing, or does not fit the settings.
    """
    classifier = build_classifier(config, num_classes, data)
    if not (folder / "classifier.safetensors").exists():
        raise ModelError(
            f"tokenizer_training.perceptual: {folder} has no classifier yet; make it with: "
            f"strait train classifier --data {data} --model {folder}"
        )
    check_part(folder, "classifier", classifier)
    load_part(folder, "classifier", classifier)
    return classifier
