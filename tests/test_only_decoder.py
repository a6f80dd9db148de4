"""The decoder alone goes on learning: better pixels for the same tokens."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from strait.cli import main
from strait.data.images import ImageBatch
from strait.data.job import Job
from strait.model.folder import SHIPPED
from strait.tokenizer.config import TokenizerConfig
from strait.tokenizer.vqgan2 import StratifiedTokenizer
from strait.training.config import AdversarialConfig, CodebookConfig, RunConfig, TokenizerTrainingConfig
from strait.training.tokenizer_loop import TokenizerImages, TokenizerTrainee

CPU, SIZE, BATCH = torch.device("cpu"), 16, 4
TOKENIZER = TokenizerConfig(
    channels=8, multipliers=(1, 1, 2), res_blocks=1, stem_blocks=1, codebook_size=24, code_dim=4
)
PIXELS = torch.randint(256, (BATCH, SIZE, SIZE, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
CONFIG = TokenizerTrainingConfig(
    steps=50,
    batch_size=BATCH,
    accumulate=2,
    learning_rate=3e-3,
    pixel_loss="l1",
    perceptual="none",
    bottom_dropout=0.4,
    only_decoder=True,
    ema_decay=0.5,
    adversarial=AdversarialConfig(channels=8, start=0.5),
    codebook=CodebookConfig(restart_below=0.5, restart_every=1),
)


def trainee(pretrained: bool = True, recompute: bool = False) -> TokenizerTrainee:
    def batches(step: int) -> Iterator[ImageBatch]:
        while True:
            yield ImageBatch(PIXELS, torch.zeros(BATCH, dtype=torch.int64), torch.arange(BATCH), [])

    torch.manual_seed(0)
    return TokenizerTrainee(
        StratifiedTokenizer(TOKENIZER),
        CONFIG,
        RunConfig(precision="float32", sample_every=0, recompute=recompute),
        TokenizerImages(SIZE, batches, torch.zeros(1, 3, SIZE, SIZE)),
        Job(CPU),
        pretrained=pretrained,
    )


@pytest.mark.parametrize("recompute", [False, True])
def test_tokens_stay_and_pixels_get_better(recompute: bool) -> None:
    learner = trainee(recompute=recompute)
    before = {name: value.clone() for name, value in learner.tokenizer.state_dict().items()}
    images = PIXELS.permute(0, 3, 1, 2).float() / 127.5 - 1
    tokens = learner.tokenizer.eval().encode(images)
    first = (learner.tokenizer.decode(tokens) - images).abs().mean()
    learner.begin(0)
    for step in range(30):
        learner.step(step)
    after = learner.weights()
    assert after.keys() == before.keys()
    same = {name for name in before if torch.equal(after[name], before[name])}
    assert same == {name for name in before if not name.startswith("decoder.")}
    learner.tokenizer.load_state_dict(after)
    tokens_after = learner.tokenizer.eval().encode(images)
    assert all(torch.equal(a, b) for a, b in zip(tokens.levels, tokens_after.levels, strict=True))
    assert (learner.tokenizer.decode(tokens_after) - images).abs().mean() < 0.8 * first


def test_a_resumed_run_is_the_same_run() -> None:
    whole, half = trainee(), trainee()
    whole.begin(0)
    half.begin(0)
    for step in range(3):
        whole.step(step)
        half.step(step)
    resumed = trainee(pretrained=False)  # as a run that goes on from its own checkpoint is made
    resumed.load_tensors({name: value.clone() for name, value in half.tensors().items()})
    resumed.begin(3)
    whole.step(3)
    resumed.step(3)
    mine = resumed.tensors()
    assert all(torch.equal(mine[name], value) for name, value in whole.tensors().items())


def test_without_a_tokenizer_to_go_on_from_it_says_so() -> None:
    with pytest.raises(ValueError, match=r"only_decoder: .* with --init-from"):
        trainee(pretrained=False).begin(0)


def test_the_command_goes_on_from_the_model_that_ships(
    photo_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "tokenizer", "--config", "nature128-cpu", "--data", str(photo_folder)]
    words += ["--run.compile", "false", "--tokenizer_training.steps", "2", "--tokenizer_training.batch_size", "4"]
    words += ["--tokenizer_training.codebook.start", "0", "--tokenizer_training.only_decoder", "true"]
    assert main([*words, "--model", str(tmp_path / "new")]) != 0
    assert "only_decoder" in capfd.readouterr().err
    assert main([*words, "--model", str(tmp_path / "on"), "--init-from", "shipped"]) == 0
    begun, ours = load_file(SHIPPED / "tokenizer.safetensors"), load_file(tmp_path / "on" / "tokenizer.safetensors")
    changed = {name.split(".")[0] for name in begun if not torch.equal(begun[name].float(), ours[name].float())}
    assert changed == {"decoder"}
