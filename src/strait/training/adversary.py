"""The adversary of stage 1: the discriminator, its optimizer and its step. Source: equation 2, Table 11.

The paper's discriminator takes images; a projected one takes their features from a frozen network. Both return one
tensor of logits for each head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from strait.runtime.ranks import Ranks
from strait.tokenizer.discriminator import Discriminator, ProjectedDiscriminator, r1_penalty
from strait.tokenizer.losses import discriminator_loss, generator_loss, lecam_penalty, over_heads
from strait.training.config import TokenizerTrainingConfig
from strait.training.distributed import average_gradients
from strait.training.guard import gradient_norm, require_finite
from strait.training.optimizer import stage1_optimizer
from strait.training.trained import Trained
from strait.types import Images

View = Images | list[Tensor]
"""The input of a discriminator: images, or their features from a frozen network, one tensor for each stage, which the
images follow if they have a head of their own."""


class Adversary:
    """A discriminator in training.

    Args:
        image_size: side in pixels.
        config: of stage 1.
        device: where to train.
        memory_format: of its convolutions.
        ranks: the processes that share a batch.
        widths: channels of the features that a projected discriminator takes.
    """

    def __init__(
        self,
        image_size: int,
        config: TokenizerTrainingConfig,
        device: torch.device,
        memory_format: torch.memory_format,
        ranks: Ranks,
        widths: Sequence[int] = (),
    ) -> None:
        self.config, self.ranks = config.adversarial, ranks
        if self.is_projected:
            network = ProjectedDiscriminator(widths, self.config.channels, self.config.pixels)
        else:
            network = Discriminator(
                image_size, self.config.channels, self.config.max_channels, normalize=self.config.normalize
            )
        self.network: Discriminator | ProjectedDiscriminator = network.to(device).to(  # pyright: ignore
            memory_format=memory_format  # pyright: ignore
        )
        optimizer = stage1_optimizer(self.network, config, self.config.betas)
        self.trained = Trained(self.network, optimizer, names=("discriminator", "discriminator_optimizer"))
        self._logit_means = torch.zeros(2, device=device)

    @property
    def is_projected(self) -> bool:
        """Whether it takes features instead of images."""
        return self.config.kind == "projected"

    def logits(self, view: View) -> list[Tensor]:
        """Logits of images or features: float32, one tensor for each head."""
        logits = self.network(view)
        return [head.float() for head in ([logits] if isinstance(logits, Tensor) else logits)]

    def generator_loss(self, view: View) -> Tensor:
        """L_Adv, the tokenizer's loss; the discriminator gets no gradient."""
        self.network.requires_grad_(False)
        return over_heads(partial(generator_loss, kind=self.config.loss), self.logits(view))

    def judge(
        self, pieces: list[tuple[View, View]], step: int, rate: float, autocast: Callable[[], torch.autocast]
    ) -> dict[str, Tensor]:
        """Compute the gradients of the discriminator's loss, without a step (see ``learn``).

        Args:
            pieces: (photographs, reconstructions) of each piece of the batch.
            step: from 0.
            rate: the tokenizer's learning rate, used unless the settings have a rate for the discriminator.
            autocast: the precision of the network.

        Returns:
            Metrics, among them the loss as ``discriminator``.

        Raises:
            NotFinite: if the loss or the gradients are not finite.
        """
        self.network.requires_grad_(True)
        self.trained.start_step(rate if self.config.learning_rate is None else self.config.learning_rate)
        sums: dict[str, Tensor] = {}
        for real, fake in pieces:
            loss, metrics = self._loss(real, fake, step, autocast)
            (loss / len(pieces)).backward()
            for name, value in {**metrics, "discriminator": loss}.items():
                sums[name] = sums.get(name, 0.0) + value.detach() / len(pieces)
        average_gradients(self.network, self.ranks)
        require_finite(sums["discriminator"], gradient_norm(self.network.parameters()), self.ranks)
        return sums

    def learn(self, metrics: dict[str, Tensor]) -> None:
        """Take the step with the gradients of ``judge``, given its metrics."""
        self.trained.optimizer.step()
        if self.config.lecam_weight:
            means = torch.stack([metrics["logits_real"], metrics["logits_fake"]])
            self._logit_means.lerp_(self.ranks.mean(means), 0.01)

    def _loss(
        self, photographs: View, reconstructions: View, step: int, autocast: Callable[[], torch.autocast]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        with autocast():
            real, fake = self.logits(photographs), self.logits(reconstructions)
        loss = over_heads(partial(discriminator_loss, kind=config.loss), real, fake)
        metrics = {"logits_real": over_heads(torch.mean, real), "logits_fake": over_heads(torch.mean, fake)}
        if config.lecam_weight:
            real_mean, fake_mean = self._logit_means
            lecam = partial(lecam_penalty, real_mean=real_mean, fake_mean=fake_mean)
            loss = loss + config.lecam_weight * over_heads(lecam, real, fake)
        if config.r1_weight and step % config.r1_every == 0:
            assert isinstance(photographs, Tensor)
            penalty = r1_penalty(self.network, photographs)
            loss, metrics["r1"] = loss + 0.5 * config.r1_weight * config.r1_every * penalty, penalty
        return loss, metrics

    def tensors(self) -> dict[str, Tensor]:
        return {**self.trained.tensors(), "logit_means": self._logit_means}

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of ``tensors``; keeps its initial weights if the checkpoint has no discriminator."""
        if "logit_means" in tensors:
            self.trained.load_tensors(tensors)
            self._logit_means.copy_(tensors["logit_means"])
