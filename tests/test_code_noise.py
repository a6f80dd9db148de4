"""Code noise, and the head start of a new discriminator: both for decoders that are trained further."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from strait.data.images import ImageBatch
from strait.data.job import Job
from strait.randomness import key
from strait.tokenizer.code_noise import CodeNoise, noise_shares, noisy_ids
from strait.tokenizer.config import TokenizerConfig
from strait.tokenizer.quantizer import Codebook
from strait.tokenizer.vqgan import VQGAN
from strait.tokenizer.vqgan2 import StratifiedTokenizer
from strait.training.config import AdversarialConfig, CodebookConfig, RunConfig, TokenizerTrainingConfig
from strait.training.tokenizer_loop import TokenizerImages, TokenizerTrainee

CODES, WIDTH, BATCH, SIZE, NEAR = 90, 5, 40, 16, 32
TOKENIZER = TokenizerConfig(
    channels=8, multipliers=(1, 1, 2), res_blocks=1, stem_blocks=1, codebook_size=24, code_dim=4
)
PIXELS = torch.randint(256, (4, SIZE, SIZE, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


def codebook(codes: int = CODES) -> Codebook:
    torch.manual_seed(3)
    return Codebook(codes, WIDTH, normalize=True)


def ids() -> Tensor:
    return torch.randint(CODES, (BATCH, 6, 7), generator=torch.Generator().manual_seed(4))


def keys(batch: int = BATCH) -> Tensor:
    return key(5, torch.arange(batch))


def test_a_token_becomes_one_of_its_nearest_codes() -> None:
    book, before = codebook(), ids()
    after = noisy_ids(book, before, torch.ones(BATCH), keys())
    codes = book.codes.detach().numpy().astype(np.float64)
    ranks = []
    for old, new in zip(before.flatten().tolist(), after.flatten().tolist(), strict=True):
        order = np.argsort(((codes - codes[old]) ** 2).sum(1))
        assert order[0] == old
        ranks.append(list(order).index(new))
    assert min(ranks) == 1
    assert max(ranks) == NEAR
    # Uniform over the ranks: 1,680 draws among 32, of which each then has 52.5 on average.
    counts = np.bincount(ranks, minlength=NEAR + 1)[1:]
    assert counts.min() > 20
    assert counts.max() < 95


def test_shares_are_those_of_the_samples() -> None:
    shares = torch.tensor([0.0, 0.25, 1.0]).repeat_interleave(300)
    before = torch.randint(CODES, (900, 6, 7), generator=torch.Generator().manual_seed(4))
    changed = (noisy_ids(codebook(), before, shares, keys(900)) != before).float().flatten(1).mean(1).view(3, 300)
    assert changed[0].max() == 0
    assert changed[2].min() == 1
    assert changed[1].mean() == pytest.approx(0.25, abs=0.01)  # 12,600 draws: standard error 0.004
    assert changed[1].std() > 0.04  # places are drawn, not counted


def test_a_sample_has_the_same_noise_in_any_batch() -> None:
    whole = noisy_ids(codebook(), ids(), torch.full((BATCH,), 0.5), keys())
    part = noisy_ids(codebook(), ids()[7:9], torch.full((2,), 0.5), keys()[7:9])
    assert torch.equal(whole[7:9], part)


def test_two_codes_replace_each_other() -> None:
    before = torch.tensor([[[0, 1, 1]]])
    assert noisy_ids(codebook(2), before, torch.ones(1), keys(1)).tolist() == [[[1, 0, 0]]]


def test_a_third_of_the_shares_is_zero_and_the_rest_uniform() -> None:
    shares = noise_shares((torch.arange(30_000) + 0.5) / 30_000, 0.6)
    assert (shares == 0).float().mean() == pytest.approx(1 / 3, abs=1e-3)
    positive = shares[shares > 0]
    assert float(positive.max()) == pytest.approx(0.6, abs=1e-3)
    assert torch.histc(positive, 4, 0, 0.6) / len(positive) == pytest.approx([0.25] * 4, abs=1e-3)


@pytest.mark.parametrize("levels", [1, 2])
def test_the_decoder_sees_the_noise_and_nothing_else_changes(levels: int) -> None:
    torch.manual_seed(0)
    config = TOKENIZER if levels == 2 else dataclasses.replace(TOKENIZER, kind="vqgan")
    tokenizer = StratifiedTokenizer(config) if levels == 2 else VQGAN(config)
    seen: list[tuple[Tensor, ...]] = []
    tokenizer.decoder.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    images = PIXELS.permute(0, 3, 1, 2).float() / 127.5 - 1
    noise = CodeNoise(torch.tensor([0.0, 0.5, 1.0, 1.0]), keys(4))
    plain, noisy = tokenizer(images), tokenizer(images, None, noise)
    for level in range(levels):
        quantized = plain.levels[level]
        assert torch.equal(quantized.ids, noisy.levels[level].ids)
        expected = noisy_ids(tokenizer.codebook(level), quantized.ids, noise.shares, key(noise.keys, level))
        assert torch.equal(expected[0], quantized.ids[0])
        assert (expected[2:] != quantized.ids[2:]).all()
        torch.testing.assert_close(seen[1][level], tokenizer.codebook(level).embed(expected), atol=1e-5, rtol=0)
        # Straight through to the encoder: the features' gradient does not know of the noise.
        gradients = [
            torch.autograd.grad(
                inputs[level].sum(), tokenizer.encoder.parameters(), allow_unused=True, retain_graph=True
            )
            for inputs in seen
        ]
        for gradient, noisy_gradient in zip(*gradients, strict=True):
            assert (gradient is None) == (noisy_gradient is None)
            if gradient is not None:
                torch.testing.assert_close(gradient, noisy_gradient)


CONFIG = TokenizerTrainingConfig(
    steps=50,
    batch_size=4,
    learning_rate=3e-3,
    perceptual="none",
    ema_decay=0.0,
    adversarial=AdversarialConfig(channels=8, head_start=2, learning_rate=1e-3),
    codebook=CodebookConfig(entropy_weight=0.0),
)


def trainee(config: TokenizerTrainingConfig) -> TokenizerTrainee:
    def batches(step: int) -> Iterator[ImageBatch]:
        while True:
            yield ImageBatch(PIXELS, torch.zeros(4, dtype=torch.int64), torch.arange(4), [])

    torch.manual_seed(0)
    return TokenizerTrainee(
        StratifiedTokenizer(TOKENIZER),
        config,
        RunConfig(precision="float32", sample_every=0),
        TokenizerImages(SIZE, batches, torch.zeros(1, 3, SIZE, SIZE)),
        Job(torch.device("cpu")),
        pretrained=True,
    )


def test_the_discriminator_learns_alone_at_first() -> None:
    restarts = CodebookConfig(entropy_weight=0.0, restart_below=0.99, restart_every=1)
    learner = trainee(dataclasses.replace(CONFIG, codebook=restarts))
    assert learner.adversary is not None
    networks = {"tokenizer": learner.tokenizer, "discriminator": learner.adversary.network}

    def weights() -> dict[str, Tensor]:
        return {name: torch.cat([p.detach().flatten() for p in n.parameters()]) for name, n in networks.items()}

    learner.begin(0)
    changed, before = [], weights()
    for step in range(3):
        learner.step(step)
        after = weights()
        changed.append({name for name in networks if not torch.equal(before[name], after[name])})
        before = after
    assert changed == [{"discriminator"}, {"discriminator"}, {"tokenizer", "discriminator"}]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_with_noise_sees_other_pixels_in_the_same_way_each_time(accumulate: int) -> None:
    adversarial = AdversarialConfig(weight=0.0)
    losses = []
    for share in (0.0, 0.8, 0.8):
        config = dataclasses.replace(CONFIG, adversarial=adversarial, code_noise=share, accumulate=accumulate)
        learner = trainee(config)
        learner.begin(0)
        losses.append([float(learner.step(step)["pixel"]) for step in range(2)])
    assert losses[0] != losses[1]
    assert losses[1] == losses[2]


def test_noise_belongs_to_the_sample_and_the_step() -> None:
    """The same in one piece and in two; other noise for each sample and at each step."""
    config = dataclasses.replace(CONFIG, adversarial=AdversarialConfig(weight=0.0), code_noise=0.8)
    whole, halves = (trainee(dataclasses.replace(config, accumulate=pieces)) for pieces in (1, 2))
    for step in (0, 1):
        (whole_noise,), two = whole._noise(step, 1), halves._noise(step, 2)
        assert whole_noise is not None
        assert torch.equal(whole_noise.keys, torch.cat([noise.keys for noise in two if noise is not None]))
        assert torch.equal(whole_noise.shares, torch.cat([noise.shares for noise in two if noise is not None]))
        assert len(set(whole_noise.keys.tolist())) == len(PIXELS)
    (first,), (second,) = whole._noise(0, 1), whole._noise(1, 1)
    assert first is not None
    assert second is not None
    assert set(first.keys.tolist()).isdisjoint(second.keys.tolist())
    whole.begin(0)
    halves.begin(0)
    losses = [float(learner.step(0)["pixel"]) for learner in (whole, halves)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"code_noise": 1.5}, "code_noise"),
        ({"code_noise": float("nan")}, "code_noise"),
        ({"steps": 2}, "head_start"),
    ],
)
def test_what_makes_no_sense_is_refused(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **settings)  # type: ignore[arg-type]


def test_a_head_start_needs_a_discriminator_at_the_start() -> None:
    for settings in ({"start": 0.5}, {"weight": 0.0}, {"head_start": -1}):
        with pytest.raises(ValueError, match="head_start"):
            AdversarialConfig(**{"head_start": 5, **settings})
