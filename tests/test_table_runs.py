"""Tables as commands: what makes a row another row, what its figures depend on, budgets, and stops."""

from __future__ import annotations

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from strait.cli import main
from strait.config import config_path, read_config
from strait.data.sources import open_images
from strait.evaluation.features import open_features
from strait.evaluation.fidelity import frechet_distance
from strait.evaluation.provenance import decoding_in_words, photographs_in_words
from strait.evaluation.reference import ReferenceSet, reference_features
from strait.model.strait import StraIT, random_model
from strait.runs import budget as budget_file
from strait.runtime.stop import Stop
from strait.tables import search
from strait.training.pace import mean_seconds
from test_model_folder import CLASSES, CONFIG
from test_tables import words  # noqa: F401


@pytest.fixture
def split_folder(photo_folder: Path, tmp_path: Path) -> Path:
    """The same photographs, with sixteen of them kept apart."""
    for file in sorted(photo_folder.rglob("*.jpg")):
        split = "validation" if int(file.stem) < 4 else "train"
        target = tmp_path / "split" / split / file.parent.name / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, target)
    return tmp_path / "split"


@pytest.fixture
def untrained(words: list[str]) -> list[str]:  # noqa: F811
    """What a table of one model says: no configuration, nothing to train."""
    return words[2 : words.index("--tokenizer_training.steps")]


@pytest.fixture
def of_small(untrained: list[str], tmp_path: Path) -> list[str]:
    """The same of a small model, whose images are there in a moment."""
    random_model(CONFIG, CLASSES).save_pretrained(tmp_path / "model")
    return [*untrained, "--model", str(tmp_path / "model")]


def decodings(report: dict) -> list[dict]:
    return [row["provenance"]["samples"]["decoding"] for row in report["rows"]]


def test_everything_that_figures_depend_on_is_in_the_page(
    untrained: list[str], split_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*untrained, "--data", str(split_folder), "--samples", "6", "--search-samples", "0", "--seeds", "2"]  # noqa: F811
    assert main(["table", "3", *words]) == 0
    report = json.loads(capsys.readouterr().out)
    text = (tmp_path / "tables" / "table-3.md").read_text()
    about = report["rows"][0]["provenance"]
    for value in ("lanczos", "centre square", "class i modulo", "seed 0, 1", about["model"], "k = 3"):
        assert value in text, value
    for value in (about["reference"]["fingerprint"], about["versions"]["torch"], about["hardware"]["device"]):
        assert value in text, value
    for row in report["rows"]:
        assert decoding_in_words(row["provenance"]["samples"]["decoding"]) in text
    floor = report["floor"]["provenance"]["photographs"]
    assert floor["fingerprint"] == open_images(str(split_folder), "train").fingerprint()
    assert floor["images"] == 6
    assert f"floor: {photographs_in_words(floor)}" in text


