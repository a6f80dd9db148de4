"""Equation 6: top tokens that the top transformer has partly predicted itself, while the bottom trains."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from strait.data.config import DataConfig
from strait.data.encoding import Encoding, build_token_cache
from strait.data.job import Job
from strait.data.sources import FolderSource
from strait.data.token_cache import TokenCache
from strait.randomness import key
from strait.training.condition_augmentation import augmented_condition
from strait.training.config import RunConfig, TransformerTrainingConfig
from strait.training.transformer_loop import Preview, TrainingTokens, TransformerTrainee
from strait.transformer.bottom import BottomTransformer
from strait.transformer.config import TransformerConfig
from strait.transformer.top import TopTransformer
from strait.types import Canvas, Condition, Images, LogitsFn, StratifiedTokens

CODES, GRID = 9, (4, 5)
LENGTH = GRID[0] * GRID[1]


class Certain:
    """A top transformer that is sure of one code everywhere, and remembers what it was shown."""

    def __init__(self, code: int) -> None:
        self.code = code
        self.labels, self.canvas = torch.empty(0), Canvas.blank(1, GRID)

    def bind(self, condition: Condition) -> LogitsFn:
        self.labels = condition.labels

        def logits(canvas: Canvas, positions: Tensor | None = None) -> Tensor:
            self.canvas = canvas
            return 1000.0 * F.one_hot(torch.full_like(canvas.tokens, self.code), CODES)

        return logits


def true_tokens(batch: int) -> Tensor:
    """Any codes but the last."""
    return torch.randint(CODES - 1, (batch, LENGTH), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.1, 2), (0.3, 6), (0.5, 10), (0.52, 10), (1.0, 20)])
def test_so_many_tokens_of_each_sample_are_predicted_and_the_others_stay(share: float, count: int) -> None:
    tokens, labels = true_tokens(8), torch.arange(8)
    top = Certain(CODES - 1)
    augmented_tokens = augmented_condition(top.bind, tokens, GRID, labels, share, key(3, torch.arange(8)))
    assert torch.equal(top.labels, labels)
    assert top.canvas.masked.sum(-1).tolist() == [count] * 8
    assert torch.equal(augmented_tokens == CODES - 1, top.canvas.masked)
    assert torch.equal(augmented_tokens[~top.canvas.masked], tokens[~top.canvas.masked])


def test_the_choice_depends_on_the_key_alone() -> None:
    tokens, keys = true_tokens(6), key(5, torch.arange(6))
    top = TopTransformer(TransformerConfig(layers=1, width=16, mlp=16, heads=2, dropout=0.0), CODES, 3, GRID).eval()
    labels = torch.tensor([0, 1, 2, -1, 0, 1])
    together = augmented_condition(top.bind, tokens, GRID, labels, 0.5, keys)
    for row in range(6):
        row_slice = slice(row, row + 1)
        assert torch.equal(
            augmented_condition(top.bind, tokens[row_slice], GRID, labels[row_slice], 0.5, keys[row_slice]),
            together[row_slice],
        )
    others = augmented_condition(top.bind, tokens, GRID, labels, 0.5, key(6, torch.arange(6)))
    assert not torch.equal(others, together)


def test_draws_follow_the_tops_distribution() -> None:
    p = torch.tensor([0.5, 0.3, 0.2])

    def bind(condition: Condition) -> LogitsFn:
        return lambda canvas, positions=None: p.log().expand(*canvas.tokens.shape, 3)

    tokens = torch.zeros(1000, LENGTH, dtype=torch.int64)
    labels = torch.zeros(1000, dtype=torch.int64)
    draws = augmented_condition(bind, tokens, GRID, labels, 1.0, key(0, torch.arange(1000)))
    shares = torch.bincount(draws.flatten(), minlength=3) / draws.numel()
    # 20,000 draws: a standard error of 0.0035 at most.
    assert torch.allclose(shares, p, atol=0.015)


def test_what_stood_under_the_mask_has_no_say() -> None:
    top = TopTransformer(TransformerConfig(layers=1, width=16, mlp=16, heads=2, dropout=0.0), CODES, 0, GRID).eval()
    tokens, keys, labels = true_tokens(4), key(5, torch.arange(4)), torch.full((4,), -1)
    probe = Certain(CODES - 1)
    augmented_condition(probe.bind, tokens, GRID, labels, 0.5, keys)
    altered_tokens = torch.where(probe.canvas.masked, (tokens + 3) % CODES, tokens)
    first = augmented_condition(top.bind, tokens, GRID, labels, 0.5, keys)
    assert torch.equal(augmented_condition(top.bind, altered_tokens, GRID, labels, 0.5, keys), first)


def small_cache(photo_folder: Path, folder: Path) -> TokenCache:
    def encode(images: Images) -> StratifiedTokens:
        top = ((F.avg_pool2d(images.mean(1, keepdim=True), 8)[:, 0] + 1) / 2 * (CODES - 1)).round().long()
        bottom = ((F.avg_pool2d(images.mean(1, keepdim=True), 4)[:, 0] + 1) / 2 * (CODES - 1)).round().long()
        return StratifiedTokens((top, bottom))

    encoding = Encoding(FolderSource(photo_folder), encode, ["t", "b"], 16, DataConfig())
    return build_token_cache(folder, encoding, Job(torch.device("cpu")))


def no_preview() -> Image.Image:
    raise AssertionError("no samples were asked for")


class Recording(nn.Module):
    """A bottom transformer that remembers each pass."""

    def __init__(self, network: BottomTransformer) -> None:
        super().__init__()
        self.network, self.passes = network, []
        self.layers = network.layers

    def forward(self, condition: Condition, canvas: Canvas) -> Tensor:
        logits = self.network(condition, canvas)
        self.passes.append((condition, canvas, logits.detach()))
        return logits


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_equation_6(photo_folder: Path, tmp_path: Path, reduction: str) -> None:
    """- log p(y_i | c, Y~^t, Y^b), over masked bottom positions: the loss is taken under the augmented top tokens."""
    small = TransformerConfig(layers=1, width=16, mlp=16, heads=2, dropout=0.0)
    network = Recording(BottomTransformer(small, CODES, [CODES], 4, (4, 4), [(2, 2)]))
    top, cache = Certain(CODES - 1), small_cache(photo_folder, tmp_path / "tokens")
    seen: list[tuple[Tensor, Tensor]] = []

    def augment(tokens: Tensor, labels: Tensor, keys: Tensor) -> Tensor:
        augmented_tokens = augmented_condition(top.bind, tokens, (2, 2), labels, 0.5, keys)
        seen.append((tokens, augmented_tokens))
        return augmented_tokens

    settings = TransformerTrainingConfig(
        steps=2, batch_size=6, label_smoothing=0.0, loss=reduction, condition_augmentation=0.5
    )
    run = RunConfig(precision="float32")
    tokens, job, preview = TrainingTokens(cache), Job(torch.device("cpu")), Preview(no_preview)
    trainee = TransformerTrainee(network, {1: network}, settings, run, tokens, job, preview, augment)
    metrics = trainee.step(0)
    (condition, canvas, logits), (true, augmented_tokens) = network.passes[0], seen[0]
    assert torch.equal(condition.context[0].flatten(1), augmented_tokens)
    assert ((augmented_tokens != true).sum(-1) == 2).all()
    assert (augmented_tokens != true).eq(augmented_tokens == CODES - 1).all()
    total = 0.0
    of_masked = iter(logits)
    for row in range(6):
        terms = [
            -float(torch.log_softmax(next(of_masked), -1)[canvas.tokens[row, i]])
            for i in range(16)
            if canvas.masked[row, i]
        ]
        total += sum(terms) / (len(terms) if reduction == "mean" else 1)
    assert metrics["loss"].item() == pytest.approx(total / 6, rel=1e-5)
    # The masks are those of equation 4: they do not move when the condition is augmented.
    plain = Recording(BottomTransformer(small, CODES, [CODES], 4, (4, 4), [(2, 2)]))
    TransformerTrainee(plain, {1: plain}, settings, run, tokens, job, preview).step(0)
    assert torch.equal(plain.passes[0][1].masked, canvas.masked)
    assert torch.equal(plain.passes[0][0].context[0].flatten(1), true)
