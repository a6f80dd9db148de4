"""U: 256 tokens -> 512 tokens -> pixels (here 16 -> 32, and 32 -> 64 from the command line)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from strait.cli import main
from strait.config import config_path
from strait.decoding.config import DecodingConfig
from strait.decoding.stratified import final_tokens
from strait.model.config import ModelConfig, ModelError
from strait.model.parts import build_part, level_networks
from strait.model.strait import StraIT, random_model
from strait.runs.noise import random_token_cache
from strait.runs.part_tokens import encode_at_two_sizes
from strait.tokenizer.config import TokenizerConfig
from strait.transformer.config import TransformerConfig
from strait.transformer.upsampler import Upsampler
from strait.types import Canvas, Condition, StratifiedTokens

SMALL = TransformerConfig(layers=2, width=16, mlp=24, heads=2)
TOKENIZER = TokenizerConfig(
    channels=8, multipliers=(1, 2, 2), res_blocks=1, stem_blocks=1, codebook_size=24, code_dim=4
)
CONFIG = ModelConfig(16, TOKENIZER, SMALL, SMALL, SMALL)
DECODING = DecodingConfig(steps=(3, 2, 3, 2), temperature=(1.0,) * 4)
GRIDS = ((4, 4), (8, 8), (8, 8), (16, 16))
CLASSES = ["one", "two"]


@pytest.fixture
def model() -> StraIT:
    untrained_model = random_model(CONFIG, CLASSES, seed=2)
    untrained_model.decoding = DECODING
    # Larger weights, so that a token matters.
    for part in ("top", "bottom", "upsampler"):
        for name, value in untrained_model.part(part).named_parameters():
            value.data.mul_(1 if "norm" in name else 8)
    return untrained_model.requires_grad_(False)


def test_one_loop_runs_over_four_levels(model: StraIT) -> None:
    assert CONFIG.grids == GRIDS
    assert [level.name for level in model.levels()] == ["top", "bottom", "upsampled_top", "upsampled_bottom"]
    steps = list(model.decoding_steps(torch.tensor([0, 1])))
    assert [(step.level, step.index) for step in steps] == [
        (level.name, index)
        for level, count in zip(model.levels(), DECODING.steps, strict=True)
        for index in range(count)
    ]
    tokens = final_tokens(iter(steps))
    assert [tuple(grid.shape[1:]) for grid in tokens.levels] == list(GRIDS)


def test_without_settings_of_its_own_it_takes_the_papers_steps() -> None:
    """18+6, and U's 12 shared by three to one, too."""
    assert random_model(CONFIG, CLASSES).decoding == DecodingConfig((18, 6, 9, 3), (4.5,) * 4)
    assert random_model(ModelConfig(16, TOKENIZER, SMALL, SMALL), CLASSES).decoding == DecodingConfig(
        (18, 6), (4.5, 4.5)
    )


def test_it_goes_on_from_the_very_tokens_of_the_small_image(model: StraIT) -> None:
    labels = torch.tensor([1, 0, 1])
    whole = final_tokens(model.decoding_steps(labels, seed=4))
    base = final_tokens(model.decoding_steps(labels, seed=4, decoding=DECODING.first(2)))
    assert len(base.levels) == 2
    for ours, theirs in zip(base.levels, whole.levels[:2], strict=True):
        assert torch.equal(ours, theirs)
    pixels = model.tokenizer.decode(StratifiedTokens(whole.levels[2:]))
    assert torch.allclose(model.decode(whole), pixels, atol=1e-5)
    assert model.generate(["one"], decoding=DECODING.first(2)).shape == (1, 3, 16, 16)
    assert model.generate(["one"]).shape == (1, 3, 32, 32)


