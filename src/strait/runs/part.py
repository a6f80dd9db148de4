"""A part of a model as it is trained, and what all parts of one model folder share."""

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
from strait.runs.starting_weights import start_from
from strait.training.loop import Trainee


class Part(Protocol):
    """A part of a model, or the classifier beside it, as it is trained."""

    def prepare(self, config: Config) -> None:
        """Make what its networks learn from; nothing where that is photographs.

        Raises:
            ModelError: if another part is missing that this one needs.
            Stopped: if the job was to stop first.
        """
        ...

    def networks(self) -> Mapping[str, str]:
        """What is trained, one after the other: names of run folders, each with the prefix that its weights have in
        the part's file."""
        ...

    def trainee(self, network: str, config: Config) -> Trainee:
        """A network of this part with all that trains it, from the start; the same each time it is asked for."""
        ...


@dataclass(frozen=True)
class ModelRun:
    """What the parts of a model share while they are trained.

    Args:
        folder: of the model.
        data: what ``--data`` names.
        photographs: to learn from.
        validation: those kept apart; None where there are none.
        classes: of the photographs.
        init_from: folder of a model whose weights a part starts from.
        job: where, by which processes and until when.
    """

    folder: Path
    data: str
    photographs: ImageSource
    validation: ImageSource | None
    classes: list[str]
    init_from: Path | None
    job: Job

    def run_folder(self, network: str) -> Path:
        """Where the training of a network keeps its checkpoints and its log."""
        return self.folder / "runs" / network

    def begin(self, network: str, config: Config) -> None:
        """Make the run folder of a network, and write the settings: to be called once nothing can refuse them."""
        self.job.ranks.on_first(lambda: self._write_settings(network, config))

    def _write_settings(self, network: str, config: Config) -> None:
        write_config(self.folder / "runs" / "config.yaml", config)
        note = self.folder / "runs" / "data.json"
        changed = changes(note, self.photographs, self.photographs.fingerprint())
        if changed is not None:
            print(changed, file=sys.stderr)
        write_description(self.folder, config.model, self.classes, config.decoding)
        self.run_folder(network).mkdir(parents=True, exist_ok=True)

    def start_weights(self, part: str, module: nn.Module, config: Config) -> None:
        """Copy the weights of the model that training starts from, where it has this part."""
        if self.init_from is not None and (self.init_from / f"{part}.safetensors").exists():
            start_from(self.init_from, part, module, config.model, self.classes)
