"""The cascade of Table 6: two separate VQGANs under the same transformers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from strait.cli import main
from strait.data.images import in_order
from strait.data.sources import FolderSource
from strait.decoding.config import DecodingConfig
from strait.evaluation.features import open_features
from strait.evaluation.generation import Judge, reconstruction
from strait.model.config import ModelConfig
from strait.model.strait import random_model
from strait.tokenizer.build import build_tokenizer
from strait.tokenizer.cascade import CascadeTokenizer
from strait.tokenizer.config import TokenizerConfig
from strait.transformer.config import TransformerConfig
from strait.types import StratifiedTokens, Tokens

CONFIG = TokenizerConfig(
    kind="cascade", channels=8, multipliers=(1, 2, 2), res_blocks=1, stem_blocks=1, codebook_size=24, code_dim=4
)
SMALL = TransformerConfig(layers=1, width=16, mlp=24, heads=2)


def cascade(config: TokenizerConfig = CONFIG) -> CascadeTokenizer:
    torch.manual_seed(0)
    tokenizer = build_tokenizer(config)
    assert isinstance(tokenizer, CascadeTokenizer)
    return tokenizer.eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_each_level_is_a_vqgan_of_its_own(images: torch.Tensor) -> None:
    tokenizer = cascade()
    tokens = tokenizer.encode(images)
    assert isinstance(tokens, StratifiedTokens)
    assert tuple(tokens.top.shape) == (2, 4, 4)
    assert tuple(tokens.bottom.shape) == (2, 8, 8)
    assert torch.equal(tokens.top, tokenizer.coarse.encode(images).levels[0])
    assert torch.equal(tokens.bottom, tokenizer.fine.encode(images).levels[0])
    assert torch.equal(tokenizer.decode(tokens), tokenizer.fine.decode(Tokens((tokens.bottom,))))
    assert torch.equal(tokenizer.decode(tokens, levels=1), tokenizer.coarse.decode(Tokens((tokens.top,))))
    others = StratifiedTokens(((tokens.top + 1) % 24, tokens.bottom))
    assert torch.equal(tokenizer.decode(others), tokenizer.decode(tokens))


def test_nothing_is_shared_and_the_fine_one_stops_a_resolution_earlier() -> None:
    tokenizer = cascade(TokenizerConfig(**{**vars(CONFIG), "bottom_codebook_size": 12}))
    assert tokenizer.coarse.config.multipliers == (1, 2, 2)
    assert tokenizer.fine.config.multipliers == (1, 2)
    assert [tokenizer.coarse.config.codebook_size, tokenizer.fine.config.codebook_size] == [24, 12]
    assert not tokenizer.config.shared_codebook
    coarse = {value.data_ptr() for value in tokenizer.coarse.parameters()}
    assert coarse.isdisjoint(value.data_ptr() for value in tokenizer.fine.parameters())


def test_the_same_loop_decodes_it() -> None:
    model = random_model(ModelConfig(16, CONFIG, SMALL, SMALL), seed=1)
    samples = model.generate(count=3, seed=2, decoding=DecodingConfig(steps=(3, 2), temperature=(1.0, 1.0)))
    assert samples.shape == (3, 3, 16, 16)


def test_trained_apart_from_the_command_line(photo_folder: Path, tmp_path: Path) -> None:
    """The coarse half comes out as a VQGAN trained alone does, bit for bit: the halves know nothing of each other."""
    fast = ["--tokenizer_training.steps", "40", "--tokenizer_training.batch_size", "8", "--config", "smoke"]
    words = ["train", "tokenizer", "--data", str(photo_folder), "--run.sample_every", "0", *fast]
    words += ["--tokenizer_training.bottom_dropout", "0", "--model"]
    both, alone = tmp_path / "cascade", tmp_path / "alone"
    assert main([*words, str(both), "--tokenizer.kind", "cascade", "--stop-after", "0.0001"]) == 0
    assert not (both / "tokenizer.safetensors").exists()
    assert main([*words, str(both), "--tokenizer.kind", "cascade"]) == 0
    single = [
        "--tokenizer.kind",
        "vqgan",
        "--bottom",
        "null",
        "--decoding.steps",
        "[4]",
        "--decoding.temperature",
        "[1]",
    ]
    assert main([*words, str(alone), *single]) == 0
    weights, expected = load_file(both / "tokenizer.safetensors"), load_file(alone / "tokenizer.safetensors")
    assert {name for name in weights if name.startswith("coarse.")} == {f"coarse.{name}" for name in expected}
    for name, value in expected.items():
        assert torch.equal(weights[f"coarse.{name}"], value), name
    assert any(name.startswith("fine.") for name in weights)
    assert main(["evaluate", "reconstruction", "--model", str(both), "--data", str(photo_folder), "--json"]) == 0


def test_images_of_the_top_alone_are_compared_with_its_reconstructions(images: torch.Tensor) -> None:
    tokenizer = cascade()
    tokens = tokenizer.encode(images)
    assert torch.equal(reconstruction(tokenizer, images, 2), tokenizer.decode(tokens))
    assert torch.equal(reconstruction(tokenizer, images, 1), tokenizer.decode(tokens, levels=1))


@pytest.mark.parametrize("levels", [1, 2])
def test_a_judge_of_fewer_levels_has_their_reconstructions(photo_folder: Path, tmp_path: Path, levels: int) -> None:
    class Pixels(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.adaptive_avg_pool2d(images, (2, 2)).flatten(1)

    torch.jit.script(Pixels()).save(str(tmp_path / "network.pt"))
    model = random_model(ModelConfig(16, CONFIG, SMALL, SMALL), ["a", "b"])
    source = FolderSource(photo_folder)
    judge = Judge(model, source, open_features(str(tmp_path / "network.pt"), torch.device("cpu")), "all", levels)
    batch = next(in_order(source, 16, len(source)))
    through = model.tokenizer.decode(model.tokenizer.encode(batch.images("cpu")), levels)
    pixels = torch.nn.functional.adaptive_avg_pool2d(((through + 1) * 127.5).round().clamp(0, 255), (2, 2)).flatten(1)
    assert judge.reconstructed.values == pytest.approx(pixels.double().numpy(), abs=1.0)
