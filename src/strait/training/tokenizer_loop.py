"""Stage 1: one step of the tokenizer and its adversary. Source: StraIT section 3.1, equation 2, Table 11.

A step takes this process's share of the batch in pieces; means, codebooks and gradients are those of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

import torch
from PIL import Image
from torch import Tensor, nn

from strait.data.images import BadFiles, ImageBatch
from strait.nn.recompute import recompute_in_backward
from strait.pictures.sheets import contact_sheet
from strait.randomness import key, uniform
from strait.runtime.ranks import ALONE, Ranks
from strait.tokenizer.build import TrainableTokenizer
from strait.tokenizer.classifier import Classifier
from strait.tokenizer.efficientnet import EfficientNetFeatures
from strait.tokenizer.losses import adversarial_ramp, bottom_kept, pixel_loss
from strait.tokenizer.perceptual import StageDistance, build_perceptual
from strait.tokenizer.quantizer import Codebook
from strait.tokenizer.vqgan2 import StratifiedTokenizer
from strait.training.adversary import Adversary
from strait.training.checkpoint import with_prefix
from strait.training.codebook_care import CodebookCare
from strait.training.config import RunConfig, TokenizerTrainingConfig
from strait.training.distributed import distribute, no_averaging
from strait.training.guard import NotFinite, gradient_norm, require_finite
from strait.training.optimizer import forget, learning_rate, stage1_optimizer
from strait.training.tokenizer_loss import Objective, Piece, ToLoss
from strait.training.trained import Trained, copied
from strait.types import Images

_DROP_BOTTOM, _ZOOM = 11, 13


class TokenizerTrainee:
    """Trains a tokenizer of one level or two; see ``training.loop.Trainee``."""

    def __init__(
        self,
        tokenizer: TrainableTokenizer,
        config: TokenizerTrainingConfig,
        run: RunConfig,
        image_size: int,
        batches: Callable[[int], Iterator[ImageBatch]],
        preview: Images,
        bad_files: BadFiles,
        device: torch.device,
        pretrained: bool = False,
        ranks: Ranks = ALONE,
        judged: bool = False,
        classifier: Classifier | None = None,
    ) -> None:
        """``image_size`` is the side of the images (or crops) trained on; ``batches(step)`` is the stream of this
        process's shares from a step on; ``preview`` the images of the sample grid, by which checkpoints are ``judged``
        if they are not trained on; ``pretrained`` says that the tokenizer's weights, codes included, are to be gone on
        from; ``classifier`` has been trained, and a perceptual loss compares its features."""
        if config.only_decoder:  # codes are neither restarted nor spread
            config = replace(config, codebook=replace(config.codebook, restart_below=0.0, entropy_weight=0.0))
        self.config, self.run, self.device, self.bad_files, self.ranks = config, run, device, bad_files, ranks
        self._batches, self._preview, self._judged = batches, preview.to(device), judged
        self._stream: Iterator[ImageBatch] = iter(())
        ranks.share(config.batch_size // config.accumulate)  # refuses what cannot be divided
        self._samples = ranks.share(config.batch_size)
        # Eager GroupNorm is slow backwards on channels-last tensors of a CPU: there only compiled code gains.
        self._format = torch.channels_last if run.compile or device.type == "cuda" else torch.contiguous_format
        self.tokenizer = tokenizer.to(device).to(memory_format=self._format)  # pyright: ignore
        if config.only_decoder:
            tokenizer.requires_grad_(False)
            tokenizer.decoder.requires_grad_(True)
        if run.recompute:
            for block in [module for module in self.tokenizer.modules() if isinstance(module, nn.Sequential)]:
                recompute_in_backward(block)
        if run.compile:
            for network in self._networks():
                network.compile(dynamic=False)
        self.trained = Trained(self.tokenizer, stage1_optimizer(self.tokenizer, config), config.ema_decay)
        perceptual = build_perceptual(config.perceptual, device, classifier)
        if isinstance(perceptual, StageDistance) and config.perceptual == "classifier":
            perceptual.to(memory_format=self._format)  # pyright: ignore
            if run.compile:
                perceptual.compile(dynamic=False)
        eyes: StageDistance | None = None
        if config.sees_features:
            if isinstance(perceptual, StageDistance) and config.perceptual == "efficientnet":
                eyes = perceptual
            else:
                eyes = StageDistance(EfficientNetFeatures().to(device))
            eyes.to(memory_format=torch.channels_last)  # pyright: ignore  (it has no GroupNorm)
        self.objective = Objective(self.tokenizer, config, perceptual, self._autocast, ranks, eyes)
        self._to_loss = distribute(ToLoss(self.objective), ranks, "ddp", sometimes_unused=config.codebook.start > 0)
        self.care = CodebookCare(self.tokenizer, config.codebook, run.seed, ranks, self._codes_replaced)
        self._pretrained = torch.tensor(pretrained)
        self._started: Tensor | None = None  # whether the codes have been: known when the first step is
        self.adversary: Adversary | None = None
        if config.adversarial.weight > 0:
            widths = eyes.network.widths if eyes and isinstance(eyes.network, EfficientNetFeatures) else ()
            self.adversary = Adversary(image_size, config, device, self._format, ranks, widths)

    def _networks(self) -> list[nn.Module]:
        found: list[nn.Module] = [self.tokenizer.encoder, self.tokenizer.decoder]
        return found + ([self.tokenizer.latent] if isinstance(self.tokenizer, StratifiedTokenizer) else [])

    def begin(self, step: int) -> None:
        if self.config.only_decoder and not self._pretrained:
            raise ValueError(
                "tokenizer_training.only_decoder: the tokens of an untrained encoder say nothing; name a model whose "
                "tokenizer to go on from with --init-from"
            )
        self._stream = self._batches(step)
        if self._started is None:
            self._started = torch.tensor(step > self._start)

    @property
    def _start(self) -> int:
        """The step before which codes are started from data; below 0 if they come from elsewhere."""
        return -1 if self._pretrained else self.config.codebook.start

    def step(self, step: int) -> dict[str, Tensor | float]:
        config = self.config
        batch = next(self._stream)
        self.bad_files.note(batch.bad)
        images = batch.images(self.device).to(memory_format=self._format).chunk(config.accumulate)
        rate = learning_rate(
            step, config.learning_rate, config.warmup_steps, config.steps, config.learning_rate_schedule
        )
        for codebook in self.tokenizer.codebooks:
            cast(Codebook, codebook).bypass = step < self._start
        if step >= self._start and not self._started:
            # Its loss depends on the codes it starts: should the step be skipped, they are not.
            before = {name: value.clone() for name, value in self.tensors().items()}
            try:
                self.care.initialise(lambda: self.objective.quantized(images))
                self._started = torch.tensor(True)
                return self._learn(images, step, rate)
            except NotFinite:
                self.load_tensors(before)
                raise
        return self._learn(images, step, rate)

    def _learn(self, images: tuple[Images, ...], step: int, rate: float) -> dict[str, Tensor | float]:
        """A step on a batch: the gradients of both sides first, and only then what changes anything."""
        config = self.config
        share = adversarial_ramp(step / config.steps, config.adversarial.start, config.adversarial.ramp)
        adversary = self.adversary if share > 0 else None
        self.trained.start_step(rate)
        pieces = self._backward(images, step, adversary, share)
        metrics: dict[str, Tensor | float] = {
            name: torch.stack([piece.metrics[name].detach() for piece in pieces]).mean() for name in pieces[0].metrics
        }
        norm = gradient_norm(self.tokenizer.parameters())
        require_finite(cast(Tensor, metrics["loss"]), norm, self.ranks)
        views = [piece.views for piece in pieces if piece.views is not None]
        judged = {} if adversary is None else adversary.judge(views, step, rate, self._autocast)

        self.trained.finish_step(step)
        if step >= self._start:
            metrics.update(self.care.watch([piece.levels for piece in pieces], step))
        if adversary is not None:
            adversary.learn(judged, step)
            metrics.update(judged)
        if self._judged and self.run.sample_every and (step + 1) % self.run.sample_every == 0:
            metrics["validation_loss"] = self._validation_loss()
        return metrics

    def _backward(
        self, images: tuple[Images, ...], step: int, adversary: Adversary | None, share: float
    ) -> list[Piece]:
        """The gradients of a batch, piece by piece."""
        keep = self._kept(step).chunk(len(images))
        uses = self.objective.code_use(images)
        pieces: list[Piece] = []
        for number, some in enumerate(images):
            with no_averaging([self._to_loss], number + 1 < len(images)):
                piece: Piece = self._to_loss(some, keep[number], adversary, share, uses, self._zoom(step))
                (piece.loss / len(images)).backward()
            pieces.append(replace(piece, loss=piece.loss.detach()))
        return pieces

    def _kept(self, step: int) -> Tensor:
        """Which of this process's samples keep their bottom, bool ``[batch]``."""
        samples = torch.arange(self._samples.start, self._samples.stop, device=self.device)
        draws = uniform(key(self.run.seed, _DROP_BOTTOM, samples + step * self.config.batch_size))
        return bottom_kept(draws, self.config.bottom_dropout)

    def _zoom(self, step: int) -> float:
        """By how much the images of a step are enlarged before EfficientNet sees them."""
        spread = self.config.feature_zoom
        return 1 + spread * (2 * float(uniform(key(self.run.seed, _ZOOM, step))) - 1) if spread else 1.0

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.run.precision == "bfloat16")

    def _codes_replaced(self, index: int, rows: Tensor) -> None:
        """What was learned about codes that are no more is forgotten; the averaged codes follow at once."""
        forget(self.trained.optimizer, cast(Codebook, self.tokenizer.codebooks[index]).weight, rows)
        if self.trained.ema is not None:
            name = f"codebooks.{index}.weight"
            current, average = self.tokenizer.get_parameter(name).detach().float(), self.trained.ema.average[name]
            average.copy_(torch.where(rows[:, None], current, average))

    def tensors(self) -> dict[str, Tensor]:
        tensors = {**self.trained.tensors(), "pretrained": self._pretrained}
        if self._started is not None:
            tensors["started"] = self._started
        tensors.update({f"health/{name}": value for name, value in self.care.health.state_dict().items()})
        return tensors if self.adversary is None else {**tensors, **self.adversary.tensors()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.trained.load_tensors(tensors)
        self.care.health.load_state_dict(with_prefix(tensors, "health/"))
        self._pretrained = tensors.get("pretrained", self._pretrained)
        self._started = tensors.get("started")
        if self.adversary is not None:
            self.adversary.load_tensors(tensors)

    def weights(self) -> dict[str, Tensor]:
        """What becomes the model's: the averaged weights where there are any."""
        return copied(self.trained.weights())

    @torch.no_grad()
    def _validation_loss(self) -> float:
        """The pixel loss on the images of the sample grid, with the weights that would be shipped."""
        with self.trained.as_shipped():
            reconstructions = self.tokenizer.decode(self.tokenizer.encode(self._preview))
        return float(pixel_loss(reconstructions, self._preview, self.config.pixel_loss))

    @torch.no_grad()
    def samples(self) -> Image.Image | None:
        """Rows of photographs, their reconstructions and, with two levels, the top alone."""
        if not self.ranks.first:
            return None
        with self.trained.as_shipped():
            tokens = self.tokenizer.encode(self._preview)
            rows = [self._preview, self.tokenizer.decode(tokens)]
            if self.tokenizer.levels == 2:
                rows.append(self.tokenizer.decode(tokens, levels=1))
        return contact_sheet(torch.cat(rows), columns=self._preview.shape[0])
