"""A step whose numbers are none changes nothing: of the real networks of both stages, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from strait.data.images import ImageBatch
from strait.data.job import Job
from strait.tokenizer.config import TokenizerConfig
from strait.tokenizer.vqgan2 import StratifiedTokenizer
from strait.training import adversary, transformer_loop
from strait.training.config import AdversarialConfig, CodebookConfig, RunConfig, TokenizerTrainingConfig
from strait.training.guard import NotFinite
from strait.training.tokenizer_loop import TokenizerImages, TokenizerTrainee
from test_stage2_step import RandomTokens
from test_stage2_step import trainee as stage2

CPU, SIZE, BATCH = torch.device("cpu"), 16, 4
TOKENIZER = TokenizerConfig(
    channels=8, multipliers=(1, 1, 1), res_blocks=1, stem_blocks=1, codebook_size=12, code_dim=4, normalize_codes=True
)
STAGE1 = TokenizerTrainingConfig(
    steps=50,
    batch_size=BATCH,
    perceptual="none",
    ema_decay=0.9,
    adversarial=AdversarialConfig(channels=8, max_channels=8, lecam_weight=0.05),
    codebook=CodebookConfig(restart_below=0.9, restart_every=1, start=2),
)


class Photographs(ImageBatch):
    """A batch whose pixels can be no numbers, which no file's can."""

    broken = False

    def images(self, device: torch.device) -> Tensor:
        pixels = super().images(device)
        return pixels * float("nan") if self.broken else pixels


def stage1(broken: set[int]) -> TokenizerTrainee:
    torch.manual_seed(0)

    def batches(first: int) -> Iterator[ImageBatch]:
        step = first
        while True:
            draw = torch.Generator().manual_seed(step)
            pixels = torch.randint(256, (BATCH, SIZE, SIZE, 3), generator=draw, dtype=torch.uint8)
            batch = Photographs(pixels, torch.zeros(BATCH, dtype=torch.int64), torch.arange(BATCH), [])
            object.__setattr__(batch, "broken", step in broken)
            yield batch
            step += 1

    run = RunConfig(precision="float32", sample_every=0)
    network = StratifiedTokenizer(TOKENIZER)
    images = TokenizerImages(SIZE, batches, torch.zeros(1, 3, SIZE, SIZE))
    trainee = TokenizerTrainee(network, STAGE1, run, images, Job(CPU))
    trainee.begin(0)
    return trainee


def state(trainee: Any) -> dict[str, bytes]:
    return {
        name: value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        for name, value in trainee.tensors().items()
    }


def skipped(trainee: Any, step: int) -> None:
    before = state(trainee)
    with pytest.raises(NotFinite):
        trainee.step(step)
    after = state(trainee)
    assert after.keys() == before.keys()
    assert [name for name, value in before.items() if after[name] != value] == []


@pytest.mark.parametrize("step", [0, 1, 2, 3, 5])  # before codes are started, when they are, and later
def test_stage_1_with_images_of_no_numbers(step: int) -> None:
    trainee = stage1({step})
    for before in range(step):
        trainee.step(before)
    skipped(trainee, step)
    trainee.step(step + 1)
    assert all(bool(value.isfinite().all()) for value in trainee.tensors().values())


@pytest.mark.parametrize("step", [0, 2, 4])
def test_stage_1_where_the_discriminator_alone_fails(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its penalty comes after the tokenizer's gradients, which were fine: they must not be used either."""
    trainee = stage1(set())
    for before in range(step):
        trainee.step(before)
    real = adversary.r1_penalty
    monkeypatch.setattr(adversary, "r1_penalty", lambda *words: real(*words) * float("nan"))
    skipped(trainee, step)
    monkeypatch.undo()
    trainee.step(step + 1)


def test_codes_whose_start_was_skipped_are_started_at_the_next_step() -> None:
    trainee = stage1({2})
    for step in (0, 1):
        trainee.step(step)
    random = trainee.tokenizer.codebook(0).weight.detach().clone()
    skipped(trainee, 2)
    again = stage1(set())  # as if it had been stopped and gone on with here
    again.load_tensors({name: value.clone() for name, value in trainee.tensors().items()})
    again.begin(3)
    for trained in (trainee, again):
        trained.step(3)
        moved = (trained.tokenizer.codebook(0).weight - random).norm(dim=1)
        assert bool((moved > 0.05).all())  # far more than a step of the optimizer moves them
    assert state(trainee) == state(again)


@pytest.mark.parametrize("part", ["top", "bottom"])
@pytest.mark.parametrize("after", [0, 2])
def test_stage_2_with_a_loss_that_is_none(part: str, after: int, monkeypatch: pytest.MonkeyPatch) -> None:
    trainee = stage2(part, RandomTokens(), ema_decay=0.9)
    for step in range(after):
        trainee.step(step)
    real = transformer_loop.masked_token_loss
    monkeypatch.setattr(transformer_loop, "masked_token_loss", lambda *words: real(*words) * float("nan"))
    skipped(trainee, after)
    monkeypatch.undo()
    trainee.step(after + 1)


def test_stage_2_with_a_weight_that_is_none() -> None:
    trainee = stage2("top", RandomTokens())
    trainee.step(0)
    with torch.no_grad():
        next(trainee.transformer.parameters()).fill_(float("nan"))
    skipped(trainee, 1)
