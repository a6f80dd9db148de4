"""Recognised: the share of images whose own class the scoring network puts first."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from strait.cli import main
from strait.evaluation.features import Features, open_features
from strait.evaluation.recognised import logit_of_class, recognised
from strait.model.config import ModelConfig
from strait.model.strait import StraIT, random_model
from strait.tokenizer.config import TokenizerConfig
from strait.transformer.config import TransformerConfig

SMALL = TransformerConfig(layers=1, width=16, mlp=24, heads=2)
TOKENIZER = TokenizerConfig(
    channels=8, multipliers=(1, 1, 2), res_blocks=1, stem_blocks=1, codebook_size=12, code_dim=4
)
COLOURS = {"blue": (0, 0, 250), "green": (0, 250, 0), "red": (250, 0, 0)}


class ByColour(nn.Module):
    """Logits of blue, green and red, in the order of their names."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        means = images.mean((2, 3))
        return means / 255, means.flip(1)


@pytest.fixture
def network(tmp_path: Path) -> Path:
    torch.jit.script(ByColour()).save(str(tmp_path / "colours.pt"))
    return tmp_path / "colours.pt"


@pytest.fixture
def photographs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten plain pictures a colour; three of the red ones are green, and nobody calls them red."""
    monkeypatch.setenv("STRAIT_CACHE", str(tmp_path / "cache"))
    for name, colour in COLOURS.items():
        folder = tmp_path / "photographs" / name
        folder.mkdir(parents=True)
        for number in range(10):
            wrong = name == "red" and number < 3
            Image.new("RGB", (20, 20), COLOURS["green"] if wrong else colour).save(folder / f"{number}.png")
    return tmp_path / "photographs"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Its classes stand in another order than the photographs', and one has none."""
    network = random_model(ModelConfig(16, TOKENIZER, SMALL, SMALL), ["red", "mauve", "blue"], seed=1)
    network.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def report_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    assert main(words) == 0
    return json.loads(capsys.readouterr().out)


def test_the_share_and_its_error_are_those_of_a_count() -> None:
    logits = torch.tensor([[3.0, 1, 2], [0, 1, 2], [0, 5, 2], [1, 2, 9]])
    features = Features(torch.zeros(4, 1), logits)
    assert recognised(features, torch.tensor([0, 2, 0, -1])) == pytest.approx(
        {"recognised": 2 / 3, "recognised_error": (2 / 3 * 1 / 3 / 3) ** 0.5}
    )
    assert recognised(features, torch.full((4,), -1)) == {}
    assert recognised(Features(torch.zeros(4, 1), None), torch.zeros(4)) == {}


def test_logits_belong_to_the_photographs_classes_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    features = Features(torch.zeros(2, 1), torch.zeros(2, 3))
    numbers = logit_of_class(features, ["red", "mauve", "blue"], list(COLOURS))
    assert numbers is not None
    assert numbers.tolist() == [2, -1, 0]
    assert logit_of_class(features, [], list(COLOURS)) is None  # a model without classes is asked for none
    assert logit_of_class(features, ["red"], ["red", "blue"]) is None
    assert "3 logits for 2 classes" in capsys.readouterr().err


def test_photographs_are_recognised_as_they_should(
    photographs: Path, model: Path, network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "reconstruction", "--model", str(model), "--data", str(photographs), "--json"]
    report = report_of([*words, "--features", str(network)], capsys)
    assert report["recognised_photographs"] == pytest.approx(27 / 30)
    assert report["recognised_photographs_error"] == pytest.approx((0.9 * 0.1 / 30) ** 0.5)
    # A random tokenizer's pictures, counted by hand.
    assert {"recognised", "recognised_top_alone"} <= set(report)

    loaded, seen = StraIT.from_pretrained(model), open_features(str(network), torch.device("cpu"))
    right = {"recognised": 0, "recognised_top_alone": 0}
    for label, name in enumerate(COLOURS):
        for number in range(10):
            pixels = np.asarray(Image.open(photographs / name / f"{number}.png").resize((16, 16)))
            image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
            tokens = loaded.tokenizer.encode(image)
            for key, levels in (("recognised", None), ("recognised_top_alone", 1)):
                logits = seen(loaded.tokenizer.decode(tokens, levels)).logits
                assert logits is not None
                right[key] += int(logits.argmax()) == label
    for key, count in right.items():
        assert report[key] == pytest.approx(count / 30), key


def test_generated_images_are_judged_by_the_class_asked_for(
    photographs: Path, model: Path, network: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a decoder that paints each sample in a colour of its own, the share is known."""
    from strait.evaluation import generation

    painted = ["red", "red", "blue", "green", "green", "green", "red", "blue", "blue"]  # red, mauve, blue are asked

    def by_hand(model: object, sample_set: generation.SampleSet, ranks: object = None) -> object:
        for start in range(0, sample_set.samples, 4):
            pixels = torch.tensor([COLOURS[name] for name in painted[start : min(start + 4, sample_set.samples)]])
            yield (pixels.float() / 127.5 - 1)[:, :, None, None].expand(-1, -1, 16, 16).contiguous()

    monkeypatch.setattr(generation, "generated", by_hand)
    words = ["evaluate", "generation", "--model", str(model), "--data", str(photographs), "--samples", "9"]
    report = report_of([*words, "--guidance", "0", "--features", str(network), "--json"], capsys)
    # Asked red (1st, 4th, 7th): red, green, red; asked blue (3rd, 6th, 9th): blue, green, blue. Nobody knows mauve.
    assert report["recognised"] == pytest.approx(4 / 6)
    assert report["recognised_error"] == pytest.approx((4 / 6 * 2 / 6 / 6) ** 0.5)
    assert report["recognised_of"]["photographs"]["recognised"] == pytest.approx(0.9)
    assert main([*words, "--guidance", "0", "--features", str(network)]) == 0
    table = capsys.readouterr().out
    assert "recognised of photographs: 0.900" in table
    assert "0.667" in table


def test_efficientnet_scores_without_a_file(
    photographs: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "reconstruction", "--model", str(model), "--data", str(photographs), "--json"]
    report = report_of([*words, "--features", "efficientnet", "--samples", "4"], capsys)
    assert report["provenance"]["features"]["network"] == "efficientnet-lite1"
    assert report["rfid"] > 0
    assert "recognised" not in report
    seen = open_features("efficientnet", torch.device("cpu"))
    assert seen(torch.zeros(2, 3, 32, 32)).values.shape == (2, 320)


def test_a_table_has_the_shares_of_its_rows(
    photographs: Path, model: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    words = ["--model", str(model), "--data", str(photographs), "--features", str(network), "--json"]
    reconstructions = report_of(["evaluate", "reconstruction", *words], capsys)
    words += ["--output", str(tmp_path / "tables"), "--samples", "9", "--search-samples", "0"]
    report = report_of(["table", "10", *words], capsys)
    for row in report["rows"]:
        assert row["scores"]["reconstructions_recognised"] == reconstructions["recognised"]
    head, _, *lines = (tmp_path / "tables" / "table-10.md").read_text().splitlines()[2:]
    titles = [title.strip() for title in head.split("|")]
    for row, line in zip(report["rows"], lines, strict=False):
        cells = dict(zip(titles, (cell.strip() for cell in line.split("|")), strict=True))
        share, error = (row["scores"][name] for name in ("recognised", "recognised_error"))
        value, _, spread = cells["recognised"].partition(" ± ")
        assert float(value) == pytest.approx(share, abs=6e-4)
        assert float(spread or 0) == pytest.approx(error, abs=6e-4)
