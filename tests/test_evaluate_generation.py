"""`strait evaluate generation`: what a score depends on stands beside it, and nothing else changes it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from strait.cli import main
from strait.data.sources import FolderSource
from strait.decoding.config import DecodingConfig
from strait.evaluation.features import (
    FeatureError,
    FeatureNetwork,
    Features,
    TorchScriptFeatures,
    open_features,
)
from strait.evaluation.fidelity import Summary, fidelity, frechet_distance
from strait.evaluation.generation import Judge, SampleSet, generated
from strait.evaluation.provenance import photographs_in_words
from strait.evaluation.reconstruction import evaluate_reconstruction
from strait.evaluation.reference import ReferenceSet, reference_features
from strait.model.config import ModelConfig
from strait.model.strait import StraIT, random_model
from strait.pictures.images import as_bytes
from strait.tokenizer.config import TokenizerConfig
from strait.transformer.config import TransformerConfig
from strait.types import Tokens

SMALL = TransformerConfig(layers=1, width=16, mlp=24, heads=2)
TOKENIZER = TokenizerConfig(
    channels=8, multipliers=(1, 1, 2), res_blocks=1, stem_blocks=1, codebook_size=12, code_dim=4
)
CPU = torch.device("cpu")


class Network(nn.Module):
    """Means of the colours over a grid, and logits from them."""

    def __init__(self, logits: bool = True) -> None:
        super().__init__()
        self.logits = logits
        self.head = nn.Linear(12, 5)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = nn.functional.adaptive_avg_pool2d(images, (2, 2)).flatten(1) / 255
        return features, self.head(features) * 20


class WithoutLogits(nn.Module):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean((2, 3))


class ThreeThings(nn.Module):
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return images, images, images


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STRAIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def network(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    torch.jit.script(Network()).save(str(tmp_path / "network.pt"))
    return tmp_path / "network.pt"


@pytest.fixture
def model(photo_folder: Path, tmp_path: Path) -> Path:
    classes = sorted(path.name for path in photo_folder.iterdir())
    untrained_model = random_model(ModelConfig(16, TOKENIZER, SMALL, SMALL), classes, seed=1)
    with torch.no_grad():  # As initialised, classes hardly move the logits, and guidance changes no token.
        for name, weight in untrained_model.named_parameters():
            if name.startswith(("top.", "bottom.")) and "norm" not in name:
                weight.mul_(8)
    untrained_model.decoding = DecodingConfig(steps=(2, 2), temperature=(1.0, 1.0))
    untrained_model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def report_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict:
    assert main(words) == 0
    return json.loads(capsys.readouterr().out)


def test_the_command(photo_folder: Path, network: Path, model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", "generation", "--model", str(model), "--data", str(photo_folder), "--features", str(network)]
    words += ["--samples", "24", "--seed", "3", "--json"]
    report = report_of(words, capsys)
    assert {"fid", "inception_score", "inception_score_std", "precision", "recall", "samples", "provenance"} <= set(
        report
    )
    assert report["samples"] == 24
    about = report["provenance"]
    assert about["features"]["network"] == "network.pt"
    assert about["reference"]["fingerprint"] == FolderSource(photo_folder).fingerprint()
    assert about["reference"]["images"] == 40
    assert about["samples"]["seed"] == 3
    assert about["samples"]["decoding"]["steps"] == [2, 2]
    assert about["model"] == StraIT.from_pretrained(model).weights_hash()
    assert about["samples"]["batch_size"] == 50
    assert about["versions"]["torch"] == torch.__version__
    assert {"crop", "filter", "order", "size"} <= set(about["reference"])
    # By hand, from the same images and photographs.
    loaded = StraIT.from_pretrained(model)
    images = torch.cat(list(generated(loaded, SampleSet(24, 3, loaded.decoding))))
    features = open_features(str(network), CPU)
    real = reference_features(ReferenceSet(FolderSource(photo_folder), "validation", 16), features, CPU)
    assert report["fid"] == pytest.approx(frechet_distance(features(images).values, real.values), rel=1e-9)
    # All four against the reconstructions of the same photographs, too.
    again = reconstructions(loaded, photo_folder, features)
    against = fidelity(again, Summary(features(images)))
    assert {name: report["against_reconstructions"][name] for name in against} == pytest.approx(against, rel=1e-6)
    assert report["fid_to_reconstructions"] == report["against_reconstructions"]["fid"]
    assert against["recall"] != report["recall"] or against["precision"] != report["precision"]
    # Batches change nothing, guidance is judged with and without.
    again = report_of([*words, "--batch-size", "7"], capsys)
    assert again["fid"] == pytest.approx(report["fid"], rel=1e-6)
    guided = report_of([*words, "--guidance", "2"], capsys)
    assert guided["without_guidance"]["fid"] == pytest.approx(report["fid"], rel=1e-9)
    assert guided["fid"] != report["fid"]
    assert main(words[:-1]) == 0
    table = capsys.readouterr().out
    for value in (f"{report['fid']:.3f}", about["features"]["digest"], about["reference"]["fingerprint"], "seed 3"):
        assert value in table
    for value in (
        "centre square",
        "lanczos",
        "class i modulo",
        about["model"],
        torch.__version__,
        "thread(s)",
        "k = 3",
    ):
        assert value in table, value
    assert f"{against['fid']:.3f}" in table


def reconstructions(model: StraIT, photographs: Path, network: FeatureNetwork) -> Features:
    """The features of a folder's photographs as a model's tokenizer gives them back."""
    reference = ReferenceSet(FolderSource(photographs), "all", 16)
    return reference_features(
        reference, network, CPU, lambda images: model.tokenizer.decode(model.tokenizer.encode(images)), "again"
    )


def test_samples_are_numbered(model: Path) -> None:
    loaded = StraIT.from_pretrained(model)
    settings = loaded.decoding
    many = torch.cat(list(generated(loaded, SampleSet(9, 0, settings, batch_size=4))))
    few = torch.cat(list(generated(loaded, SampleSet(5, 0, settings, batch_size=2))))
    assert torch.equal(many[:5], few)
    sixth = loaded.decode(
        type(loaded.tokenizer.encode(many[:1]))(
            tuple(
                step.canvas.as_grid()
                for step in loaded.decoding_steps(torch.tensor([6 % 4]), 0, torch.tensor([6]), settings)
                if step.index == step.num_steps - 1
            )
        )
    )
    assert torch.equal(sixth[0], many[6])


def test_real_images_score_as_the_floor(
    photo_folder: Path, network: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "validation"):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / split).symlink_to(photo_folder)
    words = ["evaluate", "generation", "--model", str(model), "--data", str(tmp_path / "data"), "--json"]
    report = report_of([*words, "--features", str(network), "--samples", "40"], capsys)
    # The same pictures on both sides.
    assert report["floor"]["fid"] == pytest.approx(0, abs=1e-6)
    assert report["floor"]["precision"] == report["floor"]["recall"] == 1.0
    assert report["fid"] > 0.01
    # What the floor depends on stands beside it: photographs of both splits.
    about = report["floor"]["provenance"]
    assert about["photographs"]["split"] == "train"
    assert about["photographs"]["fingerprint"] == FolderSource(photo_folder).fingerprint()
    assert about["reference"] == report["provenance"]["reference"]
    assert about["features"] == report["provenance"]["features"]
    assert main([*words[:-1], "--features", str(network), "--samples", "40"]) == 0
    assert f"floor: {photographs_in_words(about['photographs'])}" in capsys.readouterr().out


def test_the_reference_is_read_once_and_a_damaged_cache_is_made_again(
    photo_folder: Path, network: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    features = open_features(str(network), CPU)
    reference = ReferenceSet(FolderSource(photo_folder), "validation", 16, 12)
    first = reference_features(reference, features, CPU)
    assert len(first) == 12
    (file,) = cache.glob("features-*")
    reads = 0
    read = FolderSource.read

    def counted(self: FolderSource, index: int):
        nonlocal reads
        reads += 1
        return read(self, index)

    monkeypatch.setattr(FolderSource, "read", counted)
    assert torch.equal(reference_features(reference, features, CPU).values, first.values)
    assert reads == 0
    file.write_bytes(file.read_bytes()[:100])
    assert torch.equal(reference_features(reference, features, CPU).values, first.values)
    assert reads == 12
    assert "damaged and is computed again" in capsys.readouterr().err
    # Another size, count or way through is another entry.
    reference_features(ReferenceSet(reference.source, "validation", 8, 12), features, CPU)
    reference_features(ReferenceSet(reference.source, "validation", 16, 13), features, CPU)
    reference_features(reference, features, CPU, lambda images: -images, "negative")
    assert len(list(cache.glob("features-*"))) == 4


def test_features_that_cannot_be_kept_are_used_all_the_same(
    photo_folder: Path, network: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    features = open_features(str(network), CPU)
    reference = ReferenceSet(FolderSource(photo_folder), "validation", 16, 12)
    first = reference_features(reference, features, CPU)
    shutil.rmtree(cache)
    cache.write_text("")  # a file in the folder's place: nothing can be put there, whoever asks
    assert torch.equal(reference_features(reference, features, CPU).values, first.values)
    assert "cannot be written; it is computed again the next time" in capsys.readouterr().err


def rewritten(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """A cache file of sound format whose content is not what was kept, with its note as it was."""
    with safe_open(str(file), framework="pt") as opened:
        tensors, note = {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118
    change(tensors)
    save_file(tensors, str(file), note)


def flip_a_bit(tensors: dict[str, torch.Tensor]) -> None:
    tensors["values"].view(torch.int32)[3, 5] ^= 1


def lose_a_row(tensors: dict[str, torch.Tensor]) -> None:
    tensors.update({name: value[1:].clone() for name, value in tensors.items()})


def lose_the_logits(tensors: dict[str, torch.Tensor]) -> None:
    del tensors["logits"]


@pytest.mark.parametrize("change", [flip_a_bit, lose_a_row, lose_the_logits])
def test_a_cache_that_reads_well_but_was_changed_is_made_again(
    change: Callable[[dict[str, torch.Tensor]], object],
    photo_folder: Path,
    network: Path,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    features = open_features(str(network), CPU)
    reference = ReferenceSet(FolderSource(photo_folder), "validation", 16, 12)
    first = reference_features(reference, features, CPU)
    (file,) = cache.glob("features-*")
    content = file.read_bytes()
    rewritten(file, lambda tensors: None)
    capsys.readouterr()
    reference_features(reference, features, CPU)
    assert "damaged" not in capsys.readouterr().err, "the control: the same content is accepted"
    rewritten(file, change)
    again = reference_features(reference, features, CPU)
    assert "is damaged and is computed again" in capsys.readouterr().err
    assert torch.equal(again.values, first.values)
    assert file.read_bytes() == content
    # Nor is one set's file another's.
    larger_set = ReferenceSet(reference.source, "validation", 16, 13)
    reference_features(larger_set, features, CPU)
    (second,) = set(cache.glob("features-*")) - {file}
    second.write_bytes(content)
    assert len(reference_features(larger_set, features, CPU)) == 13
    assert "its content does not match its hash" in capsys.readouterr().err


class Blind(nn.Module):
    """Features that are no numbers for bright images."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        values = nn.functional.adaptive_avg_pool2d(images, (2, 2)).flatten(1)
        bright = (images.mean((1, 2, 3)) > 254).unsqueeze(1)
        return torch.where(bright, torch.full_like(values, float("nan")), values)