@pytest.mark.parametrize("level", [2, 3])
def test_each_network_is_guided_by_all_levels_before_it_and_by_the_class(model: StraIT, level: int) -> None:
    network = level_networks(model.part("upsampler"))[level]
    generator = torch.Generator().manual_seed(level)
    context = [torch.randint(24, (1, *grid), generator=generator) for grid in GRIDS[:level]]
    canvas = Canvas.known(torch.randint(24, (1, *GRIDS[level]), generator=generator))
    hidden = Canvas(canvas.tokens, torch.rand(canvas.masked.shape, generator=generator) < 0.5, canvas.grid)
    logits = network.bind(Condition(torch.tensor([0]), tuple(context)))(hidden)
    assert logits.shape == (1, GRIDS[level][0] * GRIDS[level][1], 24)
    assert not torch.allclose(network.bind(Condition(torch.tensor([1]), tuple(context)))(hidden), logits, atol=1e-3)
    for number in range(level):
        for place in (0, -1):
            altered_context = [grid.clone() for grid in context]
            altered_context[number].view(-1)[place] = (altered_context[number].view(-1)[place] + 1) % 24
            changed = network.bind(Condition(torch.tensor([0]), tuple(altered_context)))(hidden)
            assert not torch.allclose(changed, logits, atol=1e-3), (number, place)
    under = torch.where(hidden.masked, (hidden.tokens + 5) % 24, hidden.tokens)
    same = network.bind(Condition(torch.tensor([0]), tuple(context)))(Canvas(under, hidden.masked, hidden.grid))
    assert torch.equal(same, logits)


def test_known_tokens_of_every_level_stay(model: StraIT) -> None:
    generator = torch.Generator().manual_seed(1)
    canvases = []
    for grid in GRIDS:
        tokens = torch.randint(24, (2, *grid), generator=generator)
        canvases.append(Canvas.known(tokens, torch.rand(tokens.shape, generator=generator) < 0.5))
    for step in model.decoding_steps(torch.tensor([0, 1]), canvases=canvases):
        before = canvases[[level.name for level in model.levels()].index(step.level)]
        assert torch.equal(step.canvas.tokens[~before.masked], before.tokens[~before.masked])


def test_the_pair_at_both_sizes() -> None:
    tokenizer = random_model(CONFIG, seed=0).tokenizer
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    small = images.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))
    tokens = encode_at_two_sizes(tokenizer, images)
    expected = (*tokenizer.encode(small).levels, *tokenizer.encode(images).levels)
    assert [tuple(grid.shape[1:]) for grid in tokens.levels] == list(GRIDS)
    for ours, theirs in zip(tokens.levels, expected, strict=True):
        # The mean is taken in another order: a token at a border between two codes may fall to the other.
        assert (ours == theirs).float().mean() > 0.97


