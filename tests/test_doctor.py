"""``strait doctor``: it names what was broken on purpose, and finds nothing in a healthy training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from conftest import _CLASSES, make_photograph
from strait.cli import main
from strait.config import Config, config_path, read_config
from strait.runs.doctor import ACCURACIES, check_part, reference_curves
from strait.training.curves import Curve


def line(*values: float) -> Curve:
    return [(10 * (number + 1), value) for number, value in enumerate(values)]


HEALTHY = {
    "loss": line(4.0, 3.5, 3.2, 3.0),
    "usage_top": line(1.0, 0.6, 0.5, 0.5),
    "perplexity_top": line(60, 40, 30, 30),
    "logits_real": line(0.3, 0.3, 0.3, 0.3),
    "logits_fake": line(-0.2, -0.2, -0.2, -0.2),
    "discriminator": line(1.6, 1.6, 1.6, 1.6),
    "validation_loss": line(3.4, 3.3, 3.2, 3.1),
    "unlabelled_validation_loss": line(3.5, 3.4, 3.3, 3.2),
}


def faults(curves: dict[str, Curve], part: str = "top", config: Config | None = None) -> list[str]:
    findings = check_part(part, curves, config)
    assert all(finding.suggestion for finding in findings if not finding.healthy)
    assert not any(finding.suggestion for finding in findings if finding.healthy)
    return [finding.check for finding in findings if not finding.healthy]


def test_nothing_is_found_in_a_healthy_log() -> None:
    assert faults(HEALTHY) == []


@pytest.mark.parametrize(
    ("changed", "check"),
    [
        ({"loss": line(4.0, 4.0, 4.0, 4.0)}, "loss"),
        ({"loss": line(4.0, 2.0, 2.2, 2.6)}, "loss"),
        ({"loss": line(4.0, 3.0, float("nan"), float("nan"))}, "loss"),
        ({"skipped": [(20, 1.0)]}, "skipped steps"),
        ({"loss_spikes": [(20, 2.0), (30, 2.0)]}, "loss spikes"),
        ({"usage_top": line(1.0, 0.3, 0.1, 0.05)}, "codebook top"),
        ({"logits_fake": line(0.3, 0.3, 0.3, 0.3)}, "adversary"),
        ({"discriminator": line(1.6, 0.4, 0.1, 0.01)}, "adversary"),
        ({"validation_loss": line(3.4, 2.8, 3.0, 3.1)}, "overfitting"),
        ({"validation_loss": line(3.8, 3.7, 3.7, 3.7), "unlabelled_validation_loss": line(4, 4, 4, 4)}, "overfitting"),
        ({"unlabelled_validation_loss": line(3.4, 3.3, 3.2, 3.1)}, "labels"),
    ],
)
def test_each_fault_is_named_alone(changed: dict[str, Curve], check: str) -> None:
    assert faults(HEALTHY | changed) == [check]


@pytest.mark.parametrize(
    ("loss", "joined", "expected"),
    [
        (line(4, 3, 3, 3, 6, 6), 50, []),  # the adversary's term
        (line(4, 4, 4, 4, 3, 3), 50, ["loss"]),
        (line(4, 3, 3, 6, 6, 6), 50, ["loss"]),
        (line(3, 3, 4, 4, 4, 4), 20, []),  # joined at once: nothing to judge
    ],
)
def test_a_tokenizers_loss_is_judged_before_its_adversary_joins(loss: Curve, joined: int, expected: list[str]) -> None:
    curves = {"loss": loss, "logits_real": [(joined, 0.3)], "logits_fake": [(joined, -0.2)]}
    assert faults(curves | {"discriminator": [(joined, 1.6)]}, "tokenizer") == expected


def test_a_short_log_is_not_judged() -> None:
    assert faults({"loss": line(4.0, 4.0, 4.0)}) == []


@pytest.mark.parametrize(("factor", "expected"), [(1.0, []), (1.2, []), (1.3, ["pixel loss"])])
def test_a_line_is_compared_with_the_mean_over_its_steps(factor: float, expected: list[str]) -> None:
    losses = dict(map(tuple, reference_curves()["tokenizer"]["pixel"]))
    pixel = [(20, factor * (losses[10] + losses[20]) / 2), (10**6, 99.0)]  # the reference does not reach that far
    curves = {"loss": HEALTHY["loss"], "pixel": pixel}
    assert faults(curves, "tokenizer", read_config(config_path("nature128-cpu"))) == expected
    assert faults(curves, "tokenizer", read_config(config_path("smoke"))) == []


@pytest.mark.parametrize(
    ("top", "bottom", "expected"),
    [(0.2, 0.1, []), (0.1, 0.2, ["stratification"]), (0.1, 0.1, ["stratification"])],
)
def test_the_top_must_carry_the_image(top: float, bottom: float, expected: list[str]) -> None:
    losses = {"": 0.05, "_top_alone": 0.08, "_other_top": top, "_other_bottom": bottom}
    used = HEALTHY | {"usage_bottom": line(1, 1, 1, 1)[2:], "perplexity_bottom": line(9, 9, 9, 9)[2:]}
    late = {f"validation_loss{name}": [(20, 9.0), (40, loss)] for name, loss in losses.items()}
    assert faults(used | late, "tokenizer") == expected
    early = {name: curve[:1] for name, curve in late.items()}  # no codes yet
    assert faults(used | early, "tokenizer") == []


def test_few_codes_for_nearly_all_tokens_are_a_collapse_while_usage_is_still_high() -> None:
    collapsed = HEALTHY | {"usage_top": line(1.0, 1.0, 1.0, 0.9), "perplexity_top": line(60, 9, 2, 1.5)}
    smoke = read_config(config_path("smoke"))
    assert faults(collapsed, config=smoke) == ["codebook top"]
    assert faults(HEALTHY, config=smoke) == []


def test_the_exit_status_and_the_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "runs" / "top" / "log.jsonl"
    log.parent.mkdir(parents=True)
    log.write_text("".join(json.dumps({"step": step, "loss": value}) + "\n" for step, value in HEALTHY["loss"]))
    picture = tmp_path / "curves.png"
    assert main(["doctor", str(tmp_path), "--output", str(picture)]) == 0
    assert Image.open(picture).width > 0
    picture.write_bytes(b"mine")
    assert main(["doctor", str(tmp_path), "--output", str(picture)]) == 2
    assert picture.read_bytes() == b"mine"
    log.write_text("".join(json.dumps({"step": step, "loss": 4.0}) + "\n" for step in range(1, 6)))
    capsys.readouterr()
    assert main(["doctor", str(tmp_path), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["healthy"]
    assert [f["check"] for f in report["findings"] if not f["healthy"]] == ["loss"]


@pytest.mark.parametrize("broken", ["no folder", "no logs", "a damaged line"])
def test_what_cannot_be_judged_ends_in_one_line(
    broken: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    if broken != "no folder":
        (folder / "runs" / "top").mkdir(parents=True)
    if broken == "a damaged line":
        (folder / "runs" / "top" / "log.jsonl").write_text('{"step": 1, "lo')
    assert main(["doctor", str(folder)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_a_real_training_is_healthy_and_shuffled_labels_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = sorted(_CLASSES)
    for kind in ("true", "shuffled"):
        for number in range(120):
            for index, name in enumerate(names):
                label = name if kind == "true" else names[(index + number // len(names) + number) % len(names)]
                folder = tmp_path / kind / ("train" if number < 100 else "validation") / label
                folder.mkdir(parents=True, exist_ok=True)
                make_photograph(name, number).save(folder / f"{name}-{number}.jpg", quality=92)
        for part in ("tokenizer", "top"):
            data, model = str(tmp_path / kind), str(tmp_path / f"model {kind}")
            assert main(["train", part, "--config", "smoke", "--data", data, "--model", model]) == 0
    capsys.readouterr()
    assert main(["doctor", str(tmp_path / "model true")]) == 0
    assert main(["doctor", str(tmp_path / "model shuffled"), "--json"]) == 1
    findings = json.loads(capsys.readouterr().out.splitlines()[-1])["findings"]
    assert [(f["part"], f["check"]) for f in findings if not f["healthy"]] == [("top", "labels")]


def _photographs(folder: Path, count: int) -> Path:
    """Training photographs of each of four classes, and 20 for validation."""
    for name in sorted(_CLASSES):
        for number in [*range(count), *range(100, 120)]:
            split = folder / ("train" if number < 100 else "validation") / name
            split.mkdir(parents=True, exist_ok=True)
            make_photograph(name, number).save(split / f"{number}.jpg", quality=92)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "checks", "advice"),
    [
        (["learning_rate=0.3"], {"codebook top", "codebook bottom"}, "lower tokenizer_training.learning_rate"),
        (
            ["codebook.restart_below=0", "codebook.start=0", "codebook.codebook_weight=0"],
            {"codebook top", "codebook bottom"},
            "set tokenizer_training.codebook.restart_below",
        ),
        (
            ["adversarial.weight=0.1", "adversarial.start=0.2", "adversarial.learning_rate=1e-12"],
            {"adversary"},
            "raise tokenizer_training.adversarial.learning_rate",
        ),
    ],
    ids=["too high a learning rate", "collapsed codes", "a dead adversary"],
)
def test_tokenizers_that_are_broken_on_purpose_are_named(
    settings: list[str], checks: set[str], advice: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, model = _photographs(tmp_path / "data", 100), str(tmp_path / "model")
    words = [word for setting in settings for word in f"--tokenizer_training.{setting}".split("=")]
    assert main(["train", "tokenizer", "--config", "smoke", "--data", str(data), "--model", model, *words]) == 0
    capsys.readouterr()
    assert main(["doctor", model, "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    faulty = {finding["check"]: finding["suggestion"] for finding in findings if not finding["healthy"]}
    assert checks <= set(faulty)
    assert all(faulty[check].startswith(advice) for check in checks)


@pytest.mark.slow
def test_a_transformer_that_learns_forty_photographs_by_heart_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data, model = str(_photographs(tmp_path / "data", 10)), str(tmp_path / "model")
    words = ["--config", "smoke", "--data", data, "--model", model, "--top_training.steps", "1200"]
    assert main(["train", "tokenizer", *words]) == main(["train", "top", *words]) == 0
    capsys.readouterr()
    assert main(["doctor", model, "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert ("top", "overfitting") in [(f["part"], f["check"]) for f in findings if not f["healthy"]]


def test_only_the_top_must_gain_from_labels() -> None:
    no_gain = HEALTHY | {"unlabelled_validation_loss": HEALTHY["validation_loss"]}
    assert faults(no_gain, "bottom") == []
    assert faults(no_gain, "top") == ["labels"]


@pytest.mark.parametrize("part", ["top", "bottom"])
@pytest.mark.parametrize(("factor", "expected"), [(1.0, []), (0.6, []), (0.4, ["accuracy"])])
def test_accuracy_is_compared_with_the_reference_at_the_same_steps(
    part: str, factor: float, expected: list[str]
) -> None:
    reference = reference_curves()[part]
    curves = {name: [(step, factor * value) for step, value in reference[name]] for name in ACCURACIES}
    # A line of twenty steps is compared with the mean of the reference's two lines.
    mean = sum(value for _, value in reference["accuracy"][2:4]) / 2
    accuracy = [*map(tuple, reference["accuracy"][:2]), (40, factor * mean), (10**6, 0.0)]
    log = {"loss": HEALTHY["loss"], "accuracy": accuracy} | curves
    config = read_config(config_path("nature128-cpu"))
    assert faults(log, part, config) == expected
    (message,) = [f.message for f in check_part(part, log, config) if f.check == "accuracy"]
    assert f"the reference has {mean:.2%}" in message
    assert faults(log, part, read_config(config_path("smoke"))) == []


def test_speed_is_compared_with_a_step_measured_here(
    photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    words = ["--config", "smoke", "--data", str(photo_folder), "--model", str(model)]
    for part in ("tokenizer", "top"):
        start = ["--tokenizer_training.codebook.start", "2"] if part == "tokenizer" else []
        assert main(["train", part, *words, f"--{part}_training.steps", "8", *start]) == 0
    for seconds, healthy in ((1e-9, True), (3600.0, False)):
        for part in ("tokenizer", "top"):
            (model / "runs" / part / "pace.jsonl").write_text(json.dumps({"steps": 1, "seconds": seconds}) + "\n")
        capsys.readouterr()
        assert main(["doctor", str(model), "--speed", "--json"]) in (0, 1)
        findings = json.loads(capsys.readouterr().out)["findings"]
        speed = {f["part"]: f for f in findings if f["check"] == "speed"}
        assert set(speed) == {"tokenizer", "top"}
        assert all(finding["healthy"] == healthy for finding in speed.values())
    (model / "runs" / "top" / "pace.jsonl").unlink()
    (model / "runs" / "tokenizer" / "pace.jsonl").unlink()
    assert main(["doctor", str(model), "--speed"]) == 2
    assert "--speed" in capsys.readouterr().err
