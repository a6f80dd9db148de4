"""Equation 2: the losses of a step of stage 1 are weighted sums of their terms, at the weights of Table 11."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from strait.data.job import Job
from strait.runtime.ranks import ALONE
from strait.tokenizer.config import TokenizerConfig
from strait.tokenizer.perceptual import build_perceptual
from strait.tokenizer.vqgan2 import StratifiedTokenizer
from strait.training.adversary import Adversary
from strait.training.config import AdversarialConfig, RunConfig, TokenizerTrainingConfig
from strait.training.tokenizer_loop import TokenizerImages, TokenizerTrainee

CPU = torch.device("cpu")
SIZE, BATCH, SHARE = 16, 6, 0.4
SMALL = TokenizerConfig(
    channels=8,
    multipliers=(1, 1, 2),
    res_blocks=1,
    stem_blocks=1,
    codebook_size=24,
    code_dim=4,
    zero_init_bottom=False,
)


class Colours(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return F.adaptive_avg_pool2d(images, (2, 2)) / 255


@pytest.fixture
def trainee(tmp_path: Path) -> TokenizerTrainee:
    """The paper's weights, its pixel loss and entropy term; a network of one line in the place of VGG."""
    torch.manual_seed(0)
    torch.jit.script(Colours()).save(str(tmp_path / "colours.pt"))
    config = TokenizerTrainingConfig(
        steps=10, batch_size=BATCH, perceptual=str(tmp_path / "colours.pt"), adversarial=AdversarialConfig(channels=8)
    )
    images = TokenizerImages(SIZE, lambda step: iter(()), torch.zeros(1, 3, SIZE, SIZE))
    with pytest.warns(UserWarning, match="is TorchScript, which is code"):
        return TokenizerTrainee(
            StratifiedTokenizer(SMALL),
            config,
            RunConfig(precision="float32"),
            images,
            Job(CPU),
        )


def test_equation_2_is_the_weighted_sum_of_its_terms(trainee: TokenizerTrainee, tmp_path: Path) -> None:
    images = torch.rand(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    assert trainee.adversary is not None
    piece = trainee.objective(images, torch.ones(BATCH, dtype=torch.bool), trainee.adversary, SHARE, None)
    metrics = {name: float(value) for name, value in piece.metrics.items()}
    # Each term from what the pass gave, by its definition.
    pixel = float(((piece.images + 1) / 2 - (images + 1) / 2).square().mean())
    squares = [float((level.features - level.codes).square().mean()) for level in piece.levels]
    with torch.no_grad():
        fooled = float(F.softplus(-trainee.adversary.network(piece.images)).mean())
        with pytest.warns(UserWarning, match="is TorchScript"):
            perceptual = float(build_perceptual(str(tmp_path / "colours.pt"), CPU)(piece.images, images))
    assert len(squares) == 2, "both levels are committed to their codes"
    named = {"pixel": pixel, "commitment": sum(squares), "perceptual": perceptual, "adversarial": fooled}
    for name, value in named.items():
        assert metrics[name] == pytest.approx(value, rel=1e-4), name
        assert value > 1e-3, name
    assert abs(metrics["entropy"]) > 1e-3
    commitment = codebook = sum(squares)
    total = pixel + 0.25 * commitment + codebook + 0.1 * metrics["entropy"] + 0.1 * perceptual + 0.1 * SHARE * fooled
    assert metrics["loss"] == float(piece.loss.detach()) == pytest.approx(total, rel=1e-5)


def test_equation_2_without_an_adversary_leaves_its_term_out(trainee: TokenizerTrainee) -> None:
    images = torch.rand(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    kept = torch.ones(BATCH, dtype=torch.bool)
    without = trainee.objective(images, kept, None, 0.0, None)
    with_one = trainee.objective(images, kept, trainee.adversary, SHARE, None)
    assert "adversarial" not in without.metrics
    more = 0.1 * SHARE * float(with_one.metrics["adversarial"])
    assert float(with_one.loss.detach() - without.loss.detach()) == pytest.approx(more, rel=1e-4)


@pytest.mark.parametrize(("step", "counted"), [(0, 4), (1, 0), (3, 0), (4, 4)])
def test_the_discriminator_learns_to_tell_apart_and_half_ten_times_its_penalty(step: int, counted: int) -> None:
    """R1 is half its cost times the squared gradient; taken at every fourth step, it is counted four times over."""
    torch.manual_seed(0)
    config = TokenizerTrainingConfig(steps=10, batch_size=BATCH, adversarial=AdversarialConfig(channels=8, r1_every=4))
    adversary = Adversary(SIZE, config, CPU, torch.contiguous_format, ALONE)
    images, fakes = torch.rand(2, BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)) * 2 - 1
    judged = adversary.judge([(images, fakes)], step, 1e-4, lambda: torch.autocast("cpu", enabled=False))
    loss = F.softplus(-adversary.network(images)).mean() + F.softplus(adversary.network(fakes)).mean()
    from_0_to_1 = ((images + 1) / 2).requires_grad_()
    (gradient,) = torch.autograd.grad(adversary.network(2 * from_0_to_1 - 1).sum(), from_0_to_1)
    loss = loss + 10 / 2 * counted * gradient.square().sum((1, 2, 3)).mean()
    assert ("r1" in judged) == (counted > 0)
    assert float(judged["discriminator"]) == pytest.approx(float(loss.detach()), rel=1e-4)
