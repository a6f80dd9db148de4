"""A part of a model in training, and the inputs that all parts of a model folder share."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import nn

from strait.config import Config, write_config
from strait.data.job import Job
from strait.data.sources import ImageSource
from strait.data.summary import changes
from strait.model.folder import write_description
from strait.runs.starting_weights import start_from, start_with_what_fits
from strait.training.loop import Trainee


class Part(Protocol):
    """A part of a model, or the classifier, in training."""

    def prepare(self, config: Config) -> None:
        """Prepare the training data, such as a token cache.

        Raises:
            ModelError: if another part that this one needs is missing.
            Stopped: if the job was stopped first.
        """
        ...

    def networks(self) -> Mapping[str, str]:
        """The networks to train, one after the other: names of their run folders, with the prefix of their weights in
        the part's file."""
        ...

    def trainee(self, network: str, config: Config) -> Trainee:
        """A network ready to be trained from its first step; identical at every call."""
        ...


@dataclass(frozen=True)
class ModelRun:
    """The inputs that the parts of a model share in training.

    Args:
        folder: of the model.
        data: the value of ``--data``.
        photographs: to train on.
        validation: validation photographs, if there are any.
        classes: of the photographs.
        init_from: folder of a model whose weights parts start from.
        partly: only the tokenizer starts from it, and only with the weights that fit.
        job: the device, the processes and the stop request.
    """

    folder: Path
    data: str
    photographs: ImageSource
    validation: ImageSource | None
    classes: list[str]
    init_from: Path | None
    partly: bool
    job: Job

    def run_folder(self, network: str) -> Path:
        """The folder of a network's checkpoints and log."""
        return self.folder / "runs" / network

    def begin(self, network: str, config: Config) -> None:
        """Create the run folder of a network and write the settings; call this after all checks."""
        self.job.ranks.on_first(lambda: self._write_settings(network, config))

    def _write_settings(self, network: str, config: Config) -> None:
        write_config(self.folder / "runs" / "config.yaml", config)
        note = self.folder / "runs" / "data.json"
        message = changes(note, self.photographs, self.photographs.fingerprint())
        if message is not None:
            print(message, file=sys.stderr)
        write_description(self.folder, config.model, self.classes, config.decoding)
        self.run_folder(network).mkdir(parents=True, exist_ok=True)

    def start_weights(self, part: str, module: nn.Module, config: Config) -> bool:
        """Copy a part's weights from ``init_from``, if that has this part; whether all of them were copied."""
        if self.init_from is None or not (self.init_from / f"{part}.safetensors").exists():
            return False
        if self.partly:
            return part == "tokenizer" and not start_with_what_fits(self.init_from, part, module)
        start_from(self.init_from, part, module, config.model, self.classes)
        return True
