"""Stage 2, Cross-scale Masked Token Modeling: one step of any level. Source: StraIT section 3.2, equations 3 and 4.

The top is trained on masked top tokens; the bottom on masked bottom tokens, given the true top tokens (teacher
forcing). The upsampler's two networks are trained in one step, each given the true tokens of all coarser levels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from strait.data.balance import epoch_order
from strait.data.job import Job
from strait.data.token_cache import TokenCache
from strait.decoding.masking import training_mask
from strait.nn.recompute import recompute_in_backward
from strait.randomness import as_seed, key, uniform
from strait.training.config import RunConfig, TransformerTrainingConfig
from strait.training.distributed import distribute, gathered, is_sharded, no_averaging, whole
from strait.training.guard import require_finite
from strait.training.optimizer import learning_rate, stage2_optimizer
from strait.training.trained import Trained, copied
from strait.transformer.loss import masked_token_loss
from strait.types import NULL_LABEL, Canvas, Condition

Augment = Callable[[Tensor, Tensor, Tensor], Tensor]
"""True top tokens ``[batch, length]``, labels and keys ``[batch]`` -> the top tokens given to the bottom."""

_ORDER, _VARIANT, _DROP_LABEL, _PROGRESS, _MASK, _DROPOUT, _VALIDATION = 31, 32, 33, 34, 35, 36, 37
_BINS = 4
_VALIDATED = 250
"""Validation images at once, at most."""


@dataclass(frozen=True)
class TrainingTokens:
    """The tokens of a transformer's training.

    Args:
        train: tokens of the training photographs.
        validation: tokens of the validation photographs, if there are any.
        balance: how often rare classes are drawn (``data.balance``).
    """

    train: TokenCache
    validation: TokenCache | None = None
    balance: float = 0.0


@dataclass(frozen=True)
class Preview:
    """The sample grid of a transformer.

    Args:
        draw: draws the grid with the networks in training, or with those of ``whole``.
        whole: for a sharded part, a full copy on the first process, whose networks draw the grid.
    """

    draw: Callable[[], Image.Image]
    whole: nn.Module | None = None


class TransformerTrainee:
    """Trains a part of stage 2; see ``training.loop.Trainee``."""

    def __init__(
        self,
        part: nn.Module,
        networks: Mapping[int, nn.Module],
        config: TransformerTrainingConfig,
        run: RunConfig,
        tokens: TrainingTokens,
        job: Job,
        preview: Preview,
        augment: Augment | None = None,
    ) -> None:
        """``networks``: of the part, by the number of the level each predicts. ``augment``: replaces the top tokens
        where they are a condition (equation 6)."""
        self.transformer = part.to(job.device)
        self.networks, self.config, self.run, self.job = networks, config, run, job
        self.device, self.ranks = job.device, job.ranks
        self.tokens, self.preview, self.augment = tokens, preview, augment
        self.cache = tokens.train
        job.ranks.share(config.batch_size // config.accumulate)  # raises if it does not divide
        self._samples = torch.tensor(job.ranks.share(config.batch_size))
        self._epoch, self._order = -1, torch.empty(0)
        for network in networks.values():
            for layer in cast(nn.ModuleList, network.layers):
                if run.recompute:
                    recompute_in_backward(layer)
                if run.compile:
                    # The upsampler has two sequence lengths; a kernel for dynamic lengths is several times slower.
                    layer.compile(dynamic=False)
        self._distributed = {
            level: distribute(network, job.ranks, run.parallel) for level, network in networks.items()
        }
        self.trained = Trained(self.transformer, stage2_optimizer(self.transformer, config), config.ema_decay)

    def begin(self, step: int) -> None:
        pass

    def step(self, step: int) -> dict[str, Any]:
        config = self.config
        self.transformer.train()
        self.trained.start_step(learning_rate(step, config.learning_rate, config.warmup_steps, config.steps))
        pieces = (self._samples + step * config.batch_size).chunk(config.accumulate)
        piece_metrics: list[dict[str, Any]] = []
        for number, positions in enumerate(pieces):
            with no_averaging(self._distributed.values(), number + 1 < len(pieces)):
                loss, metrics = self._piece_loss(positions)
                (loss / len(pieces)).backward()
            piece_metrics.append({"loss": loss.detach(), **metrics})
        metrics = {name: _reduced([piece[name] for piece in piece_metrics]) for name in piece_metrics[0]}
        norm = whole(nn.utils.clip_grad_norm_(self.transformer.parameters(), config.gradient_clip))
        require_finite(metrics["loss"], norm, self.ranks)
        self.trained.optimizer.step()
        self.trained.update_average(step)
        metrics["gradient_norm"] = norm
        interval = self.run.sample_every
        if self.tokens.validation is not None and interval and (step + 1) % interval == 0:
            metrics["validation_loss"] = self._validation_loss(self.tokens.validation)
            if self.config.label_drop_rate:
                metrics["unlabelled_validation_loss"] = self._validation_loss(self.tokens.validation, labelled=False)
        return metrics

    def _piece_loss(self, positions: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Loss and metrics of the samples at ``positions`` of the stream."""
        levels, labels = self.read(positions)
        # Dropout uses torch's generator; seeding it makes resumed runs equal.
        torch.manual_seed(as_seed(self.run.seed, _DROPOUT, int(positions[0])))
        positions, labels = positions.to(self.device), labels.to(self.device)
        dropped = uniform(key(self.run.seed, _DROP_LABEL, positions)) < self.config.label_drop_rate
        labels = labels.masked_fill(dropped, NULL_LABEL)
        return self._loss(levels, labels, key(self.run.seed, positions), self.augment)

    def read(self, positions: Tensor) -> tuple[list[Tensor], Tensor]:
        """The samples at ``positions`` of the stream: epochs are shuffled anew, variants drawn at random."""
        length = len(self.cache)
        images = np.empty(len(positions), dtype=np.int64)
        for row, position in enumerate(positions.tolist()):
            if position // length != self._epoch:
                self._epoch = position // length
                labels = self.cache.labels.numpy()
                self._order = epoch_order(length, labels, self.tokens.balance, self.run.seed, _ORDER, self._epoch)
            images[row] = int(self._order[position % length])
        variants = (uniform(key(self.run.seed, _VARIANT, positions)) * self.cache.variants).long().numpy()
        return self.cache.read(np.minimum(variants, self.cache.variants - 1), images)

    def _loss(
        self, levels: list[Tensor], labels: Tensor, keys: Tensor, augment: Augment | None = None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Loss of a batch of flat levels, summed over the part's networks, and metrics; ``keys`` ``[batch]`` are those
        of the masks."""
        on_device = [level.to(self.device) for level in levels]
        total, metrics = torch.zeros((), device=self.device), {}
        networks = self._distributed if self.transformer.training else self.networks
        for number, (level, network) in enumerate(networks.items()):
            level_keys = keys if number == 0 else key(keys, number)
            coarser = list(on_device[:level])
            if augment is not None:
                coarser[0] = augment(coarser[0], labels, level_keys)
            context = tuple(grid.view(-1, *shape) for grid, shape in zip(coarser, self.cache.grids, strict=False))
            condition = Condition(labels, context)
            loss, level_metrics = self._level_loss(network, level, on_device[level], condition, level_keys)
            total = total + loss
            prefix = "" if len(self.networks) == 1 else f"{self.cache.names[level]}_"
            metrics.update({prefix + name: value for name, value in level_metrics.items()})
        return total, metrics

    def _level_loss(
        self, network: nn.Module, level: int, targets: Tensor, condition: Condition, keys: Tensor
    ) -> tuple[Tensor, dict[str, Any]]:
        config = self.config
        progress = uniform(key(keys, _PROGRESS))
        scores = uniform(key(key(keys, _MASK)[:, None], torch.arange(targets.shape[1], device=self.device)))
        masked = training_mask(config.mask_schedule, progress, scores)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.run.precision == "bfloat16"):
            logits = network(condition, Canvas(targets, masked, self.cache.grids[level]))
        loss = masked_token_loss(logits, targets, masked, config.label_smoothing, config.loss)
        with torch.no_grad():
            hits = torch.zeros_like(masked)
            hits[masked] = logits.argmax(-1) == targets[masked]
            correct = hits.sum(-1).float()
            total = masked.sum(-1).float()
            metrics: dict[str, Any] = {"accuracy": (correct.sum(), total.sum())}
            if len(self.networks) > 1:
                metrics["loss"] = loss.detach()
            ratio = total / masked.shape[1]
            for index in range(_BINS):
                inside = (ratio > index / _BINS) & (ratio <= (index + 1) / _BINS)
                name = f"accuracy_masked_{100 * index // _BINS}_{100 * (index + 1) // _BINS}"
                metrics[name] = ((correct * inside).sum(), (total * inside).sum())
        return loss, metrics

    @torch.no_grad()
    def _validation_loss(self, cache: TokenCache, labelled: bool = True) -> float:
        """The training loss on validation images, with the weights that would be saved.

        Args:
            cache: their tokens.
            labelled: whether the network is given the labels; the masks are the same without.
        """
        # At most as many images at once as in training, so that validation needs no more memory.
        batch_size = min(_VALIDATED, -(-len(self._samples) // self.config.accumulate))
        total = 0.0
        with self.trained.as_shipped():
            for start in range(0, len(cache), batch_size):
                images = np.arange(start, min(start + batch_size, len(cache)))
                levels, labels = cache.read(np.zeros_like(images), images)
                if not labelled:
                    labels = torch.full_like(labels, NULL_LABEL)
                keys = key(_VALIDATION, torch.from_numpy(images).to(self.device))
                loss, _ = self._loss(levels, labels.to(self.device), keys)
                total += float(loss) * len(images)
        return total / len(cache)

    def tensors(self) -> dict[str, Tensor]:
        return gathered(self.trained.tensors(), self.ranks)

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.trained.load_tensors(tensors)

    def weights(self) -> dict[str, Tensor]:
        """The weights to save, averaged if there is an average, on the first process; a collective call."""
        return copied(gathered(self.trained.weights(), self.ranks))

    def samples(self) -> Image.Image | None:
        """The sample grid; for a sharded part it is drawn with the full copy."""
        if is_sharded(self.transformer):
            weights = self.weights()
            if self.preview.whole is None:
                return None
            self.preview.whole.load_state_dict(weights)
            self.preview.whole.eval()
            return self.preview.draw()
        if not self.ranks.first:
            return None
        with self.trained.as_shipped():
            return self.preview.draw()


def _reduced(values: list[Any]) -> Any:
    """A metric of a batch from those of its pieces: the mean, or for pairs (sum, weight) both totals."""
    if isinstance(values[0], tuple):
        return tuple(torch.stack(list(part)).sum() for part in zip(*values, strict=True))
    return torch.stack(values).mean()
