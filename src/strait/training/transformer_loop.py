"""Stage 2, Cross-scale Masked Token Modeling: one step of any level. Source: StraIT section 3.2, equations 3 and 4.

The top sees masked top tokens; the bottom masked bottom tokens and, by teacher forcing, the true top tokens. The
upsampler's two networks do so in one step, each guided by the true tokens of all levels before its own.
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
"""True top tokens ``[batch, length]``, labels and keys ``[batch]`` -> the top tokens that the bottom is trained on."""

_ORDER, _VARIANT, _DROP_LABEL, _PROGRESS, _MASK, _DROPOUT, _VALIDATION = 31, 32, 33, 34, 35, 36, 37
_BINS = 4


@dataclass(frozen=True)
class TrainingTokens:
    """What a transformer learns from.

    Args:
        train: the tokens of the photographs.
        validation: those of photographs never trained on; None where there are none.
        balance: how often rare classes come (``data.balance``).
    """

    train: TokenCache
    validation: TokenCache | None = None
    balance: float = 0.0


@dataclass(frozen=True)
class Preview:
    """The sample grid of a transformer.

    Args:
        draw: draws it, with the networks in training or with those of ``whole``.
        whole: of a part that is in shards, a copy in one piece, which the first process has; its networks draw.
    """

    draw: Callable[[], Image.Image]
    whole: nn.Module | None = None


class TransformerTrainee:
    """Trains one part of stage 2; see ``training.loop.Trainee``."""

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
        """``networks`` are those of the part, by the number of the level that each learns; ``augment`` replaces the
        first level's tokens where they are a condition (equation 6)."""
        self.transformer = part.to(job.device)
        self.networks, self.config, self.run, self.job = networks, config, run, job
        self.device, self.ranks = job.device, job.ranks
        self.tokens, self.preview, self.augment = tokens, preview, augment
        self.cache = tokens.train
        job.ranks.share(config.batch_size // config.accumulate)  # refuses what cannot be divided
        self._samples = torch.tensor(job.ranks.share(config.batch_size))
        self._epoch, self._order = -1, torch.empty(0)
        for network in networks.values():
            for layer in cast(nn.ModuleList, network.layers):
                if run.recompute:
                    recompute_in_backward(layer)
                if run.compile:
                    # The upsampler's networks have two lengths; one kernel for any length is several times slower.
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
        of_pieces: list[dict[str, Any]] = []
        for number, positions in enumerate(pieces):
            with no_averaging(self._distributed.values(), number + 1 < len(pieces)):
                loss, metrics = self._piece_loss(positions)
                (loss / len(pieces)).backward()
            of_pieces.append({"loss": loss.detach(), **metrics})
        metrics = {name: _joined([piece[name] for piece in of_pieces]) for name in of_pieces[0]}
        norm = whole(nn.utils.clip_grad_norm_(self.transformer.parameters(), config.gradient_clip))
        require_finite(metrics["loss"], norm, self.ranks)
        self.trained.optimizer.step()
        self.trained.update_average(step)
        metrics["gradient_norm"] = norm
        every = self.run.sample_every
        if self.tokens.validation is not None and every and (step + 1) % every == 0:
            metrics["validation_loss"] = self._validation_loss(self.tokens.validation)
        return metrics

    def _piece_loss(self, positions: Tensor) -> tuple[Tensor, dict[str, Any]]:
        """Loss and metrics of the samples at some positions of the stream."""
        levels, labels = self.read(positions)
        # Dropout draws from torch's own generator; so seeded, a resumed run repeats it.
        torch.manual_seed(as_seed(self.run.seed, _DROPOUT, int(positions[0])))
        positions, labels = positions.to(self.device), labels.to(self.device)
        dropped = uniform(key(self.run.seed, _DROP_LABEL, positions)) < self.config.label_drop_rate
        labels = labels.masked_fill(dropped, NULL_LABEL)
        return self._loss(levels, labels, key(self.run.seed, positions), self.augment)

    def read(self, positions: Tensor) -> tuple[list[Tensor], Tensor]:
        """The stream's samples at some positions: each epoch its own permutation, each sample its own variant."""
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
        """Loss and accuracies of one batch of flat levels, summed over the part's networks; ``keys`` ``[batch]``
        decide the masks."""
        on_device = [level.to(self.device) for level in levels]
        total, metrics = torch.zeros((), device=self.device), {}
        networks = self._distributed if self.transformer.training else self.networks
        for number, (level, network) in enumerate(networks.items()):
            level_keys = keys if number == 0 else key(keys, number)
            coarser = list(on_device[:level])
            if augment is not None:
                coarser[0] = augment(coarser[0], labels, level_keys)
            context = tuple(grid.view(-1, *shape) for grid, shape in zip(coarser, self.cache.grids, strict=False))
            loss, of_level = self._level_loss(network, level, on_device[level], Condition(labels, context), level_keys)
            total = total + loss
            prefix = "" if len(self.networks) == 1 else f"{self.cache.names[level]}_"
            metrics.update({prefix + name: value for name, value in of_level.items()})
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
    def _validation_loss(self, cache: TokenCache, batch_size: int = 250) -> float:
        """The training loss on images never trained on, with the weights that would be shipped."""
        total = 0.0
        with self.trained.as_shipped():
            for start in range(0, len(cache), batch_size):
                images = np.arange(start, min(start + batch_size, len(cache)))
                levels, labels = cache.read(np.zeros_like(images), images)
                keys = key(_VALIDATION, torch.from_numpy(images).to(self.device))
                loss, _ = self._loss(levels, labels.to(self.device), keys)
                total += float(loss) * len(images)
        return total / len(cache)

    def tensors(self) -> dict[str, Tensor]:
        return gathered(self.trained.tensors(), self.ranks)

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.trained.load_tensors(tensors)

    def weights(self) -> dict[str, Tensor]:
        """What becomes the model's: the averaged weights where there are any; every process must ask; of shards only
        the first process gets them."""
        return copied(gathered(self.trained.weights(), self.ranks))

    def samples(self) -> Image.Image | None:
        """The sample grid; of shards, with the first process's whole copy."""
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


def _joined(values: list[Any]) -> Any:
    """The mean of what the pieces of a batch found; of pairs (sum, weight), the sums."""
    if isinstance(values[0], tuple):
        return tuple(torch.stack(list(part)).sum() for part in zip(*values, strict=True))
    return torch.stack(values).mean()
