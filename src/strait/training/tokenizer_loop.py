"""Stage 1: one step of the tokenizer and its adversary. Source: StraIT section 3.1, equation 2, Table 11."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor, nn

from strait.data.images import BadFiles, ImageBatch
from strait.images_out import contact_sheet
from strait.randomness import key, uniform
from strait.tokenizer.build import TrainableTokenizer
from strait.tokenizer.discriminator import Discriminator, r1_penalty
from strait.tokenizer.losses import (
    adversarial_ramp,
    bottom_kept,
    discriminator_loss,
    generator_loss,
    lecam_penalty,
    pixel_loss,
)
from strait.tokenizer.perceptual import build_perceptual
from strait.tokenizer.perplexity import perplexity
from strait.tokenizer.quantizer import Codebook, CodebookHealth, Quantized, codebook_entropy_loss
from strait.tokenizer.vqgan2 import Reconstruction, StratifiedTokenizer
from strait.training.checkpoint import with_prefix
from strait.training.config import RunConfig, TokenizerTrainingConfig
from strait.training.ema import ExponentialMovingAverage
from strait.training.optimizer import (
    forget,
    learning_rate,
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
    stage1_optimizer,
)
from strait.types import Images

_DROP_BOTTOM, _RESTART = 11, 12


def eager() -> Any:
    """Run compiled networks uncompiled for a while: for passes too rare to be worth compiling."""
    return torch.compiler.set_stance("force_eager")


_LEVELS = {1: ("tokens",), 2: ("top", "bottom")}


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
    ) -> None:
        """``batches(step)`` is the stream from a step on; ``preview`` the images of the sample grid; ``pretrained``
        says that the tokenizer's weights, codes included, are to be gone on from."""
        self.config, self.run, self.device, self.bad_files = config, run, device, bad_files
        self._batches, self._preview = batches, preview.to(device)
        self._stream: Iterator[ImageBatch] = iter(())
        # Eager GroupNorm is slow backwards on channels-last tensors of a CPU: there only compiled code gains.
        self._format = torch.channels_last if run.compile or device.type == "cuda" else torch.contiguous_format
        self.tokenizer = tokenizer.to(device).to(memory_format=self._format)  # pyright: ignore
        if run.compile:
            for network in self._networks():
                network.compile()
        self.optimizer = stage1_optimizer(self.tokenizer, config)
        self.ema = ExponentialMovingAverage(self.tokenizer, config.ema_decay) if config.ema_decay else None
        self.perceptual = build_perceptual(config.perceptual, device)
        care = config.codebook
        shares = [[] for _ in tokenizer.codebooks]
        for level in range(tokenizer.levels):
            shares[tokenizer.codebook_index(level)].append(level)
        self._levels_of = shares
        self.health = nn.ModuleList(
            CodebookHealth(len(levels), tokenizer.codebook(levels[0]).weight.shape[0], care.restart_below)
            for levels in shares
        ).to(device)
        self._pretrained = torch.tensor(pretrained)
        self.discriminator: Discriminator | None = None
        if config.adversarial.weight > 0:
            adversary = config.adversarial
            self.discriminator = Discriminator(
                image_size, adversary.channels, adversary.max_channels, adversary.normalize
            )
            self.discriminator.to(device).to(memory_format=self._format)  # pyright: ignore
            self.discriminator_optimizer = stage1_optimizer(self.discriminator, config)
        self._logit_means = torch.zeros(2, device=device)

    def _networks(self) -> list[nn.Module]:
        found: list[nn.Module] = [self.tokenizer.encoder, self.tokenizer.decoder]
        return found + ([self.tokenizer.latent] if isinstance(self.tokenizer, StratifiedTokenizer) else [])

    def begin(self, step: int) -> None:
        self._stream = self._batches(step)

    def step(self, step: int) -> dict[str, Tensor | float]:
        config = self.config
        batch = next(self._stream)
        self.bad_files.note(batch.bad)
        images = batch.images(self.device).to(memory_format=self._format)
        rate = learning_rate(
            step, config.learning_rate, config.warmup_steps, config.steps, config.learning_rate_schedule
        )
        start = -1 if self._pretrained else config.codebook.start
        for codebook in self.tokenizer.codebooks:
            cast(Codebook, codebook).bypass = step < start
        if step == start:
            self._initialise_codebooks(images)
        keep = None
        if config.bottom_dropout and self.tokenizer.levels == 2:
            samples = torch.arange(images.shape[0], device=self.device) + step * config.batch_size
            keep = bottom_kept(uniform(key(self.run.seed, _DROP_BOTTOM, samples)), config.bottom_dropout)

        self.tokenizer.train()
        with self._autocast():
            output = self.tokenizer(images, keep)
        share = adversarial_ramp(step / config.steps, config.adversarial.start, config.adversarial.ramp)
        adversary = self.discriminator if share > 0 else None
        loss, metrics = self._loss(images, output, adversary, share)
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.ema is not None:
            self.ema.update(step)
        if step >= start:
            metrics.update(self._care(output.levels, step))
        if adversary is not None:
            metrics.update(self._adversary_step(adversary, images, output.images.detach(), step, rate))
        return metrics

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.run.precision == "bfloat16")

    def _loss(
        self, images: Images, output: Reconstruction, adversary: Discriminator | None, share: float
    ) -> tuple[Tensor, dict[str, Tensor | float]]:
        config, care = self.config, self.config.codebook
        made = output.images.float()
        pixel = pixel_loss(made, images, config.pixel_loss)
        commitment = torch.stack([level.commitment_loss() for level in output.levels]).sum()
        codes = torch.stack([level.codebook_loss() for level in output.levels]).sum()
        loss = pixel
        if not self.tokenizer.codebook(0).bypass:
            loss = loss + care.commitment_weight * commitment + care.codebook_weight * codes
        metrics: dict[str, Tensor | float] = {"pixel": pixel, "commitment": commitment}
        if care.entropy_weight and not self.tokenizer.codebook(0).bypass:
            entropy = torch.stack(
                [codebook_entropy_loss(q, self.tokenizer.codebook(i)) for i, q in enumerate(output.levels)]
            ).sum()
            loss, metrics["entropy"] = loss + care.entropy_weight * entropy, entropy
        if config.perceptual_weight and config.perceptual != "none":
            distance = self.perceptual(made, images)
            loss, metrics["perceptual"] = loss + config.perceptual_weight * distance, distance
        if adversary is not None:
            adversary.requires_grad_(False)
            with self._autocast():
                logits = adversary(output.images).float()
            fooled = generator_loss(logits, config.adversarial.loss)
            loss, metrics["adversarial"] = loss + share * config.adversarial.weight * fooled, fooled
        return loss, {"loss": loss, **metrics}

    def _adversary_step(
        self, adversary: Discriminator, images: Images, made: Images, step: int, rate: float
    ) -> dict[str, Tensor | float]:
        config = self.config.adversarial
        adversary.requires_grad_(True)
        with self._autocast():
            real, fake = adversary(images).float(), adversary(made).float()
        loss = discriminator_loss(real, fake, config.loss)
        metrics: dict[str, Tensor | float] = {"logits_real": real.mean(), "logits_fake": fake.mean()}
        if config.lecam_weight:
            loss = loss + config.lecam_weight * lecam_penalty(real, fake, *self._logit_means)
            self._logit_means.lerp_(torch.stack([real.mean(), fake.mean()]).detach(), 0.01)
        if config.r1_weight and step % config.r1_every == 0:
            penalty = r1_penalty(adversary, images)
            loss, metrics["r1"] = loss + 0.5 * config.r1_weight * config.r1_every * penalty, penalty
        set_learning_rate(self.discriminator_optimizer, rate)
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.discriminator_optimizer.step()
        return {**metrics, "discriminator": loss}

    def _initialise_codebooks(self, images: Images) -> None:
        """From data. Two codebooks are taken in turn, since the bottom's features depend on the top's codes; a shared
        one at once."""
        for index, levels in enumerate(self._levels_of):
            with torch.no_grad(), self._autocast(), eager():
                output = self.tokenizer(images)
            self._health(index).initialise(
                self.tokenizer.codebook(levels[0]),
                [output.levels[level].features for level in levels],
                key(self.run.seed, _RESTART, -1),
            )
            weight = self.tokenizer.codebook(levels[0]).weight
            self._average_forgets(index, torch.ones(weight.shape[0], dtype=torch.bool, device=weight.device))

    def _average_forgets(self, index: int, rows: Tensor) -> None:
        """The averaged codes follow at once where codes were replaced: what they were is no part of them."""
        if self.ema is not None:
            name = f"codebooks.{index}.weight"
            current = self.tokenizer.get_parameter(name).detach().float()
            self.ema.average[name].copy_(torch.where(rows[:, None], current, self.ema.average[name]))

    def _health(self, index: int) -> CodebookHealth:
        return cast(CodebookHealth, self.health[index])

    def _care(self, quantized: tuple[Quantized, ...], step: int) -> dict[str, Tensor | float]:
        """Watch the codes' use, restart dead ones; perplexity and usage of each level for the log."""
        names = _LEVELS[self.tokenizer.levels]
        metrics: dict[str, Tensor | float] = {}
        for index, levels in enumerate(self._levels_of):
            health = self._health(index)
            health.update([quantized[level].ids for level in levels])
            codebook_size = health.usage.shape[1]
            for row, level in enumerate(levels):
                counts = torch.bincount(quantized[level].ids.flatten(), minlength=codebook_size)
                metrics[f"perplexity_{names[level]}"] = perplexity(health.usage[row])
                metrics[f"perplexity_batch_{names[level]}"] = perplexity(counts)
                used = health.usage[row] * codebook_size > 0.03
                metrics[f"usage_{names[level]}"] = used.float().mean()
            care = self.config.codebook
            if care.restart_below > 0 and step > 0 and step % care.restart_every == 0:
                codebook = self.tokenizer.codebook(levels[0])
                dead = health.restart(
                    codebook,
                    [quantized[level].features.detach() for level in levels],
                    key(self.run.seed, _RESTART, step, index),
                )
                forget(self.optimizer, codebook.weight, dead)
                self._average_forgets(index, dead)
                metrics["restarted"] = dead.float().sum()
        return metrics

    def tensors(self) -> dict[str, Tensor]:
        found = {f"model/{name}": value for name, value in self.tokenizer.state_dict().items()}
        found["pretrained"] = self._pretrained
        found.update({f"health/{name}": value for name, value in self.health.state_dict().items()})
        found.update({f"optimizer/{name}": v for name, v in optimizer_tensors(self.optimizer, self.tokenizer).items()})
        if self.ema is not None:
            found.update({f"ema/{name}": value for name, value in self.ema.average.items()})
        if self.discriminator is not None:
            adversary = self.discriminator
            found.update({f"discriminator/{name}": value for name, value in adversary.state_dict().items()})
            moments = optimizer_tensors(self.discriminator_optimizer, adversary)
            found.update({f"discriminator_optimizer/{name}": value for name, value in moments.items()})
            found["logit_means"] = self._logit_means
        return found

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.tokenizer.load_state_dict(with_prefix(tensors, "model/"))
        self.health.load_state_dict(with_prefix(tensors, "health/"))
        self._pretrained = tensors.get("pretrained", self._pretrained)
        load_optimizer_tensors(self.optimizer, self.tokenizer, with_prefix(tensors, "optimizer/"))
        if self.ema is not None:
            self.ema.load(with_prefix(tensors, "ema/"))
        # Without one in the checkpoint, the discriminator was only now asked for: it starts afresh.
        if self.discriminator is not None and "logit_means" in tensors:
            self.discriminator.load_state_dict(with_prefix(tensors, "discriminator/"))
            moments = with_prefix(tensors, "discriminator_optimizer/")
            load_optimizer_tensors(self.discriminator_optimizer, self.discriminator, moments)
            self._logit_means.copy_(tensors["logit_means"])

    def weights(self) -> dict[str, Tensor]:
        """What becomes the model's: the averaged weights where there are any."""
        state = {name: value.detach().clone() for name, value in self.tokenizer.state_dict().items()}
        return state if self.ema is None else {**state, **self.ema.average}

    @torch.no_grad()
    def samples(self) -> Image.Image:
        """Rows of photographs, their reconstructions and, with two levels, the top alone."""
        self.tokenizer.eval()
        with eager(), self.ema.applied() if self.ema is not None else nullcontext():
            tokens = self.tokenizer.encode(self._preview)
            rows = [self._preview, self.tokenizer.decode(tokens)]
            if self.tokenizer.levels == 2:
                rows.append(self.tokenizer.decode(tokens, levels=1))
        return contact_sheet(torch.cat(rows), columns=self._preview.shape[0])
