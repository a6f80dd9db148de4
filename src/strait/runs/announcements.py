"""The messages before training starts and after each network."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path

from strait.config import Config
from strait.data.summary import summary
from strait.runs.part import ModelRun

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
