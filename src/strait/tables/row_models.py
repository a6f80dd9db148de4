"""The models of tables' rows: each part is trained once, and shared by all rows and tables that need it.

OUTPUT/models/NAME-KEY/    a model folder; its runs/keys.json has a hash of the inputs of each part,
                           its runs/paces.json one of what a training step costs
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from strait.config import Config
from strait.data.job import Job
from strait.data.sources import open_images
from strait.runs.budget import share_of
from strait.runs.run_folder import file_hash, is_finished
from strait.runs.training import ModelTraining
from strait.runtime.files import read_json, write_text
from strait.runtime.ranks import ALONE, Ranks
from strait.runtime.stop import Stop

_SHARED = "classifier"


@dataclass(frozen=True)
class Trainer:
    """Trains the models of a table's rows.

    Args:
        models: folder of the model folders.
        data: the value of ``--data``.
        device: to train on.
        budget: minutes of training for each row, not counting the shared classifier; None uses the configuration's
            steps.
        stop: checked after each step.
        ranks: the processes that train together.
        tokenizer_budget: minutes of training for each tokenizer, which is then trained once for all seeds; ``budget``
            is that of the transformers alone. None trains a tokenizer for each seed, within ``budget``.
        tokenizer_seed: of such a tokenizer.
        init_from: folder of a model whose weights each tokenizer starts from, as far as they fit.
    """

    models: Path
    data: str
    device: torch.device
    budget: float | None
    stop: Stop
    ranks: Ranks = ALONE
    tokenizer_budget: float | None = None
    tokenizer_seed: int = 0
    init_from: Path | None = None

    def train(self, name: str, config: Config, parts: Sequence[str]) -> Path | None:
        """Train the missing parts of a row's model and return its folder; None if stopped first."""
        if self.tokenizer_budget is not None and not self._tokenizer(config):
            return None
        keys = self.part_keys(config, parts)
        folder = self.ranks.on_first(lambda: self._prepared(name, config, keys))
        # All rows share the classifier, like a pretrained network: it does not count in their equal budgets.
        training = self._training(folder, config)
        if _SHARED in parts and not self._is_separate(_SHARED) and not training().run([_SHARED]):
            return None
        return folder if training(budget=self.budget).run(self._budgeted(parts)) else None

    def _training(self, folder: Path, config: Config) -> Callable[..., ModelTraining]:
        source = None if self.init_from is None else str(self.init_from)
        job = Job(self.device, self.ranks, self.stop)
        return partial(ModelTraining, folder, config, self.data, job, init_from=source, partly=source is not None)

    def _tokenizer(self, config: Config) -> bool:
        """Train the tokenizer of a row, and make its tokens, in a folder of its own; False if stopped first."""
        config = dataclasses.replace(config, run=dataclasses.replace(config.run, seed=self.tokenizer_seed))
        parts = list(config.tokenizer_parts)
        keys = self.part_keys(config, parts)
        folder = self.ranks.on_first(lambda: self._prepared(f"tokenizer-{config.tokenizer.kind}", config, keys))
        training = self._training(folder, config)
        if _SHARED in parts and not training().run([_SHARED]):
            return False
        done = training(budget=self.tokenizer_budget).run(["tokenizer"])
        return done and training().encode() is not None

    def _is_separate(self, part: str) -> bool:
        """Whether a part is trained once for all seeds, with minutes of its own."""
        return self.tokenizer_budget is not None and part in (_SHARED, "tokenizer")

    def _budgeted(self, parts: Sequence[str]) -> list[str]:
        """The parts whose training counts in a row's budget."""
        return [part for part in parts if part != _SHARED and not self._is_separate(part)]

    def _minutes(self, part: str, parts: Sequence[str]) -> float | None:
        """The minutes of training for a part; None if its configuration's steps count."""
        if part == "tokenizer" and self._is_separate(part):
            return self.tokenizer_budget
        if self.budget is None or part == _SHARED:
            return None
        return self.budget * share_of(part, self._budgeted(parts))

    def _prepared(self, name: str, config: Config, keys: dict[str, str]) -> Path:
        """The row's folder, with copies of the parts that other rows have trained, and of their numbers of steps."""
        folder = self._folder(name, keys)
        (folder / "runs").mkdir(parents=True, exist_ok=True)
        write_text(folder / "runs" / "keys.json", json.dumps(self._known_keys(folder) | keys, indent=1))
        for part, key in keys.items():
            self._borrow(folder, part, key)
        paces = self._paces(config, list(keys))
        write_text(folder / "runs" / "paces.json", json.dumps(_known_paces(folder) | paces, indent=1))
        for part, pace in paces.items():
            self._keep_pace(folder, part, pace)
        return folder

    def _paces(self, config: Config, parts: Sequence[str]) -> dict[str, str]:
        """A hash of what a training step of each part costs, and of its minutes: equal hashes mean equal steps."""
        paces: dict[str, str] = {}
        for part in parts:
            about = {
                "image_size": config.image_size,
                "tokens": [config.model.grids, config.tokenizer.codebook_sizes],
                "shape": dataclasses.asdict(getattr(config, part)),
                "training": dataclasses.asdict(getattr(config, f"{part}_training")),
                "run": [config.run.precision, config.run.compile, config.run.recompute],
                "minutes": self._minutes(part, parts),
            }
            if getattr(getattr(config, f"{part}_training"), "condition_augmentation", 0):
                about["top"] = dataclasses.asdict(config.top)  # it predicts tokens in every step
            paces[part] = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:12]
        return paces

    def _keep_pace(self, folder: Path, part: str, pace: str) -> None:
        """Take over the number of steps of another row or seed whose steps cost the same, unless this row has its own.

        Two rehearsals never measure the same speed, and then one of two seeds would be trained longer.
        """
        budget = folder / "runs" / "budget.json"
        settled = read_json(budget, {})
        if part in settled:
            return
        for model in sorted(self.models.iterdir()):
            steps = read_json(model / "runs" / "budget.json", {}).get(part)
            if steps is not None and _known_paces(model).get(part) == pace:
                write_text(budget, json.dumps(settled | {part: steps}, indent=1))
                return

    def part_keys(self, config: Config, parts: Sequence[str]) -> dict[str, str]:
        """A hash of the inputs of each part: equal keys mean equal weights (up to rounding)."""
        source = self.ranks.on_first(open_images(self.data, "train").fingerprint)
        keys: dict[str, str] = {}
        for part in parts:
            training = getattr(config, f"{part}_training")
            made_from = {
                "data": source,
                "image_size": config.image_size,
                "cut": dataclasses.asdict(config.data),
                "shape": dataclasses.asdict(getattr(config, part)),
                "training": dataclasses.asdict(training),
                "seed": self.tokenizer_seed if self._is_separate(part) else config.run.seed,
                "precision": config.run.precision,
                "minutes": self._minutes(part, parts),
            }
            if part == "tokenizer" and self.init_from is not None:
                made_from["init_from"] = file_hash(self.init_from / "tokenizer.safetensors")
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
        folders = sorted(self.models.glob(f"*-{digest}"))
        return folders[0] if folders else self.models / f"{slug(name)}-{digest}"

    @staticmethod
    def _known_keys(folder: Path) -> dict[str, str]:
        return read_json(folder / "runs" / "keys.json", {})

    def _borrow(self, folder: Path, part: str, key: str) -> None:
        """Copy a part that another row has trained with the same key, unless this row has started it.

        The run folder marks the part as copied, so it comes last: an interrupted copy is repeated.
        """
        run_folder = folder / "runs" / part
        source = None if run_folder.exists() else self._finished_elsewhere(folder, part, key)
        if source is None:
            return
        shutil.copy2(source / f"{part}.safetensors", folder / f"{part}.safetensors")
        if part == "tokenizer" and (source / "runs" / "tokens").exists():
            _copy_atomically(source / "runs" / "tokens", folder / "runs" / "tokens", link=True)
        steps = read_json(source / "runs" / "budget.json", {}).get(part)
        if steps is not None:
            budget = folder / "runs" / "budget.json"
            write_text(budget, json.dumps(read_json(budget, {}) | {part: steps}, indent=1))
        _copy_atomically(source / "runs" / part, run_folder)

    def _finished_elsewhere(self, folder: Path, part: str, key: str) -> Path | None:
        """The folder of another row in which this part is finished."""
        for model in sorted(self.models.iterdir()):
            if model != folder and self._known_keys(model).get(part) == key and is_finished(model, part, 1):
                return model
        return None


def _known_paces(folder: Path) -> dict[str, str]:
    return read_json(folder / "runs" / "paces.json", {})


def _copy_atomically(source: Path, target: Path, link: bool = False) -> None:
    """Copy a folder (or hard-link its files) so that the target is complete or missing."""
    aside = target.with_name(f"{target.name}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(source, aside, copy_function=os.link if link else shutil.copy2)
    shutil.rmtree(target, ignore_errors=True)
    aside.replace(target)


def slug(name: str) -> str:
    """A name in a form that is safe in file names."""
    return re.sub(r"[^a-z0-9+]+", "-", name.casefold()).strip("-")
