"""Equal minutes: how a budget becomes steps, what is counted in it, and a table whose rows have the same."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from strait.cli import main
from strait.config import config_path, read_config
from strait.evaluation.cost import describe
from strait.model.config import ModelError
from strait.runs import budget as budget_file
from strait.runs.budget import Budget, share_of, with_steps
from strait.tables.equal_cost import maskgit
from strait.training.guard import NotFinite
from strait.training.loop import Trainee
from test_tables import TINY, words  # noqa: F401


class Sleeper(Trainee):
    """A trainee whose steps take a known time."""

    def __init__(self, clock: list[float]) -> None:
        self.clock = clock

    def begin(self, step: int) -> None:
        assert step == 1800  # late in training, when every loss has begun

    def step(self, step: int) -> dict:
        self.clock[0] += 0.5 if step >= 1803 else 60.0  # the first ones compile
        return {}


def test_a_budget_becomes_steps_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    config = with_steps(TINY, "tokenizer", 2000)
    budget = Budget(tmp_path, 30.0)
    assert budget.divide(["tokenizer", "top", "bottom"], config) == config
    settled = budget.settle("tokenizer", config, [lambda: Sleeper(clock)] * 2)
    # A third of 30 minutes, at a second a step of both networks, less their rehearsals: 3 steps of a minute and 20 s.
    assert settled.tokenizer_training.steps == 600 - 2 * (180 + 20)
    assert settled.tokenizer_training.warmup_steps == round(config.tokenizer_training.warmup_steps * 200 / 2000)
    again = Budget(tmp_path, 30.0)
    assert again.divide(["tokenizer", "top", "bottom"], config).tokenizer_training.steps == 200
    assert again.settle("tokenizer", config, []) == settled
    with pytest.raises(ModelError, match=r"was started with 10\.00 minutes, not 20\.00"):
        Budget(tmp_path, 60.0).divide(["tokenizer", "top", "bottom"], config)
    with pytest.raises(ValueError, match="--budget: -1 must be above 0"):
        Budget(tmp_path, -1)
    with pytest.raises(ValueError, match="--budget: inf must be above 0"):
        Budget(tmp_path, float("inf"))


def test_rehearsals_of_a_short_budget_are_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty seconds for the tokenizer: a rehearsal takes a second of them, and its warm-up."""

    class Quick(Sleeper):
        def step(self, step: int) -> dict:
            self.clock[0] += 0.25
            return {}

    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    budget, config = Budget(tmp_path, 1.0), with_steps(TINY, "tokenizer", 2000)
    budget.divide(["tokenizer", "top", "bottom"], config)
    steps = budget.settle("tokenizer", config, [lambda: Quick(clock)]).tokenizer_training.steps
    assert clock[0] == 3 * 0.25 + 1.0
    assert clock[0] + 0.25 * steps == pytest.approx(20, abs=0.25)


@pytest.mark.parametrize(("steps", "head_start"), [(4000, 200), (1000, 50), (4, 0), (1, 0)])
def test_all_settings_in_steps_follow_the_budget(steps: int, head_start: int) -> None:
    config = with_steps(TINY, "tokenizer", 2000)
    adversarial = dataclasses.replace(config.tokenizer_training.adversarial, weight=0.1, start=0.0, head_start=100)
    training = dataclasses.replace(config.tokenizer_training, adversarial=adversarial)
    config = dataclasses.replace(config, tokenizer_training=training)
    assert with_steps(config, "tokenizer", steps).tokenizer_training.adversarial.head_start == head_start


class Diverging(Sleeper):
    """Every step but some is not finite."""

    def __init__(self, clock: list[float], finite: int) -> None:
        super().__init__(clock)
        self.finite = finite

    def step(self, step: int) -> dict:
        super().step(step)
        self.finite -= 1
        if self.finite < 0:
            raise NotFinite("the loss is not finite")
        return {}


def test_a_rehearsal_skips_what_training_skips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    config = with_steps(TINY, "tokenizer", 2000)
    budget = Budget(tmp_path, 30.0)
    budget.divide(["tokenizer", "top", "bottom"], config)
    with pytest.raises(ValueError, match="--budget: no step of the rehearsal had a finite loss"):
        budget.settle("tokenizer", config, [lambda: Diverging(clock, 0)])
    # 600 s at half a second a step, less what both rehearsals took.
    clock[0] = 0.0
    settled = budget.settle("tokenizer", config, [lambda: Diverging(clock, 4)])
    assert settled.tokenizer_training.steps == 2 * (600 - 180 - 20)


def test_shares_of_a_budget_add_up() -> None:
    whole = ["tokenizer", "top", "bottom", "upsampler"]
    for parts in (
        ["tokenizer"],
        ["top"],
        ["tokenizer", "top"],
        ["top", "bottom"],  # the tokenizer is kept
        whole,
        ["classifier", "tokenizer"],
        ["classifier", *whole],
    ):
        assert sum(share_of(part, parts) for part in parts) == pytest.approx(1)


@pytest.mark.parametrize("name", ["tiny-imagenet64-cpu", "tiny-imagenet64"])
@pytest.mark.parametrize("fine", [False, True])
def test_maskgit_fills_the_parameters_of_both_transformers(name: str, fine: bool) -> None:
    """One more layer of the paper's size would not fit: its products, biases, norms and gains counted by hand."""
    straits = read_config(config_path(name))
    single = maskgit(straits, fine)
    budget = sum(describe(straits.model, 1)["parts"][part]["parameters"] for part in ("top", "bottom"))
    taken = describe(single.model, 1)["parts"]["top"]["parameters"]
    width, mlp = straits.top.width, straits.top.mlp
    products = 4 * width * width + 2 * width * mlp
    assert budget - products - 20 * width < taken <= budget
    assert (single.top.width, single.bottom, single.tokenizer.kind) == (width, None, "vqgan")


def test_methods_at_equal_cost_share_one_classifier_and_models_with_their_guided_rows(
    words: list[str],  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The classifier has its own steps, whatever the budget; the other parts have the budget alone."""
    monkeypatch.setattr(budget_file, "_SECONDS", 0.02)
    more = ["--search-samples", "0", "--samples", "8", "--budget", "0.003", "--tokenizer_training.perceptual"]
    more += ["classifier", "--classifier.channels", "8", "--classifier.multipliers", "[1,1]"]
    more += ["--classifier_training.steps", "3", "--decoding.guidance", "1"]
    assert main(["table", "equal-cost", *words, *more]) == 0
    report = json.loads(capsys.readouterr().out)
    folders = {row["row"]: Path(row["folder"]) for row in report["rows"]}
    assert len(set(folders.values())) == 7
    assert folders["cascade"] == folders["cascade, top alone"]
    for name, folder in folders.items():
        assert folders[name.removesuffix(", guided")] == folder
        minutes = {
            part: budget["minutes"] for part, budget in json.loads((folder / "runs/budget.json").read_text()).items()
        }
        assert sum(minutes.values()) == pytest.approx(0.003)
        assert "classifier" not in minutes
        assert json.loads((folder / "runs/classifier/finished.json").read_text())["steps"] == 3
    assert len({(folder / "classifier.safetensors").read_bytes() for folder in folders.values()}) == 1
    assert (tmp_path / "tables" / "equal-cost.md").read_text().startswith("# Methods at equal cost")
    guidance = {row["row"]: row["provenance"]["samples"]["decoding"]["guidance"] for row in report["rows"]}
    assert all((value != 0) == name.endswith(", guided") for name, value in guidance.items())
