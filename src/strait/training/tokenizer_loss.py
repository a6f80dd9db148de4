"""The loss of stage 1: equation 2 on a piece of a batch. Source: StraIT section 3.1, Table 11."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strait.runtime.ranks import Ranks
from strait.tokenizer.build import TrainableTokenizer
from strait.tokenizer.classifier import Classifier
from strait.tokenizer.code_noise import CodeNoise
from strait.tokenizer.efficientnet import EfficientNetFeatures
from strait.tokenizer.losses import pixel_loss
from strait.tokenizer.perceptual import Perceptual, StageDistance, build_perceptual, normalised_distance
from strait.tokenizer.quantizer import Quantized, codebook_entropy_loss, soft_assignments
from strait.training.adversary import Adversary, View
from strait.training.config import TokenizerTrainingConfig
from strait.types import Images


@dataclass(frozen=True)
class Piece:
    """The result of a pass over a piece of a batch; only the loss has a gradient.

    Attributes:
        loss: a scalar.
        metrics: the loss and its terms.
        images: reconstructions, ``[batch, 3, height, width]``.
        levels: each level, quantized.
        views: the adversary's inputs (photographs, reconstructions); None without an adversary.
    """

    loss: Tensor
    metrics: dict[str, Tensor]
    images: Images
    levels: tuple[Quantized, ...]
    views: tuple[View, View] | None = None


@dataclass(frozen=True, eq=False)
class Judges:
    """The frozen networks that compare photographs with reconstructions.

    Args:
        perceptual: the distance L_Perc.
        eyes: EfficientNet, whose features the projected adversary and the perceptual distance share; None if neither
            uses it.
    """

    perceptual: Perceptual
    eyes: StageDistance | None = None

    @property
    def widths(self) -> Sequence[int]:
        """Channels of the stages that a projected adversary takes."""
        network = None if self.eyes is None else self.eyes.network
        return network.widths if isinstance(network, EfficientNetFeatures) else ()


def build_judges(
    config: TokenizerTrainingConfig,
    classifier: Classifier | None,
    device: torch.device,
    memory_format: torch.memory_format,
    compiled: bool,
) -> Judges:
    """Build the networks for the settings of stage 1; ``classifier`` is the trained one of the model folder."""
    perceptual = build_perceptual(config.perceptual, device, classifier)
    if isinstance(perceptual, StageDistance) and config.perceptual == "classifier":
        perceptual.to(memory_format=memory_format)  # pyright: ignore
        if compiled:
            perceptual.compile(dynamic=False)
    if not config.sees_features:
        return Judges(perceptual)
    if isinstance(perceptual, StageDistance) and config.perceptual == "efficientnet":
        eyes = perceptual
    else:
        eyes = StageDistance(EfficientNetFeatures().to(device))
    eyes.to(memory_format=torch.channels_last)  # pyright: ignore  (it has no GroupNorm)
    return Judges(perceptual, eyes)


@dataclass(frozen=True, eq=False)
class Objective:
    """Equation 2 for one tokenizer, with an optional entropy term (beyond the paper).

    Args:
        tokenizer: of one level or two.
        config: of stage 1.
        judges: of its reconstructions.
        autocast: the precision of the networks.
        ranks: the processes that share a batch.
    """

    tokenizer: TrainableTokenizer
    config: TokenizerTrainingConfig
    judges: Judges
    autocast: Callable[[], torch.autocast]
    ranks: Ranks

    def __call__(
        self,
        images: Images,
        keep_bottom: Tensor,
        adversary: Adversary | None,
        share: float,
        uses: list[Tensor] | None,
        zoom: float = 1.0,
        noise: CodeNoise | None = None,
    ) -> Piece:
        """The loss of a piece of a batch.

        Args:
            images: ``[batch, 3, height, width]`` in [-1, 1].
            keep_bottom: which samples are decoded with their bottom, bool ``[batch]``.
            adversary: None before it starts.
            share: of the adversary's weight, 0 to 1.
            uses: result of ``code_use`` for the whole batch.
            zoom: factor by which images are resized before ``eyes``.
            noise: of the tokens that the decoder sees.
        """
        config, care = self.config, self.config.codebook
        self.tokenizer.train()
        with self.autocast():
            drops = config.bottom_dropout > 0 and self.tokenizer.levels == 2
            output = self.tokenizer(images, keep_bottom if drops else None, noise)
        reconstructions = output.images.float()
        pixel = pixel_loss(reconstructions, images, config.pixel_loss)
        commitment = torch.stack([level.commitment_loss() for level in output.levels]).sum()
        codes = torch.stack([level.codebook_loss() for level in output.levels]).sum()
        loss = pixel
        if not self.tokenizer.codebook(0).bypass:
            loss = loss + care.commitment_weight * commitment + care.codebook_weight * codes
        metrics = {"pixel": pixel, "commitment": commitment}
        if self._entropy_weight():
            entropy = self._entropy(output.levels, uses)
            loss, metrics["entropy"] = loss + care.entropy_weight * entropy, entropy
        views: tuple[View, View] = images, output.images
        features: tuple[list[Tensor], list[Tensor]] | None = None
        for_distance = self.judges.perceptual is self.judges.eyes and config.perceptual_weight > 0
        for_adversary = adversary is not None and adversary.is_projected
        if self.judges.eyes is not None and (for_distance or for_adversary):
            seen = _resized(images, zoom), _resized(reconstructions, zoom)
            features = self._features(seen[0]), self._features(seen[1])
            if for_adversary and config.adversarial.pixels:
                views = [*features[0], seen[0]], [*features[1], seen[1]]
            elif for_adversary:
                views = features
        if config.perceptual_weight and config.perceptual != "none":
            if features is not None and self.judges.perceptual is self.judges.eyes:
                distance = normalised_distance(features[1], features[0])
            else:
                distance = self.judges.perceptual(reconstructions, images)
            loss, metrics["perceptual"] = loss + config.perceptual_weight * distance, distance
        if adversary is not None:
            with self.autocast():
                generator = adversary.generator_loss(views[1])
            loss, metrics["adversarial"] = loss + share * config.adversarial.weight * generator, generator
        metrics = {name: value.detach() for name, value in {"loss": loss, **metrics}.items()}
        levels = tuple(
            replace(q, values=q.values.detach(), features=q.features.detach(), codes=q.codes.detach())
            for q in output.levels
        )
        detached_views = None if adversary is None else (_detached(views[0]), _detached(views[1]))
        return Piece(loss, metrics, output.images.detach(), levels, detached_views)

    def _features(self, images: Images) -> list[Tensor]:
        assert self.judges.eyes is not None
        with torch.set_grad_enabled(images.requires_grad):  # photographs need none
            return self.judges.eyes.features(images)

    @torch.no_grad()
    def quantized(self, images: tuple[Images, ...]) -> list[tuple[Quantized, ...]]:
        """Each level of each piece, quantized."""
        # Eager, since a pass without gradients would be compiled a second time.
        with self.autocast(), torch.compiler.set_stance("force_eager"):
            return [self.tokenizer(piece).levels for piece in images]

    def _entropy_weight(self) -> float:
        return 0.0 if self.tokenizer.codebook(0).bypass else self.config.codebook.entropy_weight

    def code_use(self, images: tuple[Images, ...]) -> list[Tensor] | None:
        """Soft use of each code by each level over the whole batch, ``[codebook_size]`` each; the entropy terms of its
        pieces need it. None if there is only one piece, or no entropy term."""
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


def _resized(images: Images, zoom: float) -> Images:
    if zoom == 1:
        return images
    size = [round(side * zoom) for side in images.shape[2:]]
    return F.interpolate(images, size, mode="bilinear", align_corners=False)


def _detached(view: View) -> View:
    return view.detach() if isinstance(view, Tensor) else [stage.detach() for stage in view]


class ToLoss(nn.Module):
    """The loss as a module, so that DDP sees which weights it depends on."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.tokenizer, self._objective = objective.tokenizer, objective

    def forward(self, *arguments: Any) -> Piece:
        return self._objective(*arguments)


def _always(value: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda _: value
