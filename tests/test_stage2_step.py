"""One training step of stage 2: equations 3 and 4 with their conditions, and labels that are dropped."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from strait.data.job import Job
from strait.model.config import ModelConfig
from strait.model.parts import build_part, level_networks
from strait.tokenizer.config import TokenizerConfig
from strait.training.config import RunConfig, TransformerTrainingConfig
from strait.training.transformer_loop import Preview, TrainingTokens, TransformerTrainee
from strait.transformer.config import TransformerConfig
from strait.types import NULL_LABEL, Canvas, Condition
from test_loss import naive_loss
from test_transformer import lively

CODES, CLASSES, IMAGES = 6, 3, 24
SMALL = TransformerConfig(layers=1, width=16, mlp=24, heads=2, dropout=0.0)
CONFIG = ModelConfig(
    image_size=8,
    tokenizer=TokenizerConfig(channels=8, multipliers=(1, 1, 1), codebook_size=CODES, code_dim=4),
    top=SMALL,
    bottom=SMALL,
)
TRAINING = TransformerTrainingConfig(
    steps=10, batch_size=IMAGES, warmup_steps=0, label_smoothing=0.0, label_drop_rate=0.0
)
RUN = RunConfig(precision="float32", sample_every=0)
PARTS = ("top", "bottom")
parts = pytest.mark.parametrize("part", PARTS)


class RandomTokens:
    """A token cache without files: as many images as a batch, 2x2 and 4x4 tokens each."""

    names = PARTS
    grids = ((2, 2), (4, 4))
    variants = 1

    def __init__(self, labels: list[int] | None = None) -> None:
        generator = torch.Generator().manual_seed(3)
        self.levels = [torch.randint(CODES, (IMAGES, length), generator=generator) for length in (4, 16)]
        self.labels = torch.tensor(labels or [index % CLASSES for index in range(IMAGES)])

    def __len__(self) -> int:
        return IMAGES

    def read(self, variants: np.ndarray, images: np.ndarray) -> tuple[list[Tensor], Tensor]:
        assert not variants.any()
        rows = torch.from_numpy(images)
        return [level[rows] for level in self.levels], self.labels[rows]


def no_preview() -> Image.Image:
    raise AssertionError("no samples were asked for")


def trainee(part: str | nn.Module, cache: RandomTokens, **changes: Any) -> TransformerTrainee:
    """Of a part with the same random weights every time, or of a network of one's own for one level."""
    if isinstance(part, nn.Module):
        module, networks = part, {int(part.level): part}
    else:
        module = lively(build_part(CONFIG, part, CLASSES), seed=5).requires_grad_()
        networks = dict(level_networks(module))
    config = dataclasses.replace(TRAINING, **changes)
    tokens, job = TrainingTokens(cache), Job(torch.device("cpu"))  # type: ignore[arg-type]
    return TransformerTrainee(module, networks, config, RUN, tokens, job, Preview(no_preview))


# Equations 3 and 4


@dataclasses.dataclass
class Seen:
    """What a network was given in a step, and what it answered."""

    condition: Condition
    canvas: Canvas
    logits: Tensor


