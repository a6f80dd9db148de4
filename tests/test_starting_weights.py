"""Training that starts from another model: of other classes, and from the one that ships."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from strait.cli import main
from strait.config import config_path, read_config
from strait.decoding.config import DecodingConfig
from strait.model.config import ModelError
from strait.model.folder import SHIPPED, write_description
from strait.model.hub import find_folder
from strait.model.parts import build_part
from strait.model.strait import StraIT, random_model
from strait.runs.starting_weights import fitting_configs, start_from, start_with_what_fits
from strait.tokenizer.build import build_tokenizer
from strait.tokenizer.classifier import Classifier
from strait.tokenizer.config import ClassifierConfig
from strait.types import Canvas, Condition
from test_model_folder import CLASSES, CONFIG


@pytest.mark.parametrize("part", ["top", "bottom"])
@pytest.mark.parametrize("source", ["shipped", "of WordNet ids"])
def test_a_known_class_keeps_its_logits_and_a_new_one_begins_as_none(source: str, part: str, tmp_path: Path) -> None:
    folder, names = SHIPPED, ["Red Apple", "0", "lemon"]
    if source != "shipped":
        random_model(CONFIG, CLASSES, seed=1).save_pretrained(tmp_path)
        folder, names = tmp_path, ["Goldfish", "0", "n04399382 teddy"]
    model = StraIT.from_pretrained(folder, pack=False)
    theirs, level = model.part(part).eval(), 0 if part == "top" else 1
    module = build_part(model.config, part, 3).eval()
    start_from(folder, part, module, model.config, names)
    draws = torch.Generator().manual_seed(0)
    codes = model.config.tokenizer.codebook_size
    grids = [torch.randint(codes, (1, *grid), generator=draws) for grid in model.config.grids]
    canvas = Canvas.blank(1, model.config.grids[level], "cpu")

    def logits(network: torch.nn.Module, label: int) -> torch.Tensor:
        with torch.no_grad():
            return network.bind(Condition(torch.tensor([label]), tuple(grids[:level])))(canvas)

    for new_label, old_label in (
        (0, model.classes.find(names[0])),
        (1, -1),
        (2, model.classes.find(names[2])),
        (-1, -1),
    ):
        assert torch.equal(logits(module, new_label), logits(theirs, old_label))
    assert not torch.equal(logits(module, 0), logits(module, 1))


@pytest.mark.parametrize("names", [["lemon", "Teddy", "0"], ["teddy", "goldfish"]])
def test_a_classifier_keeps_the_logits_of_known_classes(names: list[str], tmp_path: Path) -> None:
    """The other has three classes: of another number of classes, and of one in another order."""
    theirs = ["goldfish", "teddy", "lemon"][: 5 - len(names)]
    random_model(CONFIG, theirs).save_pretrained(tmp_path)
    config = ClassifierConfig(channels=8, multipliers=(1, 2))
    torch.manual_seed(1)
    source, module = Classifier(config, len(theirs)), Classifier(config, len(names))
    save_file(source.state_dict(), tmp_path / "classifier.safetensors")
    unknown = module.head.weight.detach().clone()
    start_from(tmp_path, "classifier", module, CONFIG, names)
    images = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        before, after = source(images), module(images)
    for column, name in enumerate(names):
        if name.casefold() in theirs:
            assert torch.equal(after[:, column], before[:, theirs.index(name.casefold())])
        else:
            assert torch.equal(module.head.weight[column], unknown[column])


@pytest.mark.parametrize("kind", ["vqgan2-r", "vqgan2-c-deep", "vqgan", "cascade"])
def test_a_tokenizer_of_another_kind_starts_with_the_weights_that_fit(kind: str, tmp_path: Path) -> None:
    random_model(CONFIG, CLASSES, seed=1).save_pretrained(tmp_path)
    theirs = load_file(tmp_path / "tokenizer.safetensors")
    tokenizer = build_tokenizer(dataclasses.replace(CONFIG.tokenizer, kind=kind))
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    others = start_with_what_fits(tmp_path, "tokenizer", tokenizer)
    assert (others == []) == (kind in ("vqgan2-r", "vqgan"))
    for name, value in tokenizer.state_dict().items():
        plain = name.split(".", 1)[1] if kind == "cascade" else name
        fits = plain in theirs and theirs[plain].shape == value.shape
        assert fits == (name not in others)
        assert torch.equal(value, theirs[plain] if fits else before[name])


def test_weights_of_another_shape_are_refused_by_name() -> None:
    config = StraIT.from_pretrained().config
    small = dataclasses.replace(config, top=dataclasses.replace(config.top, layers=2))
    with pytest.raises(ModelError, match=r"top\.safetensors does not fit"):
        start_from(SHIPPED, "top", build_part(small, "top", 3), small, ["a", "b", "c"])


def test_shipped_names_the_packages_model_unless_a_folder_has_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_folder("shipped") == SHIPPED
    (tmp_path / "shipped").mkdir()
    assert find_folder("shipped") == Path("shipped")


def test_a_kept_tokenizer_is_the_others_bit_for_bit_and_a_folders_own_is_never_replaced(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, shipped = tmp_path / "model", (SHIPPED / "tokenizer.safetensors").read_bytes()
    few = ["--run.compile", "false", "--data.cache_variants", "1"]
    for part in ("top", "bottom"):
        few += [f"--{part}_training.steps", "1", f"--{part}_training.batch_size", "4"]
    data = ["--config", "nature128-cpu", "--data", str(photo_folder), "--model", str(model)]
    keep = [*data, *few, "--init-from", "shipped", "--keep-tokenizer"]
    assert main(["train", *keep]) == 0
    assert (model / "tokenizer.safetensors").read_bytes() == shipped
    assert {path.stem for path in model.glob("*.safetensors")} == {"tokenizer", "top", "bottom"}
    assert main(["train", *keep]) == 0
    assert "top: already finished" in capsys.readouterr().err
    assert main(["generate", "--model", str(model), "--count", "2", "--output", str(tmp_path / "out")]) == 0

    def refused(*words: str) -> str:
        assert main(["train", *words]) == 2
        return capsys.readouterr().err

    assert "--keep-tokenizer: the tokenizer cannot be trained with this option" in refused("tokenizer", *keep)
    assert "--keep-tokenizer: name the model with this tokenizer" in refused(*data, *few, "--keep-tokenizer")
    content = b"of the user's own"
    (model / "tokenizer.safetensors").write_bytes(content)
    assert "already has another tokenizer" in refused(*keep)
    assert (model / "tokenizer.safetensors").read_bytes() == content


def test_a_folder_with_a_tokenizer_alone_gives_that(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, model = tmp_path / "tokenizer-alone", tmp_path / "model"
    source.mkdir()
    for name in ("config.json", "classes.txt", "tokenizer.safetensors"):
        (source / name).write_bytes((SHIPPED / name).read_bytes())
    words = ["train", "top", "--config", "nature128-cpu", "--data", str(photo_folder), "--model", str(model)]
    words += ["--run.compile", "false", "--data.cache_variants", "1", "--top_training.steps", "1"]
    words += ["--top_training.batch_size", "4", "--init-from", str(source)]
    assert main(words) == 2
    assert f"--init-from: {source} has no top\n" in capsys.readouterr().err
    assert main([*words, "--keep-tokenizer"]) == 0
    assert f"--init-from: {source} has no top; it starts from random weights\n" in capsys.readouterr().err
    assert (model / "tokenizer.safetensors").read_bytes() == (source / "tokenizer.safetensors").read_bytes()
    assert (model / "top.safetensors").exists()


def test_training_of_ones_own_folder_goes_on_from_the_model_that_ships(photo_folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    few = ["--run.compile", "false", "--data.cache_variants", "1", "--tokenizer_training.codebook.start", "0"]
    for part in ("tokenizer", "top", "bottom"):
        few += [f"--{part}_training.steps", "1", f"--{part}_training.batch_size", "4"]
        few += [f"--{part}_training.learning_rate", "1e-9", f"--{part}_training.warmup_steps", "0"]
    words = ["train", "--config", "nature128-cpu", "--data", str(photo_folder), "--model", str(model)]
    assert main([*words, "--init-from", "shipped", *few]) == 0
    assert (model / "classes.txt").read_text().split("\n")[0] != (SHIPPED / "classes.txt").read_text().split("\n")[0]
    for part in ("tokenizer", "top", "bottom"):
        begun, ours = load_file(SHIPPED / f"{part}.safetensors"), load_file(model / f"{part}.safetensors")
        assert begun.keys() == ours.keys()
        for name in (name for name in begun if "codebook" not in name and not name.endswith("ids.weight")):
            torch.testing.assert_close(ours[name].float(), begun[name].float(), atol=1e-3, rtol=0)
    sheet = tmp_path / "sheet.png"
    assert main(["generate", "--model", str(model), "--count", "2", "--grid", str(sheet)]) == 0
    with Image.open(sheet) as picture:
        assert picture.size == (2 * (128 + 2) + 2, 128 + 2 + 2)


def test_a_configuration_of_another_shape_is_refused_with_the_one_that_fits(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--config", "smoke", "--data", str(photo_folder), "--model", str(tmp_path / "model")]
    for more in ([], ["--keep-tokenizer"]):
        assert main([*words, "--init-from", "shipped", *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "does not fit this configuration; use --config nature128-cpu" in line
    assert not (tmp_path / "model").exists()


def test_the_configuration_of_a_models_shape_is_known_by_any_dropout(tmp_path: Path) -> None:
    """Dropout is a matter of training; width is one of shape."""
    model = read_config(config_path("nature128-cpu")).model
    for name, top, fitting in (
        ("dropped", dataclasses.replace(model.top, dropout=0.3), ["nature128-cpu"]),
        ("wider", dataclasses.replace(model.top, width=512), []),
    ):
        write_description(tmp_path / name, dataclasses.replace(model, top=top), [], DecodingConfig())
        assert fitting_configs(tmp_path / name) == fitting


def test_the_configuration_of_a_model_to_start_from_is_implied(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--run.compile", "false", "--tokenizer_training.steps", "1", "--tokenizer_training.batch_size", "4"]
    words = ["train", "tokenizer", "--data", str(photo_folder), "--model", str(tmp_path / "model")]
    words += ["--init-from", "shipped", "--tokenizer_training.codebook.start", "0", *few]
    assert main(words) == 0
    assert "--config: nature128-cpu, which has the shape of shipped" in capsys.readouterr().err
    stored = read_config(tmp_path / "model" / "runs" / "config.yaml")
    assert stored.model == read_config(config_path("nature128-cpu")).model
    assert stored.tokenizer_training.steps == 1
