"""What a step of stage 1 minimises: equation 2 on a piece of a batch. Source: StraIT section 3.1, Table 11."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from strait.runtime.ranks import Ranks
from strait.tokenizer.build import TrainableTokenizer
from strait.tokenizer.losses import generator_loss, pixel_loss
from strait.tokenizer.perceptual import Perceptual
from strait.tokenizer.quantizer import Quantized, codebook_entropy_loss, soft_assignments
from strait.training.adversary import Adversary
from strait.training.config import TokenizerTrainingConfig
from strait.types import Images


@dataclass(frozen=True)
class Piece:
    """What a pass over a piece of a batch gives; only the loss has a gradient.

    Attributes:
        loss: a number.
        metrics: the terms of it.
        images: reconstructions, ``[batch, 3, height, width]``.
        levels: what each level was quantized to.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    images: Images
    levels: tuple[Quantized, ...]


@dataclass(frozen=True, eq=False)
class Objective:
    """Equation 2 for one tokenizer, and the entropy of its codes, which goes beyond the paper.

    Args:
        tokenizer: of one level or two.
        config: of stage 1.
        perceptual: the distance L_Perc.
        autocast: the precision of the networks.
        ranks: the processes among which a batch is divided.
    """

    tokenizer: TrainableTokenizer
    config: TokenizerTrainingConfig
    perceptual: Perceptual
    autocast: Callable[[], torch.autocast]
    ranks: Ranks

    def __call__(
        self, images: Images, kept: Tensor, adversary: Adversary | None, share: float, uses: list[Tensor] | None
    ) -> Piece:
        """The loss of a piece of a batch.

        Args:
            images: ``[batch, 3, height, width]`` in [-1, 1].
            kept: whose bottom is kept, bool ``[batch]``.
            adversary: None as long as it has no say.
            share: of the adversary's weight, 0 to 1.
            uses: what ``code_use`` found for the whole batch.
        """
        config, care = self.config, self.config.codebook
        self.tokenizer.train()
        with self.autocast():
            output = self.tokenizer(images, kept if config.bottom_dropout and self.tokenizer.levels == 2 else None)
        made = output.images.float()
        pixel = pixel_loss(made, images, config.pixel_loss)
        commitment = torch.stack([level.commitment_loss() for level in output.levels]).sum()
        codes = torch.stack([level.codebook_loss() for level in output.levels]).sum()
        loss = pixel
        if not self.tokenizer.codebook(0).bypass:
            loss = loss + care.commitment_weight * commitment + care.codebook_weight * codes
        metrics = {"pixel": pixel, "commitment": commitment}
        if self._entropy_weight():
            entropy = self._entropy(output.levels, uses)
            loss, metrics["entropy"] = loss + care.entropy_weight * entropy, entropy
        if config.perceptual_weight and config.perceptual != "none":
            distance = self.perceptual(made, images)
            loss, metrics["perceptual"] = loss + config.perceptual_weight * distance, distance
        if adversary is not None:
            adversary.network.requires_grad_(False)
            with self.autocast():
                logits = adversary.network(output.images).float()
            fooled = generator_loss(logits, config.adversarial.loss)
            loss, metrics["adversarial"] = loss + share * config.adversarial.weight * fooled, fooled
        metrics = {name: value.detach() for name, value in {"loss": loss, **metrics}.items()}
        seen = tuple(
            replace(q, values=q.values.detach(), features=q.features.detach(), codes=q.codes.detach())
            for q in output.levels
        )
        return Piece(loss, metrics, output.images.detach(), seen)

    @torch.no_grad()
    def quantized(self, images: tuple[Images, ...]) -> list[tuple[Quantized, ...]]:
        """What each level of each piece becomes, and nothing else."""
        # Uncompiled: without gradients it would be compiled a second time.
        with self.autocast(), torch.compiler.set_stance("force_eager"):
            return [self.tokenizer(some).levels for some in images]

    def _entropy_weight(self) -> float:
        return 0.0 if self.tokenizer.codebook(0).bypass else self.config.codebook.entropy_weight

    def code_use(self, images: tuple[Images, ...]) -> list[Tensor] | None:
        """How much each level uses each code over the whole batch, which its entropy term needs to know beforehand
        where a batch is taken in pieces."""
        if not self._entropy_weight() or len(images) == 1:
            return None
        pieces = self.quantized(images)
        levels = range(self.tokenizer.levels)
        return [
            self.ranks.mean(torch.stack([self._soft_use(piece[level], level) for piece in pieces]).mean(0))
            for level in levels
        ]

    @torch.no_grad()
    def _soft_use(self, quantized: Quantized, level: int) -> Tensor:
        codebook = self.tokenizer.codebook(level)
        return soft_assignments(quantized, codebook, self.config.batch_size).exp().mean(0)

    def _entropy(self, levels: tuple[Quantized, ...], uses: list[Tensor] | None) -> Tensor:
        terms = []
        for level, quantized in enumerate(levels):
            over_batch = self.ranks.mean if uses is None else _always(uses[level])
            codebook = self.tokenizer.codebook(level)
            terms.append(
                codebook_entropy_loss(quantized, codebook, batch_size=self.config.batch_size, over_batch=over_batch)
            )
        return torch.stack(terms).sum()


class ToLoss(nn.Module):
    """A tokenizer called to its loss: whoever spreads it over processes sees which weights the loss depends on."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.tokenizer, self._objective = objective.tokenizer, objective

    def forward(self, *arguments: Any) -> Piece:
        return self._objective(*arguments)


def _always(value: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda _: value