class ByHand(nn.Module):
    """p(y | c, Y^t, known tokens): one half for the code that they add up to, the rest in equal parts."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = level
        self.layers = nn.ModuleList()
        self.unused = nn.Parameter(torch.zeros(1, 1))
        self.seen: list[Seen] = []

    def favourite(self, condition: Condition, canvas: Canvas, row: int) -> int:
        pairs = zip(canvas.tokens[row].tolist(), canvas.masked[row].tolist(), strict=True)
        total = int(condition.labels[row]) + sum(token for token, masked in pairs if not masked)
        return (total + sum(int(grid[row].sum()) for grid in condition.context)) % CODES

    def forward(self, condition: Condition, canvas: Canvas) -> Tensor:
        p = torch.full((*canvas.tokens.shape, CODES), 0.5 / (CODES - 1))
        for row in range(len(p)):
            p[row, :, self.favourite(condition, canvas, row)] = 0.5
        logits = (p.log() + 0 * self.unused)[canvas.masked]
        if logits.requires_grad:
            logits.retain_grad()
        self.seen.append(Seen(condition, canvas, logits))
        return logits


def equation(cache: RandomTokens, level: int, reduction: Literal["mean", "sum"]) -> tuple[float, float, Seen]:
    """The loss of a training step, the paper's equation image by image, and what the network was given."""
    network = ByHand(level)
    loss = float(trainee(network, cache, loss=reduction).step(0)["loss"].detach())
    (seen,) = network.seen
    total = 0.0
    for row in range(IMAGES):
        # Which image this is: its own tokens of both levels tell.
        (image,) = [i for i in range(IMAGES) if torch.equal(cache.levels[level][i], seen.canvas.tokens[row])]
        known_tokens = [
            int(token)
            for token, masked in zip(cache.levels[level][image], seen.canvas.masked[row], strict=True)
            if not masked
        ]
        guide = cache.levels[0][image].tolist() if level == 1 else []
        favourite = (int(cache.labels[image]) + sum(known_tokens) + sum(guide)) % CODES
        bits = [
            -math.log(0.5 if int(token) == favourite else 0.5 / (CODES - 1))
            for token, masked in zip(cache.levels[level][image], seen.canvas.masked[row], strict=True)
            if masked
        ]
        assert bits
        total += sum(bits) / (len(bits) if reduction == "mean" else 1)
    return loss, total / IMAGES, seen


def distinct() -> RandomTokens:
    cache = RandomTokens()
    assert all(len(level.unique(dim=0)) == IMAGES for level in cache.levels)
    return cache


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_equation_3_in_a_training_step(reduction: Literal["mean", "sum"]) -> None:
    loss, expected, seen = equation(distinct(), 0, reduction)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert seen.condition.context == ()


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_equation_4_in_a_training_step(reduction: Literal["mean", "sum"]) -> None:
    """Teacher forcing: the bottom is conditioned on all of the image's own top, none of it masked."""
    loss, expected, seen = equation(distinct(), 1, reduction)
    assert loss == pytest.approx(expected, rel=1e-5)
    assert [grid.shape for grid in seen.condition.context] == [(IMAGES, 2, 2)]


@parts
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_the_loss_of_a_real_network_equals_naive_and_learns_at_masked_tokens_alone(
    part: str, reduction: Literal["mean", "sum"]
) -> None:
    training = trainee(part, RandomTokens(), loss=reduction, label_smoothing=0.1)
    seen: list[Seen] = []

    def record(network: nn.Module, arguments: tuple[Condition, Canvas], logits: Tensor) -> None:
        logits.retain_grad()
        seen.append(Seen(*arguments, logits))

    training.transformer.register_forward_hook(record)
    loss = float(training.step(0)["loss"].detach())
    ((canvas, logits),) = [(step.canvas, step.logits) for step in seen]
    assert canvas.masked.any(1).all()
    assert not canvas.masked.all()
    everywhere = torch.full((*canvas.tokens.shape, logits.shape[-1]), float("nan"))
    everywhere[canvas.masked] = logits.detach()
    assert loss == pytest.approx(naive_loss(everywhere, canvas.tokens, canvas.masked, 0.1, reduction), rel=1e-5)
    assert logits.grad is not None
    assert (logits.grad != 0).any(-1).all()
    assert len(logits.grad) == canvas.masked.sum()


# Labels that are dropped


def trained(part: str, cache: RandomTokens, **changes: Any) -> tuple[float, dict[str, Tensor]]:
    """The loss of the first step, and the weights after three."""
    training = trainee(part, cache, **changes)
    losses = [float(training.step(step)["loss"].detach()) for step in range(3)]
    return losses[0], training.weights()


