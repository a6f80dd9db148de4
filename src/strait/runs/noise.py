"""Training of each part on noise, for measurements: with its optimizer, losses and adversary, without photographs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from strait.config import Config
from strait.data.images import ImageBatch
from strait.data.job import Job
from strait.data.token_cache import TokenCache, array_hash
from strait.model.config import ModelConfig
from strait.model.parts import build_part, level_networks
from strait.tokenizer.build import TrainableTokenizer, build_tokenizer, trainable_networks
from strait.tokenizer.classifier import Classifier
from strait.training.loop import Trainee
from strait.training.tokenizer_loop import TokenizerImages, TokenizerTrainee
from strait.training.transformer_loop import Preview, TrainingTokens, TransformerTrainee
from strait.types import NULL_LABEL


@contextmanager
def random_trainee(
    config: Config,
    part: str,
    images: int,
    classes: int,
    device: torch.device,
    network: TrainableTokenizer | None = None,
) -> Iterator[Trainee]:
    """A part with its optimizer and, in stage 1, its adversary, for training on noise.

    Args:
        config: of the model.
        part: name of the part.
        images: of a step, in one piece.
        classes: of the model.
        device: to train on.
        network: the network of the tokenizer to train; a cascade has two.
    """
    if network is not None:
        yield _tokenizer_trainee(config, network, images, classes, device)
        return
    training = replace(
        getattr(config, f"{part}_training"), batch_size=images, accumulate=1, condition_augmentation=0.0
    )
    module = build_part(config.model, part, classes)
    with TemporaryDirectory() as folder:
        cache = random_token_cache(Path(folder) / "tokens", config.model, classes, images)
        tokens, preview = TrainingTokens(cache), Preview(_nothing)
        yield TransformerTrainee(module, level_networks(module), training, config.run, tokens, Job(device), preview)


def tokenizer_networks(config: Config) -> list[TrainableTokenizer]:
    """The networks that are trained for a tokenizer: itself, or the two of a cascade."""
    return list(trainable_networks(build_tokenizer(config.tokenizer)).values())


def _tokenizer_trainee(
    config: Config, network: TrainableTokenizer, images: int, classes: int, device: torch.device
) -> Trainee:
    draw = torch.Generator().manual_seed(0)
    size = config.tokenizer_training.crop or config.image_size
    pixels = torch.randint(256, (images, size, size, 3), generator=draw, dtype=torch.uint8)
    batch = ImageBatch(pixels, torch.zeros(images, dtype=torch.int64), torch.arange(images), [])

    def batches(step: int) -> Iterator[ImageBatch]:
        while True:
            yield batch

    training = replace(config.tokenizer_training, batch_size=images, accumulate=1)
    seen = TokenizerImages(size, batches, batch.images(device)[:1])
    # Weights do not matter for the time, so neither an encoder nor a classifier needs to be trained.
    classifier = Classifier(config.classifier, classes) if training.perceptual == "classifier" else None
    return TokenizerTrainee(
        network, training, config.run, seen, Job(device), pretrained=training.only_decoder, classifier=classifier
    )


def _nothing() -> Any:
    raise AssertionError("no sample grid was asked for")


def random_token_cache(folder: Path, config: ModelConfig, num_classes: int, images: int = 4096) -> TokenCache:
    """Write and open a token cache of random tokens.

    Args:
        folder: of the cache; must not exist.
        config: of the model; tokens are uniform over the codes of each level.
        num_classes: 0 for an unconditional model.
        images: number of images, with one variant each.
    """
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    names, grids = list(config.level_names), list(config.grids)
    shapes = []
    for name, (height, width), codes in zip(names, grids, config.level_codebook_sizes, strict=True):
        tokens = generator.integers(0, codes, (1, images, height * width)).astype(np.uint16)
        np.save(folder / f"{name}.npy", tokens)
        shapes.append(list(tokens.shape))
    labels = generator.integers(0, num_classes, images) if num_classes else np.full(images, NULL_LABEL)
    np.save(folder / "labels.npy", labels)
    hashes = {name: array_hash(folder, name) for name in (*names, "labels")}
    description = {"levels": names, "grids": grids, "shapes": shapes, "sha256": hashes}
    (folder / "cache.json").write_text(json.dumps(description))
    return TokenCache(folder)
