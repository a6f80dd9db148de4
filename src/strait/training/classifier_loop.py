"""One step of the classifier whose features may judge a tokenizer (beyond the paper)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from strait.data.images import ImageBatch
from strait.data.job import Job
from strait.nn.recompute import recompute_in_backward
from strait.randomness import key
from strait.tokenizer.classifier import Classifier
from strait.training.config import ClassifierTrainingConfig, RunConfig
from strait.training.distributed import distribute, no_averaging
from strait.training.guard import gradient_norm, require_finite
from strait.training.optimizer import adamw, learning_rate
from strait.training.random_crops import random_crops
from strait.training.tracking import Metrics
from strait.training.trained import Trained, copied

_CROP = 61
_NO_LABEL = -1


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
        """``batches(step)`` is the stream of this process's shares from a step on; ``validation()`` goes through
        images never trained on."""
        self.config, self.run, self.job, self.device = config, run, job, job.device
        self._batches, self._validation = batches, validation
        self._stream: Iterator[ImageBatch] = iter(())
        job.ranks.share(config.batch_size // config.accumulate)  # refuses what cannot be divided
        self._samples = job.ranks.share(config.batch_size)
        # Eager GroupNorm is slow backwards on channels-last tensors of a CPU: there only compiled code gains.
        self._format = torch.channels_last if run.compile or job.device.type == "cuda" else torch.contiguous_format
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
                loss, right = self._loss(self._distributed, piece, piece_labels)
                (loss / len(pieces)).backward()
            losses.append(loss.detach())
            correct += right
        loss, norm = torch.stack(losses).mean(), gradient_norm(self.classifier.parameters())
        require_finite(loss, norm, self.job.ranks)
        self.trained.optimizer.step()
        self.trained.update_average(step)
        metrics: dict[str, Tensor | float | tuple[Tensor | float, Tensor | float]] = {
            "loss": loss,
            "accuracy": (correct, (batch.labels != _NO_LABEL).sum()),
            "gradient_norm": norm,
        }
        every = self.run.sample_every
        if self._validation is not None and every and ((step + 1) % every == 0 or step + 1 == config.steps):
            metrics["validation_loss"], metrics["validation_accuracy"] = self._judged(self._validation())
        return metrics

    def _loss(self, network: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The mean loss of a batch, images without a label counting as zero, and how many images are right."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.run.precision == "bfloat16"):
            logits = network(images)
        smoothing = self.config.label_smoothing
        loss = F.cross_entropy(
            logits.float(), labels, ignore_index=_NO_LABEL, reduction="sum", label_smoothing=smoothing
        )
        return loss / len(labels), (logits.argmax(-1) == labels).sum()

    @torch.no_grad()
    def _judged(self, batches: Iterator[ImageBatch]) -> tuple[float, float]:
        """Loss and accuracy on whole images never trained on, with the weights that would be kept."""
        total, correct, known = 0.0, 0, 0
        with self.trained.as_shipped():
            for batch in batches:
                labels = batch.labels.to(self.device)
                images = batch.images(self.device).to(memory_format=self._format)
                loss, right = self._loss(self.classifier, images, labels)
                total, correct = total + float(loss) * len(labels), correct + int(right)
                known += int((labels != _NO_LABEL).sum())
        return total / max(known, 1), correct / max(known, 1)

    def tensors(self) -> dict[str, Tensor]:
        return self.trained.tensors()

    def load_tensors(self, tensors: dict[str, Tensor]) -> None:
        self.trained.load_tensors(tensors)

    def weights(self) -> dict[str, Tensor]:
        """What is kept: the averaged weights where there are any."""
        return copied(self.trained.weights())

    def samples(self) -> Image.Image | None:
        """A classifier has no picture to show."""
        return None
