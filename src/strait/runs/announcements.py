"""The messages before training starts and after each network."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from strait.config import Config
from strait.data.summary import summary
from strait.evaluation.cost import describe
from strait.runs.part import ModelRun
from strait.training.progress import duration

_LOSSES = ("loss", "validation_loss")


def opening(model: ModelRun, config: Config, parts: Sequence[str], budget: float | None) -> str:
    """The data, the plan, and where to watch training.

    Args:
        model: the model and its data.
        config: all settings.
        parts: to be trained, in order.
        budget: minutes for all of them; None if their steps are set.
    """
    if budget is None:
        steps = [f"{part} {getattr(config, f'{part}_training').steps} steps" for part in parts]
        plan = f"{', '.join(steps)}; the time left is shown after the first steps"
    else:
        plan = f"{', '.join(parts)} in {budget:g} minutes, including rehearsals but not encoding"
    lines = [
        *summary(model.photographs, model.validation),
        f"{model.folder}: {plan}",
        f"watch: {model.folder}/runs/PART/curves.png and samples/{_tensorboard(model.folder)}",
    ]
    return "\n".join(lines)


def estimate(config: Config, num_classes: int, parts: Sequence[str], seconds: float) -> str | None:
    """About how long the parts take, from the seconds of a step of the first one.

    A step of another part is taken to cost as its multiply-adds do. Losses by other networks, encoding and sample
    sheets are left out, so this is rough.

    Returns:
        A line; None where there is nothing to add to the time left that training shows anyway.
    """
    if len(parts) < 2 or parts[0] == "classifier":
        return None
    counted = describe(config.model, num_classes)["parts"]
    work = {part: _multiply_adds(config, part, counted[part]["multiply_adds"]) for part in parts}
    times = {part: seconds * work[part] / work[parts[0]] * _training(config, part).steps for part in parts}
    each = ", ".join(f"{part} {duration(time)}" for part, time in times.items())
    return f"a step takes {seconds:.2g} s: about {duration(sum(times.values()))} for the whole training ({each})"


def _multiply_adds(config: Config, part: str, of_an_image: int) -> float:
    """Of a step of a part, forward."""
    training = _training(config, part)
    crop = getattr(training, "crop", None)
    share = 1.0 if not crop else (crop / config.image_size) ** 2
    return training.batch_size * of_an_image * share


def _training(config: Config, part: str) -> Any:
    return getattr(config, f"{part}_training")


def _tensorboard(folder: Path) -> str:
    installed = importlib.util.find_spec("tensorboard") is not None
    return f", or: tensorboard --logdir {folder}/runs" if installed else ""


def closing(model: ModelRun, network: str) -> str:
    """The last losses of a network, and its newest sample grid."""
    folder = model.run_folder(network)
    losses = [f"{name.replace('_', ' ')} {value:.3g}" for name, value in _last_losses(folder / "log.jsonl").items()]
    sheets = sorted((folder / "samples").glob("*.png"))
    return f"{network}: {', '.join([*losses, *[str(sheet) for sheet in sheets[-1:]]]) or 'trained'}"


def _last_losses(log: Path) -> dict[str, float]:
    """The newest value of each loss."""
    losses: dict[str, float] = {}
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else []:
        values = json.loads(line)
        losses.update({name: values[name] for name in _LOSSES if name in values})
    return losses
