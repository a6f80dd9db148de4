"""Is the loss normal? Checks of the training logs of a model folder, each a line in plain words."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from strait.config import TRAINED, Config, config_path, read_config
from strait.training.curves import Curve, read_curves

FEWEST_LINES = 4
"""Lines of a log from which its end can be told from its start."""
LEAST_USAGE, LEAST_PERPLEXITY = 0.1, 0.05
BLIND_GAP, WINNING_LOSS = 0.01, 0.05
FALLEN, RISEN = 0.98, 1.25
SPIKES_PER_1000 = 3.0
OVERFITTED, WIDE_GAP = 1.03, 1.2
LABELS_HELP = 0.002
WORSE_THAN_REFERENCE = 1.25
LESS_ACCURATE = 0.5
"""Share of the reference's accuracy below which a transformer is behind."""
ACCURACIES = tuple(f"accuracy_masked_{low}_{low + 25}" for low in (0, 25, 50, 75))


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Args:
        part: whose log was read.
        check: its name.
        healthy: whether nothing is wrong.
        message: what the log shows, with figures.
        suggestion: what to do; empty if healthy.
    """

    part: str
    check: str
    healthy: bool
    message: str
    suggestion: str = ""


def examine(folder: Path) -> tuple[list[Finding], dict[str, dict[str, Curve]]]:
    """Check every part of a model folder that has a log.

    Returns:
        The findings, and the curves of each part.

    Raises:
        ValueError: if the folder is no model, has no logs, or a log is damaged.
    """
    if not (folder / "config.json").is_file() and not (folder / "runs").is_dir():
        raise ValueError(f"{folder}: not a model folder; give one that strait train has written")
    logs = [log for part in TRAINED if (log := folder / "runs" / part / "log.jsonl").exists()]
    if not logs:
        raise ValueError(f"{folder}: has no training log (runs/PART/log.jsonl); only a model trained here has one")
    findings: list[Finding] = []
    curves = {log.parent.name: _curves(log) for log in logs}
    path = folder / "runs" / "config.yaml"
    config = read_config(path) if path.exists() else None
    for part, of_part in curves.items():
        findings += check_part(part, of_part, config)
    return findings, curves


def _curves(log: Path) -> dict[str, Curve]:
    try:
        return read_curves(log)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{log}: a line is damaged ({error}); resume the training, which mends its log") from None


_TRAINING = {
    "tokenizer": ("pixel_loss", "perceptual", "batch_size", "crop", "learning_rate", "only_decoder"),
    "top": ("batch_size", "learning_rate", "optimizer", "mask_schedule", "label_drop_rate", "warmup_steps"),
}
_TRAINING["bottom"] = _TRAINING["top"]


def _has_reference(config: Config, part: str) -> bool:
    """Whether a part's settings are those of the reference, as far as they change its losses and accuracies."""
    if part not in _TRAINING:
        return False
    reference = read_config(config_path("nature128-cpu"))
    training, expected = (getattr(each, f"{part}_training") for each in (config, reference))
    same = all(getattr(training, name) == getattr(expected, name) for name in _TRAINING[part])
    parts = ("tokenizer",) if part == "tokenizer" else ("tokenizer", part)
    same &= all(getattr(config, name) == getattr(reference, name) for name in parts)
    return same and config.image_size == reference.image_size


def check_part(part: str, curves: dict[str, Curve], config: Config | None = None) -> list[Finding]:
    """All checks of one log; those whose metrics it lacks are left out.

    Args:
        part: its name.
        curves: of its log.
        config: of the training; without it, neither perplexity nor reference losses are checked.
    """
    loss = curves.get("loss", [])
    if len(loss) < FEWEST_LINES:
        return [Finding(part, "length", True, f"only {len(loss)} lines of log so far, too few to judge")]
    findings = [_skipped(part, curves), _spikes(part, curves, loss[-1][0])]
    # An adversary adds its own term, and draws texture, which raises the pixel loss.
    joined = curves["logits_real"][0][0] if part == "tokenizer" and "logits_real" in curves else math.inf
    alone = [(step, value) for step, value in loss if step < joined]
    if len(alone) >= FEWEST_LINES:
        findings.insert(0, _loss(part, alone))
    for name in curves:
        if name.startswith("usage_"):
            findings.append(_codes(part, name.removeprefix("usage_"), curves, config))
    if "logits_real" in curves:
        findings.append(_adversary(part, curves))
    collapsed = any(finding.check.startswith("codebook") and not finding.healthy for finding in findings)
    if "usage_bottom" in curves and "validation_loss_other_top" in curves and not collapsed:
        findings += _stratification(curves)
    reference = reference_curves().get(part) if config is not None and _has_reference(config, part) else None
    if reference is not None and part == "tokenizer":
        for name in ("pixel", "perceptual"):
            findings += _against_reference(name, curves, reference) if name in curves else []
    if all(name in curves for name in ACCURACIES):
        findings.append(_accuracy(part, curves, reference))
    if part != "tokenizer" and len(curves.get("validation_loss", [])) > 1:
        findings.append(_overfitting(part, curves["validation_loss"], _recent(loss)))
    # The bottom's top tokens tell it most of what a label does, so a small gain there is no fault.
    if part == "top" and "unlabelled_validation_loss" in curves:
        findings.append(_labels(part, curves))
    return findings