def test_there_and_back_with_and_without_the_upsampler(model: StraIT, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = StraIT.from_pretrained(tmp_path, pack=False)
    assert loaded.trained == {"tokenizer", "top", "bottom", "upsampler"}
    assert torch.equal(loaded.generate(["two"], seed=3), model.generate(["two"], seed=3))
    (tmp_path / "upsampler.safetensors").unlink()
    without = StraIT.from_pretrained(tmp_path, pack=False)
    assert torch.equal(without.generate(["two"], seed=3), model.generate(["two"], seed=3, decoding=DECODING.first(2)))
    with pytest.raises(ModelError, match="no upsampler yet; train it with: strait train upsampler"):
        without.generate(["two"], decoding=DECODING)


def test_its_size_is_its_own() -> None:
    part = build_part(CONFIG, "upsampler", 2)
    assert isinstance(part, Upsampler)
    assert [len(part.top.layers), len(part.bottom.layers)] == [2, 2]
    with pytest.raises(ValueError, match="upsampler: it needs two levels of tokens, but vqgan has one"):
        ModelConfig(16, TokenizerConfig(kind="vqgan", multipliers=(1, 2)), SMALL, None, SMALL)
    with pytest.raises(
        ModelError, match="upsampler: this model has no such part; its parts are tokenizer, top, bottom"
    ):
        build_part(ModelConfig(16, TOKENIZER, SMALL, SMALL), "upsampler", 2)


FAST = {
    "tokenizer_training": {"steps": 40, "batch_size": 8},
    "top_training": {"steps": 10, "batch_size": 8},
    "bottom_training": {"steps": 10, "batch_size": 8},
    "upsampler_training": {"steps": 12, "batch_size": 4, "warmup_steps": 2},
}


@pytest.fixture(scope="module")
def trained(photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model trained without an upsampler, to which one is then added."""
    folder = tmp_path_factory.mktemp("upsampled")
    content = yaml.safe_load(config_path("smoke").read_text())
    for part, settings in FAST.items():
        content[part] = {**content.get(part, {}), **settings}
    content["run"] = {**content["run"], "log_every": 2, "sample_every": 12}
    (folder / "base.yaml").write_text(yaml.safe_dump(content))
    content["upsampler"] = {**content["bottom"]}
    content["decoding"] = {"steps": [4, 2, 3, 2], "temperature": [1.0] * 4}
    (folder / "config.yaml").write_text(yaml.safe_dump(content))
    words = ["train", "--data", str(photo_folder), "--model", str(folder / "model")]
    assert main([*words, "--config", str(folder / "base.yaml")]) == 0
    assert not (folder / "model" / "upsampler.safetensors").exists()
    assert main([*words, "--config", str(folder / "config.yaml")]) == 0
    return folder


def test_trained_and_used_from_the_command_line(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = trained / "model"
    log = [json.loads(line) for line in (model / "runs" / "upsampler" / "log.jsonl").read_text().splitlines()]
    for entry in log:
        assert entry["loss"] == pytest.approx(entry["upsampled_top_loss"] + entry["upsampled_bottom_loss"], rel=1e-4)
    assert log[-1]["loss"] < log[0]["loss"]
    sample = max((model / "runs" / "upsampler" / "samples").glob("*.png"))
    assert Image.open(sample).width > 8 * 64
    cache = model / "runs" / "tokens" / "train-two-sizes"
    sides = {path.stem: np.load(path).shape[-1] for path in cache.glob("*top.npy")}
    assert sides == {"top": 16, "upsampled_top": 64}

    words = ["generate", "--model", str(model), "--count", "1", "--seed", "1", "--output"]
    assert main([*words, str(trained / "large")]) == 0
    assert main([*words, str(trained / "small"), "--steps", "4+2"]) == 0
    capsys.readouterr()
    for folder, size in (("large", 64), ("small", 32)):
        (path,) = (trained / folder).iterdir()
        assert Image.open(path).size == (size, size)
    assert main([*words, str(trained / "none"), "--steps", "4+2+3"]) == 2
    assert "--steps: 4+2+3 must give 2 or 4 number(s)" in capsys.readouterr().err


def test_the_upsampler_goes_on_where_it_stopped(photo_folder: Path, trained: Path, tmp_path: Path) -> None:
    words = ["train", "upsampler", "--data", str(photo_folder), "--model", str(trained / "model")]
    whole = (trained / "model" / "upsampler.safetensors").read_bytes()
    checkpoints = trained / "model" / "runs" / "upsampler"
    checkpoints.rename(tmp_path / "aside")
    assert main([*words, "--stop-after", "0", "--run.checkpoint_seconds", "0"]) == 0
    assert main(words) == 0
    assert (trained / "model" / "upsampler.safetensors").read_bytes() == whole


def test_noise_to_measure_with_has_every_level(tmp_path: Path) -> None:
    """Benchmarks train U, too, on tokens that are drawn."""
    cache = random_token_cache(tmp_path / "noise", CONFIG, len(CLASSES), images=3)
    levels, labels = cache.read(np.zeros(3, np.int64), np.arange(3))
    assert [tuple(level.shape) for level in levels] == [(3, height * width) for height, width in GRIDS]
    assert all(0 <= int(level.min()) <= int(level.max()) < TOKENIZER.codebook_size for level in levels)
    assert labels.shape == (3,)