@parts
def test_labels_that_are_all_dropped_train_like_the_null_class(part: str) -> None:
    dropped, weights = trained(part, RandomTokens(), label_drop_rate=1.0)
    null, others = trained(part, RandomTokens([NULL_LABEL] * IMAGES), label_drop_rate=0.0)
    assert dropped == null
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    # And not like the classes themselves.
    kept, _ = trained(part, RandomTokens(), label_drop_rate=0.0)
    assert abs(kept - null) > 1e-4


@parts
def test_the_validation_loss_without_labels_is_that_of_the_null_class(part: str) -> None:
    def losses(labels: list[int] | None, **changes: Any) -> dict[str, Any]:
        learner = trainee(part, RandomTokens(), **changes)
        learner.run = dataclasses.replace(learner.run, sample_every=1)
        learner.tokens = dataclasses.replace(learner.tokens, validation=RandomTokens(labels))  # type: ignore[arg-type]
        return learner.step(0)

    classes, null = losses(None, label_drop_rate=0.1), losses([NULL_LABEL] * IMAGES, label_drop_rate=0.1)
    assert classes["unlabelled_validation_loss"] == null["validation_loss"] != classes["validation_loss"]
    assert "unlabelled_validation_loss" not in losses(None, label_drop_rate=0.0)  # nothing trains the null class


@pytest.mark.parametrize("accumulate", [1, 2])
def test_validation_sees_each_image_once_and_no_more_at_once_than_training(accumulate: int) -> None:
    network = ByHand(0)
    training = trainee(network, distinct(), accumulate=accumulate)
    training.run = dataclasses.replace(training.run, sample_every=1)
    training.tokens = dataclasses.replace(training.tokens, validation=distinct())  # type: ignore[arg-type]
    training.step(0)
    trained, validated = network.seen[:accumulate], network.seen[accumulate:]
    most = max(len(seen.canvas.tokens) for seen in trained)
    assert most == training.config.batch_size // accumulate
    assert max(len(seen.canvas.tokens) for seen in validated) == min(most, IMAGES)
    rows = torch.cat([seen.canvas.tokens for seen in validated])
    torch.testing.assert_close(rows, distinct().levels[0])


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5])
def test_so_many_labels_are_dropped_and_the_others_stay(rate: float) -> None:
    network, cache = ByHand(0), distinct()
    training = trainee(network, cache, label_drop_rate=rate)
    for step in range(50):
        training.step(step)
    dropped = 0
    for seen in network.seen:
        for row, label in enumerate(seen.condition.labels.tolist()):
            (image,) = [i for i in range(IMAGES) if torch.equal(cache.levels[0][i], seen.canvas.tokens[row])]
            assert label in (NULL_LABEL, int(cache.labels[image]))
            dropped += label == NULL_LABEL
    number = 50 * IMAGES
    assert abs(dropped - rate * number) <= 5 * math.sqrt(number * rate * (1 - rate))


# The largest norm of a gradient


@parts
def test_a_gradient_is_shortened_to_the_clip_and_not_turned(part: str) -> None:
    def gradient(clip: float) -> Tensor:
        training = trainee(part, RandomTokens(), gradient_clip=clip)
        training.step(0)
        return torch.cat([p.grad.flatten() for p in training.transformer.parameters() if p.grad is not None])

    free = gradient(1e9)
    norm = float(free.norm())
    torch.testing.assert_close(gradient(2 * norm), free)
    torch.testing.assert_close(gradient(norm / 3), free / 3)


# The rate of a step


@parts
def test_a_step_trains_at_the_rate_of_its_place(part: str) -> None:
    """A line over four steps, a cosine over the other six; in training mode, whatever came before."""
    training = trainee(part, RandomTokens(), learning_rate=1e-3, warmup_steps=4)
    rates = []
    for step in range(10):
        training.transformer.eval()  # as a sample grid leaves it
        training.step(step)
        assert training.transformer.training
        rates.append([group["lr"] for group in training.trained.optimizer.param_groups])
    shares = [0.25, 0.5, 0.75, 1.0, *((1 + math.cos(math.pi * step / 6)) / 2 for step in range(6))]
    assert rates == [[pytest.approx(1e-3 * share)] * 2 for share in shares]