def _recent(curve: Curve) -> float:
    """The mean over the last quarter of the lines."""
    values = [value for _, value in curve[-max(len(curve) // 4, 1) :]]
    return sum(values) / len(values)


def _loss(part: str, loss: Curve) -> Finding:
    first, last = loss[0][1], _recent(loss)
    quarter = max(len(loss) // 4, 1)
    lowest = min(_recent(loss[: end + quarter]) for end in range(len(loss) - quarter + 1))
    lower = f"lower {part}_training.learning_rate to a third, or lengthen its warmup_steps"
    if not last < FALLEN * first:  # also if it is not a number
        return Finding(part, "loss", False, f"the loss does not fall: {first:.4g} at first, {last:.4g} now", lower)
    if last > RISEN * lowest:
        return Finding(part, "loss", False, f"the loss rose from {lowest:.4g} to {last:.4g}", lower)
    return Finding(part, "loss", True, f"the loss fell from {first:.4g} to {last:.4g}")


def _skipped(part: str, curves: dict[str, Curve]) -> Finding:
    count = int(sum(value for _, value in curves.get("skipped", [])))
    if not count:
        return Finding(part, "skipped steps", True, "no step was skipped")
    advice = f"lower {part}_training.learning_rate, or train with run.precision float32"
    return Finding(part, "skipped steps", False, f"{count} steps skipped: loss or gradients not finite", advice)


def _spikes(part: str, curves: dict[str, Curve], steps: int) -> Finding:
    count = int(sum(value for _, value in curves.get("loss_spikes", [])))
    message = f"{count} loss spikes in {steps} steps"
    if count <= max(SPIKES_PER_1000 * steps / 1000, SPIKES_PER_1000):
        return Finding(part, "loss spikes", True, message)
    return Finding(part, "loss spikes", False, message, f"lower {part}_training.learning_rate")


def _codes(part: str, level: str, curves: dict[str, Curve], config: Config | None) -> Finding:
    usage, perplexity = _recent(curves[f"usage_{level}"]), _recent(curves[f"perplexity_{level}"])
    message = f"{usage:.0%} of the codes in use, perplexity {perplexity:.4g}"
    # Usage is an average from a uniform start, so it falls late; perplexity shows a collapse at once.
    codes = 0 if config is None else config.tokenizer.codebook_size
    if usage >= LEAST_USAGE and perplexity >= LEAST_PERPLEXITY * codes:
        return Finding(part, f"codebook {level}", True, message)
    restarts = config is not None and config.tokenizer_training.codebook.restart_below > 0
    lower = "lower tokenizer_training.learning_rate"
    advice = lower if restarts else f"set tokenizer_training.codebook.restart_below to 0.03, or {lower}"
    return Finding(part, f"codebook {level}", False, f"the codebook collapsed: {message}", advice)


def _stratification(curves: dict[str, Curve]) -> list[Finding]:
    """Whether the top carries more of the image than the bottom; nothing before the codes are in use."""
    (step, top), (_, bottom) = (curves[f"validation_loss_other_{level}"][-1] for level in ("top", "bottom"))
    if step < curves["usage_bottom"][0][0]:
        return []
    whole, alone = (curves[name][-1][1] for name in ("validation_loss", "validation_loss_top_alone"))
    message = (
        f"pixel loss {whole:.4g}, {alone:.4g} of the top alone, {top:.4g} with the top of another image, {bottom:.4g} "
        "with the bottom of another"
    )
    if top > bottom:
        return [Finding("tokenizer", "stratification", True, message)]
    advice = "raise tokenizer_training.bottom_dropout, so that the top carries the image"
    return [Finding("tokenizer", "stratification", False, f"the bottom carries the image: {message}", advice)]


def _adversary(part: str, curves: dict[str, Curve]) -> Finding:
    real, fake, loss = (_recent(curves[name]) for name in ("logits_real", "logits_fake", "discriminator"))
    logits = f"logits {real:.3g} of photographs, {fake:.3g} of reconstructions"
    if abs(real - fake) < BLIND_GAP:
        advice = "raise tokenizer_training.adversarial.learning_rate, or start it earlier"
        return Finding(part, "adversary", False, f"the discriminator is blind: {logits}", advice)
    if loss < WINNING_LOSS:
        advice = "lower tokenizer_training.adversarial.learning_rate, or raise its r1_weight"
        return Finding(part, "adversary", False, f"the discriminator wins: {logits}, loss {loss:.3g}", advice)
    return Finding(part, "adversary", True, logits)


def reference_curves() -> dict[str, Any]:
    """Measured curves of the parts of ``nature128-cpu``; see docs/commands/doctor.md."""
    return json.loads(resources.files("strait.runs").joinpath("doctor_reference.json").read_text(encoding="utf-8"))


def _expected(reference: dict[str, Any], name: str, before: int, step: int) -> float | None:
    """The reference's mean over the steps from ``before`` to ``step``; None if it does not have them all."""
    # A line of a log is a mean since the line before, so it is compared with the mean over the same steps.
    means, every = [mean for end, mean in reference[name] if before < end <= step], reference["every"]
    return sum(means) / len(means) if before % every == 0 and len(means) * every == step - before else None


def _newest(curve: Curve, reference: dict[str, Any], name: str) -> tuple[int, int, float, float] | None:
    """The newest line of which the reference has every step: the step before it, its step, value, expected value."""
    starts = [0, *(step for step, _ in curve)]
    for before, (step, value) in reversed(list(zip(starts, curve, strict=False))):
        expected = _expected(reference, name, before, step)
        if expected is not None:
            return before, step, value, expected
    return None


def _against_reference(name: str, curves: dict[str, Curve], reference: dict[str, Any]) -> list[Finding]:
    """A loss; nothing if no line can be compared."""
    line = _newest(curves[name], reference, name)
    if line is None:
        return []
    _, step, value, expected = line
    message = f"{value:.4g} at step {step}; the reference has {expected:.4g}"
    healthy = value <= WORSE_THAN_REFERENCE * expected
    advice = "" if healthy else "look at runs/tokenizer/samples: are these your photographs?"
    return [Finding("tokenizer", f"{name} loss", healthy, message, advice)]


def _accuracy(part: str, curves: dict[str, Curve], reference: dict[str, Any] | None) -> Finding:
    """Accuracy by mask ratio; a verdict only where it can be compared."""
    message = ", ".join(f"{_recent(curves[name]):.2%}" for name in ACCURACIES)
    message = f"{message} of the tokens are right where up to 25, 50, 75, 100% are masked"
    line = None if reference is None else _newest(curves["accuracy"], reference, "accuracy")
    if reference is None or line is None:
        return Finding(part, "accuracy", True, message)
    before, step, value, expected = line
    by_ratio = [_expected(reference, name, before, step) for name in ACCURACIES]
    message = f"{message}; {value:.2%} of all at step {step}; the reference has {expected:.2%} ("
    message += ", ".join("none" if mean is None else f"{mean:.2%}" for mean in by_ratio) + ")"
    healthy = value >= LESS_ACCURATE * expected
    advice = "" if healthy else "check that the tokenizer's reconstructions are good, and that the classes are right"
    return Finding(part, "accuracy", healthy, message, advice)


def _overfitting(part: str, curve: Curve, training: float) -> Finding:
    best_step, best = min(curve, key=lambda point: point[1])
    last = curve[-1][1]
    message = f"training loss {training:.4g}; validation loss {last:.4g}, lowest {best:.4g} at step {best_step}"
    if last <= OVERFITTED * best and not last > WIDE_GAP * training:
        return Finding(part, "overfitting", True, message)
    advice = "use more photographs or more dropout, or stop at that step (its checkpoint is kept)"
    return Finding(part, "overfitting", False, message, advice)


def _labels(part: str, curves: dict[str, Curve]) -> Finding:
    with_labels, without = curves["validation_loss"][-1][1], curves["unlabelled_validation_loss"][-1][1]
    message = f"validation loss {with_labels:.4g} with labels, {without:.4g} without"
    if without - with_labels >= LABELS_HELP * without:
        return Finding(part, "labels", True, message)
    return Finding(part, "labels", False, f"labels do not help: {message}", "check that the labels are right")