class Whitens(nn.Module):
    """A tokenizer that gives black pictures back white, and others as they are."""

    levels = 2

    def __init__(self, tokenizer: nn.Module) -> None:
        super().__init__()
        self.tokenizer, self.black = tokenizer, torch.zeros(0, dtype=torch.bool)

    def encode(self, images: torch.Tensor) -> Tokens:
        self.black = images.amax((1, 2, 3)) < -0.99
        return self.tokenizer.encode(images)

    def decode(self, tokens: Tokens, levels: int | None = None) -> torch.Tensor:
        images = self.tokenizer.decode(tokens, levels)
        if tokens.batch != len(self.black):
            return images
        return torch.where(self.black[:, None, None, None], torch.ones_like(images), images)


@pytest.fixture
def with_one(photo_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Photographs, the first of which is damaged and one of which is of a single colour."""

    def make(colour: tuple[int, int, int], index: int) -> Path:
        folder = tmp_path / "with one"
        shutil.copytree(photo_folder, folder)
        files = sorted(folder.rglob("*.jpg"))
        files[0].write_bytes(b"no picture")
        Image.new("RGB", (30, 30), colour).save(files[index], quality=95)
        return folder

    return make


@pytest.mark.parametrize("what", ["reconstruction", "generation"])
def test_a_photograph_without_features_is_named_by_its_number(
    what: str,
    with_one: Callable[..., Path],
    model: Path,
    tmp_path: Path,
    cache: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One is skipped before it, half are left out, and reconstructions come permuted."""
    data = with_one((255, 255, 255), 26)
    torch.jit.script(Blind()).save(str(tmp_path / "blind.pt"))
    words = ["evaluate", what, "--model", str(model), "--data", str(data), "--features", str(tmp_path / "blind.pt")]
    assert main([*words, "--samples", "20"]) == 2
    assert "those of validation image 26 are not finite" in capsys.readouterr().err
    assert not list(cache.glob("features-*")), "nothing is kept of it"


@pytest.mark.parametrize("what", ["reconstruction", "generation"])
def test_a_reconstruction_without_features_is_named_by_its_photograph(
    what: str, with_one: Callable[..., Path], model: Path, tmp_path: Path, cache: Path
) -> None:
    torch.jit.script(Blind()).save(str(tmp_path / "blind.pt"))
    features, source = open_features(str(tmp_path / "blind.pt"), CPU), FolderSource(with_one((0, 0, 0), 26))
    loaded = StraIT.from_pretrained(model)
    loaded.tokenizer = Whitens(loaded.tokenizer)  # type: ignore[assignment]
    judge = {
        "reconstruction": lambda: evaluate_reconstruction(loaded, source, 20, network=features),
        "generation": lambda: Judge(loaded, source, features, "validation"),
    }
    with pytest.raises(FeatureError, match=r"those of reconstructed (validation )?image 26 are not finite"):
        judge[what]()
    assert len(list(cache.glob("features-*"))) == 1, "those of the photographs alone are kept"


def test_a_network_without_logits(
    photo_folder: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.jit.script(WithoutLogits()).save(str(tmp_path / "plain.pt"))
    words = ["evaluate", "generation", "--model", str(model), "--data", str(photo_folder), "--samples", "20", "--json"]
    assert main([*words, "--features", str(tmp_path / "plain.pt")]) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert report["inception_score"] is None
    assert report["fid"] >= 0
    assert "no logits" in printed.err
    assert "contains code that is run" in printed.err


def test_networks_that_cannot_be_used_say_so(tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match="there is no file"):
        open_features(str(tmp_path / "none.pt"), CPU)
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(FeatureError, match="is not a TorchScript file"):
        open_features(str(tmp_path / "text.pt"), CPU)
    torch.jit.script(ThreeThings()).save(str(tmp_path / "three.pt"))
    with pytest.raises(FeatureError, match=r"three\.pt must return features \[batch, width\], not tuple"):
        open_features(str(tmp_path / "three.pt"), CPU)(torch.zeros(2, 3, 8, 8))


def test_pixels_are_those_of_a_png() -> None:
    every = torch.arange(256).float() / 127.5 - 1
    assert as_bytes(every).tolist() == list(range(256))
    assert as_bytes(torch.tensor([-2.0, 2.0])).tolist() == [0, 255]


def test_tokenizers_side_by_side(
    photo_folder: Path, network: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each figure is what the tokenizer alone gets, and the Fréchet distance that of its own reconstructions."""
    rival = random_model(ModelConfig(16, TOKENIZER, SMALL, SMALL), [], seed=2)
    rival.save_pretrained(tmp_path / "other")
    words = ["evaluate", "reconstruction", "--data", str(photo_folder), "--features", str(network), "--json"]
    alone = report_of([*words, "--model", str(model)], capsys)
    both = report_of(
        [*words, "--model", str(model), "--against", str(tmp_path / "other"), "--grid", str(tmp_path / "sheet.png")],
        capsys,
    )
    assert both[str(model)] == alone
    about = alone["provenance"]
    assert about["features"]["digest"] == hashlib.sha256(network.read_bytes()).hexdigest()[:12]
    assert about["reference"]["fingerprint"] == FolderSource(photo_folder).fingerprint()
    assert about["reference"]["images"] == 40
    assert about["model"] == StraIT.from_pretrained(model).weights_hash()
    assert both[str(tmp_path / "other")]["provenance"]["model"] == rival.weights_hash()
    assert both[str(tmp_path / "other")]["psnr"] != alone["psnr"]
    features = open_features(str(network), CPU)
    source = FolderSource(photo_folder)
    real = reference_features(ReferenceSet(source, "all", 16), features, CPU)
    again = reconstructions(StraIT.from_pretrained(model), photo_folder, features)
    assert alone["rfid"] == pytest.approx(frechet_distance(again.values, real.values), rel=1e-5)
    rows, columns = 1 + 2 * 2, 8
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (columns * (16 + 2) + 2, rows * (16 + 2 + 16) + 2)
    assert main([*words[:-1], "--model", str(model), "--against", str(tmp_path / "other")]) == 0
    table = capsys.readouterr().out
    for value in (about["features"]["digest"], about["reference"]["fingerprint"], "lanczos", rival.weights_hash()):
        assert value in table


def test_photographs_are_looked_at_once_for_all_tokenizers(
    photo_folder: Path, network: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random_model(ModelConfig(16, TOKENIZER, SMALL, SMALL), [], seed=2).save_pretrained(tmp_path / "other")
    seen: list[int] = []
    plain = TorchScriptFeatures.__call__

    def counted(self: TorchScriptFeatures, images: torch.Tensor) -> Features:
        seen.append(len(images))
        return plain(self, images)

    monkeypatch.setattr(TorchScriptFeatures, "__call__", counted)
    words = ["evaluate", "reconstruction", "--data", str(photo_folder), "--features", str(network), "--json"]
    assert main([*words, "--model", str(model), "--against", str(tmp_path / "other")]) == 0
    assert sum(seen) == 5 * 40  # the photographs; of each of two, all levels and the top alone
    assert main([*words, "--model", str(model)]) == 0
    assert sum(seen) == 7 * 40


def test_few_images_are_warned_of(
    photo_folder: Path, network: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "reconstruction", "--data", str(photo_folder), "--features", str(network), "--json"]
    report_of([*words, "--model", str(model), "--samples", "12"], capsys)
    assert main([*words, "--model", str(model), "--samples", "11"]) == 0
    assert "11 images are fewer than the 12 dimensions of the features" in capsys.readouterr().err


def test_what_is_timed_has_been_done_before(
    photo_folder: Path, network: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first batch of a kind sets things up, and is not counted."""
    loaded = StraIT.from_pretrained(model)
    judge = Judge(loaded, FolderSource(photo_folder), open_features(str(network), CPU), "all")
    clock, calls = [0.0], []
    decode = loaded.decode

    def slow(tokens: Tokens) -> torch.Tensor:
        calls.append(tokens.batch)
        clock[0] += 100.0 if len(calls) == 1 else 1.0
        return decode(tokens)

    monkeypatch.setattr(loaded, "decode", slow)
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    sample_set = SampleSet(12, 0, loaded.decoding, batch_size=6)
    assert judge.scores(sample_set)["seconds_per_image"] == pytest.approx(2 / 12)
    assert calls == [6, 6, 6]
    judge.scores(sample_set)
    assert calls == [6] * 5, "once is enough"


def test_ssim_is_one_for_equal_images_alone() -> None:
    pytest.importorskip("torchmetrics")
    from strait.evaluation.reconstruction import _distances

    images = torch.rand(3, 3, 32, 32) * 2 - 1
    ssim = _distances(CPU)["ssim"]
    assert float(ssim(images, images)) == pytest.approx(1, abs=1e-5)
    assert float(ssim(images.flip(-1), images)) < 0.5


def test_any_number_of_processes_gives_the_same_set_of_images(
    photo_folder: Path, network: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Seven batches over three processes, in a real launch: the features come together in their order."""
    words = ["evaluate", "generation", "--model", str(model), "--data", str(photo_folder)]
    words += ["--features", str(network), "--samples", "25", "--batch-size", "4", "--guidance", "0.5", "--json"]

    def scores(printed: str, processes: int) -> dict:
        report = json.loads(printed)  # one object: the other processes say nothing there
        assert report["provenance"].pop("hardware")["processes"] == processes
        for part in (report, report["without_guidance"]):
            assert part.pop("seconds_per_image") > 0
        return report

    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "3"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launch, "-m", "strait.cli", *words], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    capsys.readouterr()
    assert main(words) == 0
    assert scores(done.stdout, 3) == scores(capsys.readouterr().out, 1)


@pytest.mark.parametrize("what", ["generation", "reconstruction"])
def test_photographs_in_both_splits_are_counted_aloud(
    what: str, model: Path, network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"train": range(8), "val": range(5, 12)}
    for split, numbers in names.items():
        (tmp_path / "data" / split / "a").mkdir(parents=True)
        for number in numbers:
            pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / split / "a" / f"{split}-{number}.png")
    words = ["evaluate", what, "--model", str(model), "--data", str(tmp_path / "data"), "--features", str(network)]
    words += ["--samples", "6", "--json"]
    assert main(words) == 0
    messages = capsys.readouterr().err
    assert f"--data: 3 of the 7 validation images of {tmp_path / 'data'} are also training images" in messages
    assert main([*words, "--split", "train"]) == 0
    assert "are among the training images" not in capsys.readouterr().err
    for number in range(5, 8):
        (tmp_path / "data" / "val" / "a" / f"val-{number}.png").unlink()
    words[words.index("--samples") + 1] = "4" if what == "reconstruction" else "6"
    assert main(words) == 0
    assert "are among the training images" not in capsys.readouterr().err
