"""Stage 1: one step of the tokenizer and its adversary. Source: StraIT section 3.1, equation 2, Table 11.

A process computes its share of a batch in pieces; means, codebooks and gradients are those of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import cast

import torch
from PIL import Image
from torch import Tensor, nn

from strait.data.images import ImageBatch
from strait.data.job import Job
from strait.nn.convolution import training_format
from strait.nn.recompute import recompute_in_backward
from strait.pictures.sheets import contact_sheet
from strait.randomness import key, uniform
from strait.tokenizer.build import TrainableTokenizer
from strait.tokenizer.classifier import Classifier
from strait.tokenizer.code_noise import CodeNoise, noise_shares
from strait.tokenizer.losses import adversarial_ramp, bottom_kept, pixel_loss
from strait.tokenizer.quantizer import Codebook
from strait.tokenizer.vqgan2 import StratifiedTokenizer
from strait.training.adversary import Adversary
from strait.training.checkpoint import with_prefix
from strait.training.codebook_care import CodebookCare
from strait.training.config import RunConfig, TokenizerTrainingConfig
from strait.training.distributed import distribute, no_averaging
from strait.training.guard import NotFinite, gradient_norm, require_finite
from strait.training.optimizer import forget, learning_rate, stage1_optimizer
from strait.training.tokenizer_loss import Objective, Piece, ToLoss, build_judges
from strait.training.trained import Trained, copied
from strait.types import Images, Tokens

_DROP_BOTTOM, _ZOOM, _NOISE = 11, 13, 14


@dataclass(frozen=True)
class TokenizerImages:
    """The images of a tokenizer's training.

    Args:
        size: side in pixels of the training images (or crops).
        batches: ``batches(step)`` streams this process's shares from a step on.
        preview: the images of the sample grid, in [-1, 1].
        preview_is_validation: whether these are validation images, which then select the best checkpoint.
    """

    size: int
    batches: Callable[[int], Iterator[ImageBatch]]
    preview: Images
    preview_is_validation: bool = False


class TokenizerTrainee:
    """Trains a tokenizer of one level or two; see ``training.loop.Trainee``."""

    def __init__(
        self,
        tokenizer: TrainableTokenizer,
        config: TokenizerTrainingConfig,
        run: RunConfig,
        images: TokenizerImages,
        job: Job,
        pretrained: bool = False,
        classifier: Classifier | None = None,
    ) -> None:
        """``pretrained``: whether training starts from trained weights, codes included. ``classifier``: the trained
        network of a perceptual loss on its features."""
        if config.only_decoder:  # codes stay fixed
            config = replace(config, codebook=replace(config.codebook, restart_below=0.0, entropy_weight=0.0))
        self.config, self.run, self.job = config, run, job
        self.device, self.ranks = job.device, job.ranks
        self._batches, self._preview = images.batches, images.preview.to(job.device)
        self._has_validation = images.preview_is_validation
        self._stream: Iterator[ImageBatch] = iter(())
        job.ranks.share(config.batch_size // config.accumulate)  # raises if it does not divide
        self._samples = job.ranks.share(config.batch_size)
        self._format = memory_format = training_format(job.device, run.compile)

        self.tokenizer: TrainableTokenizer = tokenizer.to(job.device).to(memory_format=memory_format)  # pyright: ignore
        if config.only_decoder:
            tokenizer.requires_grad_(False)
            tokenizer.decoder.requires_grad_(True)
        _recompute_and_compile(self.tokenizer, run)
        self.trained = Trained(self.tokenizer, stage1_optimizer(self.tokenizer, config), config.ema_decay)
        judges = build_judges(config, classifier, job.device, memory_format, run.compile)
        self.objective = Objective(self.tokenizer, config, judges, self._autocast, job.ranks)
        self._to_loss = distribute(
            ToLoss(self.objective), job.ranks, "ddp", sometimes_unused=config.codebook.start > 0
        )
        self.adversary: Adversary | None = None
        if config.adversarial.weight > 0:
            self.adversary = Adversary(images.size, config, job.device, memory_format, job.ranks, judges.widths)

        self.care = CodebookCare(self.tokenizer, config.codebook, run.seed, job.ranks, self._codes_replaced)
        self._pretrained = pretrained
        self._codes_started = pretrained

    def begin(self, step: int) -> None:
        if self.config.only_decoder and not self._pretrained:
            raise ValueError(
                "tokenizer_training.only_decoder: the encoder must be trained; name a model with a trained tokenizer "
                "with --init-from"
            )
        self._stream = self._batches(step)

    def step(self, step: int) -> dict[str, Tensor | float]:
        """One step: first the gradients of tokenizer and adversary, which can fail; then all updates."""
        config = self.config
        images = self._next_images()
        rate = learning_rate(
            step, config.learning_rate, config.warmup_steps, config.steps, config.learning_rate_schedule
        )
        share = adversarial_ramp(step / config.steps, config.adversarial.start, config.adversarial.ramp)
        adversary = self.adversary if share > 0 else None
        alone = step < config.adversarial.head_start  # the discriminator
        quantizes = self._pretrained or step >= config.codebook.start
        for codebook in self.tokenizer.codebooks:
            cast(Codebook, codebook).bypass = not quantizes

        with self._starting_codes(images) if quantizes and not self._codes_started else nullcontext():
            self.trained.start_step(0.0 if alone else rate)
            pieces = self._backward(images, step, adversary, share)
            metrics: dict[str, Tensor | float] = {
                name: torch.stack([piece.metrics[name].detach() for piece in pieces]).mean()
                for name in pieces[0].metrics
            }
            norm = gradient_norm(self.tokenizer.parameters())
            require_finite(cast(Tensor, metrics["loss"]), norm, self.ranks)
            views = [piece.views for piece in pieces if piece.views is not None]
            adversary_metrics = {} if adversary is None else adversary.judge(views, step, rate, self._autocast)

        self.trained.optimizer.step()
        self.trained.update_average(step)
        if quantizes and not alone:
            metrics.update(self.care.watch([piece.levels for piece in pieces], step))
        if adversary is not None:
            adversary.learn(adversary_metrics)
            metrics.update(adversary_metrics)
        if self._has_validation and self.run.sample_every and (step + 1) % self.run.sample_every == 0:
            metrics.update(self._validation_losses())
        return metrics

    def _next_images(self) -> tuple[Images, ...]:
        """This process's share of the next batch, in pieces."""
        batch = next(self._stream)
        self.job.bad_files.note(batch.bad)
        images = batch.images(self.device).to(memory_format=self._format)  # pyright: ignore
        return images.chunk(self.config.accumulate)

    @contextmanager
    def _starting_codes(self, images: tuple[Images, ...]) -> Iterator[None]:
        """Initialise the codes from the features of a batch for the step inside the context; undone if that step is
        skipped, and tried again at the next."""
        before = {name: value.clone() for name, value in self.tensors().items()}
        try:
            self.care.initialise(lambda: self.objective.quantized(images))
            yield
        except NotFinite:
            self.load_tensors(before)
            raise
        self._codes_started = True

    def _backward(
        self, images: tuple[Images, ...], step: int, adversary: Adversary | None, share: float
    ) -> list[Piece]:
        """The gradients of a batch, piece by piece."""
        keep_bottom, noise = self._keep_bottom(step).chunk(len(images)), self._noise(step, len(images))
        uses = self.objective.code_use(images)
        pieces: list[Piece] = []
        for number, part in enumerate(images):
            with no_averaging([self._to_loss], number + 1 < len(images)):
                piece: Piece = self._to_loss(
                    part, keep_bottom[number], adversary, share, uses, self._zoom(step), noise[number]
                )
                (piece.loss / len(images)).backward()
            pieces.append(replace(piece, loss=piece.loss.detach()))
        return pieces

    def _keep_bottom(self, step: int) -> Tensor:
        """Which of this process's samples keep their bottom, bool ``[batch]``."""
        return bottom_kept(uniform(self._keys(_DROP_BOTTOM, step)), self.config.bottom_dropout)

    def _noise(self, step: int, pieces: int) -> Sequence[CodeNoise | None]:
        """The noise of each piece of this process's samples."""
        if not self.config.code_noise:
            return [None] * pieces
        keys = self._keys(_NOISE, step)
        return CodeNoise(noise_shares(uniform(keys), self.config.code_noise), keys).chunk(pieces)

    def _keys(self, purpose: int, step: int) -> Tensor:
        """Keys of random choices for this process's samples, int64 ``[batch]``."""
        samples = torch.arange(self._samples.start, self._samples.stop, device=self.device)
        return key(self.run.seed, purpose, samples + step * self.config.batch_size)

    def _zoom(self, step: int) -> float:
        """The factor by which a step's images are resized before EfficientNet."""
        spread = self.config.feature_zoom
        return 1 + spread * (2 * float(uniform(key(self.run.seed, _ZOOM, step))) - 1) if spread else 1.0

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.run.precision == "bfloat16")

    def _codes_replaced(self, index: int, rows: Tensor) -> None:
        """Zero the optimizer's moments of replaced codes, and copy these codes to the average."""
        forget(self.trained.optimizer, cast(Codebook, self.tokenizer.codebooks[index]).weight, rows)
        if self.trained.ema is not None:
            name = f"codebooks.{index}.weight"
            current, average = self.tokenizer.get_parameter(name).detach().float(), self.trained.ema.average[name]
            average.copy_(torch.where(rows[:, None], current, average))

    def tensors(self) -> dict[str, Tensor]:
        tensors = {
            **self.trained.tensors(),
            "pretrained": torch.tensor(self._pretrained),
            "started": torch.tensor(self._codes_started),
        }
        tensors.update({f"health/{name}": value for name, value in self.care.health.state_dict().items()})
        return tensors if self.adversary is None else {**tensors, **self.adversary.tensors()}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.trained.load_tensors(tensors)
        self.care.health.load_state_dict(with_prefix(tensors, "health/"))
        self._pretrained = bool(tensors.get("pretrained", self._pretrained))
        # Older checkpoints have no "started": there, codes are initialised if their use has been counted.
        self._codes_started = bool(tensors.get("started", self._pretrained or self.care.has_counted))
        if self.adversary is not None:
            self.adversary.load_tensors(tensors)

    def weights(self) -> dict[str, Tensor]:
        """The weights to save: averaged ones if there are any."""
        return copied(self.trained.weights())

    @torch.no_grad()
    def _validation_losses(self) -> dict[str, float]:
        """Pixel losses on the images of the sample grid, with the weights that would be saved: of reconstructions, and
        with two levels of the top alone, with the top of another image, and with the bottom of another."""
        losses: dict[str, float] = {}
        with self.trained.as_shipped():
            tokens = self.tokenizer.encode(self._preview)

            def measure(name: str, *levels: Tensor) -> None:
                images = self.tokenizer.decode(Tokens(levels), levels=len(levels))
                losses[name] = float(pixel_loss(images, self._preview, self.config.pixel_loss))

            measure("validation_loss", *tokens.levels)
            if len(tokens.levels) == 2 and tokens.batch > 1:
                top, bottom = tokens.levels
                measure("validation_loss_top_alone", top)
                measure("validation_loss_other_top", top.roll(1, 0), bottom)
                measure("validation_loss_other_bottom", top, bottom.roll(1, 0))
        return losses

    @torch.no_grad()
    def samples(self) -> Image.Image | None:
        """Rows of photographs, their reconstructions and, with two levels, images from the top tokens only."""
        if not self.ranks.first:
            return None
        with self.trained.as_shipped():
            tokens = self.tokenizer.encode(self._preview)
            rows = {"photographs": self._preview, "reconstructions": self.tokenizer.decode(tokens)}
            if self.tokenizer.levels == 2:
                rows["from the top tokens only"] = self.tokenizer.decode(tokens, levels=1)
        return contact_sheet(torch.cat(list(rows.values())), columns=self._preview.shape[0], titles=list(rows))


def _recompute_and_compile(tokenizer: TrainableTokenizer, run: RunConfig) -> None:
    if run.recompute:
        for block in [module for module in tokenizer.modules() if isinstance(module, nn.Sequential)]:
            recompute_in_backward(block)
    if run.compile:
        networks: list[nn.Module] = [tokenizer.encoder, tokenizer.decoder]
        for network in networks + ([tokenizer.latent] if isinstance(tokenizer, StratifiedTokenizer) else []):
            network.compile(dynamic=False)
