"""One training step of the classifier for the perceptual loss (beyond the paper), and its random crops."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from strait.data.images import ImageBatch
from strait.data.job import Job
from strait.nn.convolution import training_format
from strait.nn.recompute import recompute_in_backward
from strait.randomness import key, uniform
from strait.tokenizer.classifier import Classifier
from strait.training.config import ClassifierTrainingConfig, RunConfig
from strait.training.distributed import distribute, no_averaging
from strait.training.guard import gradient_norm, require_finite
from strait.training.optimizer import adamw, learning_rate
from strait.training.tracking import Metrics
from strait.training.trained import Trained, copied
from strait.types import Images

_CROP = 61
_AREA, _SHAPE, _DOWN, _RIGHT = 1, 2, 3, 4
_LONGEST = math.log(4 / 3)
_NO_LABEL = -1


def crop_windows(keys: Tensor, smallest: float) -> Tensor:
    """Random windows ``[batch, 4]``: (down, right) of the centre and (height, width), as shares of the image.

    Args:
        keys: int64 ``[batch]``, random keys.
        smallest: smallest area, as a share of the image's. Areas are uniform up to 1, sides have ratios from 3:4 to
            4:3. A side longer than the image's is cut off, so an area above 3/4 can come out smaller.
    """
    area = smallest + (1 - smallest) * uniform(key(keys, _AREA))
    ratio = torch.exp(_LONGEST * (2 * uniform(key(keys, _SHAPE)) - 1))
    height, width = (area / ratio).sqrt().clamp(max=1), (area * ratio).sqrt().clamp(max=1)
    down = height / 2 + (1 - height) * uniform(key(keys, _DOWN))
    right = width / 2 + (1 - width) * uniform(key(keys, _RIGHT))
    return torch.stack([down, right, height, width], dim=1)


def random_crops(images: Images, keys: Tensor, smallest: float) -> Images:
    """A random crop of each image, resized to the image's size (bilinear); unchanged if ``smallest`` is 1."""
    if smallest == 1:
        return images
    down, right, height, width = crop_windows(keys, smallest).unbind(1)
    zero = torch.zeros_like(down)
    # Affine maps in coordinates from -1 to 1: scales on the diagonal, the window's centre in the last column.
    rows = [torch.stack([width, zero, 2 * right - 1], dim=1), torch.stack([zero, height, 2 * down - 1], dim=1)]
    grid = F.affine_grid(torch.stack(rows, dim=1).to(images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


class ClassifierTrainee:
    """Trains the classifier; see ``training.loop.Trainee``."""

    def __init__(
        self,
        classifier: Classifier,
        config: ClassifierTrainingConfig,
        run: RunConfig,
        batches: Callable[[int], Iterator[ImageBatch]],
        validation: Callable[[], Iterator[ImageBatch]] | None,
        job: Job,
    ) -> None:
        """``batches(step)`` streams this process's shares from a step on; ``validation()`` iterates over the
        validation images."""
        self.config, self.run, self.job, self.device = config, run, job, job.device
        self._batches, self._validation = batches, validation
        self._stream: Iterator[ImageBatch] = iter(())
        job.ranks.share(config.batch_size // config.accumulate)  # raises if it does not divide
        self._samples = job.ranks.share(config.batch_size)
        self._format = training_format(job.device, run.compile)
        self.classifier: Classifier = classifier.to(job.device).to(memory_format=self._format)  # pyright: ignore
        if run.recompute:
            for stage in classifier.stages:
                recompute_in_backward(stage)
        if run.compile:
            classifier.compile(dynamic=False)
        self._distributed = distribute(classifier, job.ranks, "ddp")
        optimizer = adamw(classifier, config.learning_rate, config.betas, config.weight_decay)
        self.trained = Trained(classifier, optimizer, config.ema_decay)

    def begin(self, step: int) -> None:
        self._stream = self._batches(step)

    def step(self, step: int) -> Metrics:
        config = self.config
        batch = next(self._stream)
        self.job.bad_files.note(batch.bad)
        samples = torch.arange(self._samples.start, self._samples.stop, device=self.device)
        keys = key(self.run.seed, _CROP, samples + step * config.batch_size)
        images = random_crops(batch.images(self.device), keys, config.smallest_crop)
        labels = batch.labels.to(self.device).chunk(config.accumulate)
        pieces = images.to(memory_format=self._format).chunk(config.accumulate)
        self.trained.start_step(learning_rate(step, config.learning_rate, config.warmup_steps, config.steps))
        self.classifier.train()
        losses: list[Tensor] = []
        correct = torch.zeros((), device=self.device)
        for number, (piece, piece_labels) in enumerate(zip(pieces, labels, strict=True)):
            with no_averaging([self._distributed], number + 1 < len(pieces)):
                loss, hits = self._loss(self._distributed, piece, piece_labels)
                (loss / len(pieces)).backward()
            losses.append(loss.detach())
            correct += hits
        loss, norm = torch.stack(losses).mean(), gradient_norm(self.classifier.parameters())
        require_finite(loss, norm, self.job.ranks)
        self.trained.optimizer.step()
        self.trained.update_average(step)
        metrics: dict[str, Tensor | float | tuple[Tensor | float, Tensor | float]] = {
            "loss": loss,
            "accuracy": (correct, (batch.labels != _NO_LABEL).sum()),
            "gradient_norm": norm,
        }
        interval = self.run.sample_every
        if self._validation is not None and interval and ((step + 1) % interval == 0 or step + 1 == config.steps):
            metrics["validation_loss"], metrics["validation_accuracy"] = self._validated(self._validation())
        return metrics

    def _loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss of a batch (images without a label count as 0) and the number of correct predictions."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.run.precision == "bfloat16"):
            logits = network(images)
        smoothing = self.config.label_smoothing
        loss = F.cross_entropy(
            logits.float(), labels, ignore_index=_NO_LABEL, reduction="sum", label_smoothing=smoothing
        )
        return loss / len(labels), (logits.argmax(-1) == labels).sum()

    @torch.no_grad()
    def _validated(self, batches: Iterator[ImageBatch]) -> tuple[float, float]:
        """Loss and accuracy on validation images, without crops, with the weights that would be saved."""
        total, correct, known = 0.0, 0, 0
        with self.trained.as_shipped():
            for batch in batches:
                labels = batch.labels.to(self.device)
                images = batch.images(self.device).to(memory_format=self._format)
                loss, hits = self._loss(self.classifier, images, labels)
                total, correct = total + float(loss) * len(labels), correct + int(hits)
                known += int((labels != _NO_LABEL).sum())
        return total / max(known, 1), correct / max(known, 1)

    def tensors(self) -> dict[str, Tensor]:
        return self.trained.tensors()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.trained.load_tensors(tensors)

    def weights(self) -> dict[str, Tensor]:
        """The weights to save: averaged ones if there are any."""
        return copied(self.trained.weights())

    def samples(self) -> Image.Image | None:
        """None: a classifier draws no images."""
        return None
