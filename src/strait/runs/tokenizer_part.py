"""The tokenizer as a part in training: its images, and the classifier of its perceptual loss."""

from __future__ import annotations

import os
from collections.abc import Iterator

import torch

from strait.config import Config
from strait.data.images import ImageBatch, in_order
from strait.data.training_images import training_batches
from strait.data.workers import default_workers
from strait.randomness import as_seed
from strait.runs.classifier_part import load_classifier
from strait.runs.part import ModelRun
from strait.runs.preview import PREVIEW, spread
from strait.tokenizer.build import build_tokenizer, trainable_networks
from strait.tokenizer.config import TokenizerConfig
from strait.training.tokenizer_loop import TokenizerImages, TokenizerTrainee

_SCALE = 51


class TokenizerPart:
    """Stage 1; see ``runs.part.Part``. The two networks of a cascade are trained one after the other."""

    def __init__(self, run: ModelRun, shape: TokenizerConfig) -> None:
        self.run = run
        scales = ("coarse", "fine") if shape.kind == "cascade" else ("",)
        self._scales = {f"tokenizer-{scale}" if scale else "tokenizer": scale for scale in scales}

    def prepare(self, config: Config) -> None:
        """Does nothing: it is trained on photographs."""

    def networks(self) -> dict[str, str]:
        return {name: f"{scale}." if scale else "" for name, scale in self._scales.items()}

    def trainee(self, network: str, config: Config) -> TokenizerTrainee:
        run, training = self.run, config.tokenizer_training
        torch.manual_seed(config.run.seed)
        tokenizer = build_tokenizer(config.tokenizer)
        pretrained = run.start_weights("tokenizer", tokenizer, config)
        classifier = None
        if training.perceptual == "classifier":
            classifier = load_classifier(run.folder, config, len(run.classes), run.data)
        # Random numbers from here on must not depend on what the process has trained before.
        torch.manual_seed(as_seed(config.run.seed, _SCALE))
        return TokenizerTrainee(
            trainable_networks(tokenizer)[self._scales[network]],
            training,
            config.run,
            self._images(config),
            run.job,
            pretrained=pretrained,
            classifier=classifier,
        )

    def _images(self, config: Config) -> TokenizerImages:
        run, training, size = self.run, config.tokenizer_training, config.image_size
        workers = default_workers(config.data, run.job.device, os.cpu_count() or 1)

        def batches(step: int) -> Iterator[ImageBatch]:
            return training_batches(
                run.photographs,
                size,
                training.batch_size,
                config.data,
                config.run.seed,
                step,
                workers,
                run.job.ranks,
                training.crop,
            )

        shown = run.photographs if run.validation is None else run.validation
        preview = next(in_order(shown, size, PREVIEW, spread(len(shown))), None)
        if preview is None or not len(preview.labels):
            preview = next(batches(0))
        images = preview.images(run.job.device)[:PREVIEW]
        return TokenizerImages(training.crop or size, batches, images, run.validation is not None)