def test_rows_of_tokenizers_have_errors_and_provenance(
    words: list[str],  # noqa: F811
    split_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # A perplexity of batches has a spread from two lines of the log on.
    words = [*words, "--data", str(split_folder), "--samples", "14", "--run.log_every", "2"]
    assert main(["table", "1", *words]) == 0
    report = json.loads(capsys.readouterr().out)
    assert all("error unknown" not in line for line in report["verdicts"])
    text = (tmp_path / "tables" / "table-1.md").read_text()
    for row in report["rows"]:
        assert row["scores"]["psnr_error"] > 0
        about = row["provenance"]
        assert about["model"] == StraIT.from_pretrained(row["folder"]).weights_hash()
        assert about["features"]["network"] == "network.pt"
        for value in (about["model"], about["reference"]["fingerprint"], "permuted", "lanczos"):
            assert value in text, value
    # The floor: what other photographs score in the place of reconstructions.
    floor, cpu = report["floor"], torch.device("cpu")
    network = open_features(str(tmp_path / "network.pt"), cpu)
    validation, train = (
        reference_features(ReferenceSet(open_images(str(split_folder), split), split, 32, 14), network, cpu).values
        for split in ("validation", "train")
    )
    assert floor["rfid"] == pytest.approx(frechet_distance(train, validation), rel=1e-9)
    assert floor["rfid_error"] > 0
    (line,) = [line for line in text.splitlines() if line.startswith("| real photographs (floor) |")]
    assert "±" in line.split("|")[2]
    assert f"floor: {photographs_in_words(floor['provenance']['photographs'])}" in text


def test_other_settings_of_decoding_are_other_rows(
    words: list[str],  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Models are trained once for them all; what is not searched is as it is asked for, not as it was at first."""
    words = [*words, "--search-samples", "0", "--search-steps"]
    assert main(["table", "8", *words]) == 0
    first = json.loads(capsys.readouterr().out)
    words[words.index("[2,2]")] = "[5,3]"
    assert main(["table", "8", *words, "--decoding.schedule", "linear"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert [row["folder"] for row in second["rows"]] == [row["folder"] for row in first["rows"]]
    assert [(d["steps"], d["schedule"]) for d in decodings(first)] == [([2, 2], "cosine")] * 2
    assert [(d["steps"], d["schedule"]) for d in decodings(second)] == [([5, 3], "linear")] * 2
    assert [row["scores"]["fid"] for row in second["rows"]] != [row["scores"]["fid"] for row in first["rows"]]


def test_other_defaults_of_a_model_are_other_rows(
    of_small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The weights are the same, its settings are not."""
    model = random_model(CONFIG, CLASSES)
    words = [*of_small, "--search-samples", "0", "--samples", "4"]  # noqa: F811
    reports = []
    for keep in ("confidence", "halton"):
        model.decoding = dataclasses.replace(model.decoding, keep=keep)
        model.save_pretrained(tmp_path / "model")
        assert main(["table", "3", *words]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert [{d["keep"] for d in decodings(report)} for report in reports] == [{"confidence"}, {"halton"}]


def test_a_budget_end_to_end(
    words: list[str],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The rehearsal, which takes twenty seconds a part, takes a moment here."""
    monkeypatch.setattr(budget_file, "_SECONDS", 0.05)
    words = [*words, "--search-samples", "0", "--budget", "0.02"]
    assert main(["table", "5", *words]) == 0
    report = json.loads(capsys.readouterr().out)
    for row in report["rows"]:
        settled = json.loads((Path(row["folder"]) / "runs" / "budget.json").read_text())
        assert settled["tokenizer"]["minutes"] + settled["top"]["minutes"] == pytest.approx(0.02)
        for part, note in settled.items():
            # The rehearsal's own time is taken off.
            assert 1 <= note["steps"] <= max(1, round(60 * note["minutes"] / note["seconds_per_step"]))
            log = (Path(row["folder"]) / "runs" / part / "log.jsonl").read_text().splitlines()
            assert json.loads(log[-1])["step"] == note["steps"]
    short, long = (report["means"][row["row"]] for row in report["rows"])
    ratio = long["seconds_per_training_step"]["value"] / short["seconds_per_training_step"]["value"]
    assert long["training_cost"]["value"] == pytest.approx(ratio)
    assert main(["table", "5", *words]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == report["rows"]


def test_a_tokenizer_is_trained_once_for_all_seeds(
    words: list[str],  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(budget_file, "_SECONDS", 0.05)
    words = [*words, "--search-samples", "0", "--seeds", "2", "--budget", "0.02", "--tokenizer-budget", "0.01"]
    assert main(["table", "5", *words]) == 0
    report = json.loads(capsys.readouterr().out)
    folders = [Path(row["folder"]) for row in report["rows"]]
    assert len(set(folders)) == 4
    for part, count in (("tokenizer", 2), ("top", 4)):
        assert len({(folder / f"{part}.safetensors").read_bytes() for folder in folders}) == count
    tokenizers = sorted((tmp_path / "tables" / "models").glob("tokenizer-*"))
    assert len(tokenizers) == 2
    # Both seeds of a row have the steps of the first one's rehearsal; rows that cost another time have their own.
    rehearsed = [json.loads((folder / "runs" / "budget.json").read_text())["top"] for folder in folders]
    assert rehearsed[0] == rehearsed[1] != rehearsed[2] == rehearsed[3]
    for folder in folders:
        settled = json.loads((folder / "runs" / "budget.json").read_text())
        assert {part: note["minutes"] for part, note in settled.items()} == {"tokenizer": 0.01, "top": 0.02}
        # The photographs became tokens once for both seeds.
        arrays = list((folder / "runs" / "tokens" / "train").glob("*.npy"))
        assert [array.stat().st_nlink for array in arrays] == [3, 3]  # one level and the labels
    assert "its tokenizer, shared by all seeds, for 0.01 minutes" in (tmp_path / "tables" / "table-5.md").read_text()
    assert main(["table", "5", *words]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == report["rows"]


def test_the_cost_of_training_is_known_without_a_budget(
    words: list[str],  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["table", "5", *words, "--search-samples", "0"]) == 0
    report = json.loads(capsys.readouterr().out)
    for row in report["rows"]:
        seconds = mean_seconds(Path(row["folder"]) / "runs" / "top")
        assert seconds is not None
        assert row["scores"]["seconds_per_training_step"] == seconds > 0
        assert "training_cost" in report["means"][row["row"]]


class StopAfter(Stop):
    """Wants to stop once it has been asked so often."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def wanted(self) -> bool:
        self.times -= 1
        if self.times < 0:
            self.signal_number = signal.SIGINT
        return self.signal_number is not None


def test_a_table_can_be_stopped_wherever_it_is_and_goes_on(
    of_small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that trains nothing: while photographs are read, while it searches, while it scores, between rows."""
    words = ["table", "3", *of_small, "--samples", "12", "--search-samples", "4", "--batch-size", "4"]  # noqa: F811
    monkeypatch.setattr(search, "TEMPERATURES", (1.0, 4.0))
    assert main([*words, "--output", str(tmp_path / "whole")]) == 0
    whole = json.loads(capsys.readouterr().out)
    shutil.rmtree(tmp_path / "cache")
    reached = []
    for times in range(1, 200, 8):
        monkeypatch.setattr(
            "strait.runtime.stop.orderly_stop", lambda minutes, times=times: nullcontext(StopAfter(times))
        )
        code = main(words)
        printed = capsys.readouterr()
        names = [path.name for path in (tmp_path / "tables").rglob("table-3/*")]
        reached.append((len([name for name in names if name.endswith(".json")]), len(names)))
        if code == 0:
            break
        assert code == 128 + signal.SIGINT
        assert "saved; rerun the command to resume" in printed.err
        assert printed.out == ""
    else:
        pytest.fail("it never came to its end")
    assert len(set(reached)) >= 4, "it was stopped in different places"
    again = json.loads(printed.out)
    for row in (*again["rows"], *whole["rows"]):
        row["scores"].pop("seconds_per_image")
    assert again["rows"] == whole["rows"]


def test_ctrl_c_ends_a_table_with_a_line(of_small: list[str], tmp_path: Path) -> None:
    """A real process, which trains nothing, stopped by the signal while it scores."""
    words = [sys.executable, "-m", "strait.cli", "table", "7", *of_small, "--samples", "100000"]  # noqa: F811
    process = subprocess.Popen(
        [*words, "--search-samples", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and len(list((tmp_path / "cache").glob("features-*.safetensors"))) < 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, messages = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT, messages
    assert "saved; rerun the command to resume" in messages
    assert "Traceback" not in messages
    assert out == ""


class Features(torch.nn.Module):
    """A network without logits."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, (2, 2)).flatten(1) / 255


def test_a_search_needs_no_logits(of_small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.jit.script(Features()).save(str(tmp_path / "network.pt"))
    assert main(["table", "3", *of_small]) == 0
    for row in json.loads(capsys.readouterr().out)["rows"]:
        assert row["scores"]["inception_score"] is None
        assert row["scores"]["fid"] > 0


def test_tokenizers_start_with_the_weights_of_a_model(
    words: list[str],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With next to no learning rate, what was copied stays."""
    source = tmp_path / "source"
    random_model(read_config(config_path("smoke")).model, ["a", "b"], seed=5).save_pretrained(source)
    still = ["--tokenizer_training.learning_rate", "1e-12", "--tokenizer_training.adversarial.weight", "0"]
    assert main(["table", "1", *words, *still, "--init-from", str(source)]) == 0
    capsys.readouterr()
    page = (tmp_path / "tables" / "table-1.md").read_text()
    assert "tokenizers start with those weights of another that fit them" in page
    theirs = load_file(source / "tokenizer.safetensors")
    copied = {}
    for folder in (tmp_path / "tables" / "models").iterdir():
        ours = load_file(folder / "tokenizer.safetensors")
        kernels = [name for name in ours if name.endswith("weight") and ours[name].ndim == 4]
        fitting = [name for name in kernels if name in theirs and theirs[name].shape == ours[name].shape]
        same = [name for name in fitting if torch.allclose(ours[name], theirs[name], atol=1e-6)]
        assert same == fitting
        copied[json.loads((folder / "config.json").read_text())["model"]["tokenizer"]["kind"]] = len(same) / len(
            kernels
        )
    assert copied["vqgan2-r"] == 1
    assert 0.5 < copied["vqgan2-c-deep"] < 1
    (tmp_path / "empty").mkdir()
    assert main(["table", "1", *words, "--init-from", str(tmp_path / "empty")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
