"""The adversary's side of stage 1: the discriminator, its optimizer and its step. Source: equation 2, Table 11."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from strait.runtime.ranks import Ranks
from strait.tokenizer.discriminator import Discriminator, r1_penalty
from strait.tokenizer.losses import discriminator_loss, lecam_penalty
from strait.training.checkpoint import with_prefix
from strait.training.config import TokenizerTrainingConfig
from strait.training.distributed import average_gradients
from strait.training.guard import gradient_norm, require_finite
from strait.training.optimizer import (
    load_optimizer_tensors,
    optimizer_tensors,
    set_learning_rate,
    stage1_optimizer,
)
from strait.types import Images


class Adversary:
    """A discriminator in training.

    Args:
        image_size: side in pixels.
        config: of stage 1.
        device: where to train.
        memory_format: of its convolutions.
        ranks: the processes among which a batch is divided.
    """

    def __init__(
        self,
        image_size: int,
        config: TokenizerTrainingConfig,
        device: torch.device,
        memory_format: torch.memory_format,
        ranks: Ranks,
    ) -> None:
        self.config, self.ranks = config.adversarial, ranks
        network = Discriminator(
            image_size, self.config.channels, self.config.max_channels, normalize=self.config.normalize
        )
        self.network: Discriminator = network.to(device).to(memory_format=memory_format)  # pyright: ignore
        self.optimizer = stage1_optimizer(self.network, config)
        self._logit_means = torch.zeros(2, device=device)

    def judge(
        self, pieces: list[tuple[Images, Images]], step: int, autocast: Callable[[], torch.autocast]
    ) -> dict[str, Tensor]:
        """The gradients of telling (photographs, reconstructions) apart; nothing is changed by them yet.

        Raises:
            NotFinite: if the loss or they are no numbers.
        """
        self.network.requires_grad_(True)
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, Tensor] = {}
        for images, made in pieces:
            loss, metrics = self._loss(images, made, step, autocast)
            (loss / len(pieces)).backward()
            for name, value in {**metrics, "discriminator": loss}.items():
                sums[name] = sums.get(name, 0.0) + value.detach() / len(pieces)
        average_gradients(self.network, self.ranks)
        require_finite(sums["discriminator"], gradient_norm(self.network.parameters()), self.ranks)
        return sums

    def learn(self, judged: dict[str, Tensor], rate: float) -> None:
        """Take the step whose gradients ``judge`` has left."""
        set_learning_rate(self.optimizer, rate)
        self.optimizer.step()
        if self.config.lecam_weight:
            means = torch.stack([judged["logits_real"], judged["logits_fake"]])
            self._logit_means.lerp_(self.ranks.mean(means), 0.01)

    def _loss(
        self, images: Images, made: Images, step: int, autocast: Callable[[], torch.autocast]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        with autocast():
            real, fake = self.network(images).float(), self.network(made).float()
        loss = discriminator_loss(real, fake, config.loss)
        metrics = {"logits_real": real.mean(), "logits_fake": fake.mean()}
        if config.lecam_weight:
            loss = loss + config.lecam_weight * lecam_penalty(real, fake, *self._logit_means)
        if config.r1_weight and step % config.r1_every == 0:
            penalty = r1_penalty(self.network, images)
            loss, metrics["r1"] = loss + 0.5 * config.r1_weight * config.r1_every * penalty, penalty
        return loss, metrics

    def tensors(self) -> dict[str, Tensor]:
        found = {f"discriminator/{name}": value for name, value in self.network.state_dict().items()}
        moments = optimizer_tensors(self.optimizer, self.network)
        found.update({f"discriminator_optimizer/{name}": value for name, value in moments.items()})
        return {**found, "logit_means": self._logit_means}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Go on from a checkpoint; from one without a discriminator, which was only now asked for, afresh."""
        if "logit_means" in tensors:
            self.network.load_state_dict(with_prefix(tensors, "discriminator/"))
            load_optimizer_tensors(self.optimizer, self.network, with_prefix(tensors, "discriminator_optimizer/"))
            self._logit_means.copy_(tensors["logit_means"])
