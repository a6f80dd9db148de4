"""The models behind the rows of tables: each part is trained once, whatever rows and tables share it.

OUTPUT/models/NAME-KEY/    a model folder; its runs/keys.json says what each part was made from
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from strait.config import Config
from strait.data.job import Job
from strait.data.sources import open_images
from strait.runs.budget import share_of
from strait.runs.run_folder import is_finished
from strait.runs.training import ModelTraining
from strait.runtime.files import read_json, write_text
from strait.runtime.ranks import ALONE, Ranks
from strait.runtime.stop import Stop

_SHARED = "classifier"


@dataclass(frozen=True)
class Trainer:
    """How the rows of a table are trained.

    Args:
        models: folder that holds their model folders.
        data: what ``--data`` names.
        device: where.
        budget: minutes of training, the same for each row, without the classifier that they share; None keeps the
            configuration's steps.
        stop: asked after each step.
        ranks: the processes that train together.
    """

    models: Path
    data: str
    device: torch.device
    budget: float | None
    stop: Stop
    ranks: Ranks = ALONE

    def train(self, name: str, config: Config, parts: Sequence[str]) -> Path | None:
        """The folder of a model with these parts, trained as far as they are missing; None if stopped before."""
        keys = self.part_keys(config, parts)
        folder = self.ranks.on_first(lambda: self._prepared(name, keys))
        # A classifier is every row's, as a network from elsewhere would be: it is no part of their equal minutes.
        begin = partial(ModelTraining, folder, config, self.data, Job(self.device, self.ranks, self.stop))
        if _SHARED in parts and not begin().run([_SHARED]):
            return None
        return folder if begin(budget=self.budget).run(_own(parts)) else None

    def _prepared(self, name: str, keys: dict[str, str]) -> Path:
        """The row's folder, with the parts that other rows have trained already."""
        folder = self._folder(name, keys)
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        write_text(folder / "runs" / "keys.json", json.dumps(self._known_keys(folder) | keys, indent=1))
        for part, key in keys.items():
            self._borrow(folder, part, key)
        return folder

    def part_keys(self, config: Config, parts: Sequence[str]) -> dict[str, str]:
        """What each part is made from, as a hash: equal keys, equal weights (to rounding)."""
        source = self.ranks.on_first(open_images(self.data, "train").fingerprint)
        keys: dict[str, str] = {}
        for part in parts:
            training = getattr(config, f"{part}_training")
            minutes = None
            if self.budget is not None and part != _SHARED:
                minutes = self.budget * share_of(part, _own(parts))
            made_from = {
                "data": source,
                "image_size": config.image_size,
                "cut": dataclasses.asdict(config.data),
                "shape": dataclasses.asdict(getattr(config, part)),
                "training": dataclasses.asdict(training),
                "seed": config.run.seed,
                "precision": config.run.precision,
                "minutes": minutes,
            }
            if part == "tokenizer" and "classifier" in keys:
                made_from["classifier"] = keys["classifier"]
            if part not in ("classifier", "tokenizer"):
                made_from["tokenizer"] = keys["tokenizer"]
            if getattr(training, "condition_augmentation", 0):
                made_from["top"] = keys["top"]
            keys[part] = hashlib.sha256(json.dumps(made_from, sort_keys=True).encode()).hexdigest()[:12]
        return keys

    def _folder(self, name: str, keys: dict[str, str]) -> Path:
        digest = hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()[:8]
        found = sorted(self.models.glob(f"*-{digest}"))
        return found[0] if found else self.models / f"{slug(name)}-{digest}"

    @staticmethod
    def _known_keys(folder: Path) -> dict[str, str]:
        return read_json(folder / "runs" / "keys.json", {})

    def _borrow(self, folder: Path, part: str, key: str) -> None:
        """Take over a part that another row has trained from the same; its run folder last, since where that is
        nothing is borrowed again."""
        if (folder / "runs" / part).exists():
            return
        lender = self._lender(folder, part, key)
        if lender is None:
            return
        shutil.copy2(lender / f"{part}.safetensors", folder / f"{part}.safetensors")
        if part == "tokenizer" and (lender / "runs" / "tokens").exists():
            _copy_whole(lender / "runs" / "tokens", folder / "runs" / "tokens", link=True)
        steps = read_json(lender / "runs" / "budget.json", {}).get(part)
        if steps is not None:
            budget = folder / "runs" / "budget.json"
            write_text(budget, json.dumps(read_json(budget, {}) | {part: steps}, indent=1))
        _copy_whole(lender / "runs" / part, folder / "runs" / part)

    def _lender(self, folder: Path, part: str, key: str) -> Path | None:
        """Another row's folder, in which the same part is finished."""
        for other in sorted(self.models.iterdir()):
            if other != folder and self._known_keys(other).get(part) == key and is_finished(other, part, 1):
                return other
        return None


def _copy_whole(source: Path, target: Path, link: bool = False) -> None:
    """Copy a folder, or link its files, so that the copy is there whole or not at all."""
    aside = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source, aside, copy_function=os.link if link else shutil.copy2)
    shutil.rmtree(target, ignore_errors=True)
    aside.replace(target)


def _own(parts: Sequence[str]) -> list[str]:
    """The parts that a row has to itself."""
    return [part for part in parts if part != _SHARED]


def slug(name: str) -> str:
    """A name as it may stand in a file's."""
    return re.sub(r"[^a-z0-9+]+", "-", name.casefold()).strip("-")
