"""The classifier beside a model folder: made, trained before the tokenizer that asks for it, and taken up again.

M/classifier.safetensors    no part of the model: generation does without it
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from strait.config import Config
from strait.data.images import BadFiles, in_order
from strait.data.sources import DataError, ImageSource
from strait.data.training_images import default_workers, training_batches
from strait.model.config import ModelError
from strait.model.folder import check_part, load_part
from strait.runtime.ranks import Ranks
from strait.tokenizer.classifier import Classifier
from strait.training.classifier_loop import ClassifierTrainee

_VALIDATION_IMAGES, _VALIDATION_BATCH = 2000, 250


def build_classifier(config: Config, num_classes: int, data: str) -> Classifier:
    """A fresh classifier.

    Raises:
        DataError: if the images have no classes to tell apart.
        ValueError: if the images are too small for its stages.
    """
    if num_classes < 2:
        found = "one class" if num_classes else "no classes"
        raise DataError(
            f"classifier: the images of {data} have {found}, and it has to tell at least two apart; choose 'none', "
            "'lpips' or a TorchScript file as tokenizer_training.perceptual"
        )
    if config.image_size < config.classifier.smallest_image:
        raise ValueError(
            f"classifier.multipliers: {len(config.classifier.multipliers)} stages need images of at least "
            f"{config.classifier.smallest_image} pixels, not {config.image_size}"
        )
    return Classifier(config.classifier, num_classes)


def classifier_trainee(
    classifier: Classifier,
    config: Config,
    source: ImageSource,
    validation: ImageSource | None,
    bad_files: BadFiles,
    device: torch.device,
    ranks: Ranks,
) -> ClassifierTrainee:
    """The classifier in training.

    Args:
        classifier: whose weights are trained.
        config: all settings.
        source: images to learn from.
        validation: those kept apart, of which an even spread judges it; None where there are none.
        bad_files: notes those that cannot be read.
        device: where.
        ranks: the processes that train it together.
    """
    workers = default_workers(config.data, device, os.cpu_count() or 1)
    training, size = config.classifier_training, config.image_size

    def batches(step: int):
        return training_batches(source, size, training.batch_size, config.data, config.run.seed, step, workers, ranks)

    def kept_apart():
        assert validation is not None
        count = min(_VALIDATION_IMAGES, len(validation))
        spread = [index * len(validation) // count for index in range(count)]
        return in_order(validation, size, _VALIDATION_BATCH, spread)

    return ClassifierTrainee(
        classifier,
        training,
        config.run,
        batches,
        None if validation is None else kept_apart,
        bad_files,
        device,
        ranks,
    )


def load_classifier(folder: Path, config: Config, num_classes: int, data: str) -> Classifier:
    """The trained classifier of a model folder.

    Raises:
        ModelError: if it is missing, or is not as the settings say.
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
