"""What a model folder was begun with, and which of its parts are finished: what resuming relies on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from strait.config import Config, read_config
from strait.data.sources import DataError
from strait.files import write_text
from strait.model_config import PARTS
from strait.model_folder import ModelError, read_description

_OF_ITSELF = ("classifier", "tokenizer")
"""What is trained on no tokenizer's tokens."""


def settled_config(folder: Path, config: Config | None) -> Config:
    """The settings to train with: those wanted, if they are not at odds with what the folder was begun with; without
    any wanted, those it was begun with.

    Raises:
        ModelError: naming what differs.
    """
    stored = folder / "runs" / "config.yaml"
    if not stored.exists():
        if config is None:
            raise ModelError(f"--model: there is no {stored}, which training writes")
        if (folder / "config.json").exists():
            raise ModelError(
                f"--model: {folder} holds a model that was not trained here; "
                f"choose another --model, with --init-from {folder} to start from it"
            )
        return config
    before = read_config(stored)
    if config is None:
        return before
    if config.run.seed != before.run.seed:
        raise ModelError(f"run.seed: {folder} was begun with {before.run.seed}, not {config.run.seed}")
    if config.classifier != before.classifier and (folder / "runs" / "classifier").exists():
        raise ModelError(
            f"--config: classifier differs from what {folder} was begun with; choose another --model, leave --config "
            f"out, or delete {folder / 'runs' / 'classifier'} to train it anew"
        )
    for field in dataclasses.fields(config.model):
        mine, theirs = getattr(config.model, field.name), getattr(before.model, field.name)
        grows = field.name == "upsampler" and theirs is None
        if mine != theirs and not grows:
            raise ModelError(
                f"--config: {field.name} differs from what {folder} was begun with; "
                f"choose another --model or leave --config out"
            )
    return config


def settled_classes(folder: Path, found: Sequence[str]) -> list[str]:
    """The classes of a data set, if they are those that the folder was begun with.

    Raises:
        DataError: if they are others.
    """
    names = list(found)
    if (folder / "config.json").exists():
        _, before, _ = read_description(folder)
        if before != names:
            raise DataError(f"--data: its {len(names)} classes are not the {len(before)} that {folder} was begun with")
    return names


def is_finished(folder: Path, part: str, steps: int) -> bool:
    """Whether a part has been trained for so many steps, on the tokenizer that is there."""
    try:
        note = json.loads((folder / "runs" / part / "finished.json").read_text())
        if note["steps"] < steps or not (folder / f"{part}.safetensors").exists():
            return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return part in _OF_ITSELF or note.get("tokenizer") == file_hash(folder / "tokenizer.safetensors")


def note_finished(folder: Path, part: str, steps: int) -> None:
    """Write down what ``is_finished`` asks."""
    note: dict[str, int | str] = {"steps": steps}
    if part not in _OF_ITSELF:
        note["tokenizer"] = file_hash(folder / "tokenizer.safetensors")
    path = folder / "runs" / part / "finished.json"
    path.parent.mkdir(exist_ok=True)  # a cascade trains in folders of other names
    write_text(path, json.dumps(note))


def set_aside_others_tokens(folder: Path) -> None:
    """Transformers of another tokenizer must not be taken for this one's."""
    digest = file_hash(folder / "tokenizer.safetensors")
    for part in PARTS[1:]:
        note, weights = folder / "runs" / part / "tokenizer.txt", folder / f"{part}.safetensors"
        if weights.exists() and note.exists() and note.read_text() != digest:
            aside = weights.with_name(f"{part}-of-{note.read_text()}.safetensors")
            weights.replace(aside)
            print(f"the {part} was trained on another tokenizer; it is now {aside}", file=sys.stderr)


def refuse_other_tokenizer(folder: Path, part: str) -> None:
    """A transformer begun on another tokenizer's tokens cannot go on with these."""
    note, digest = folder / "runs" / part / "tokenizer.txt", file_hash(folder / "tokenizer.safetensors")
    if not note.exists():
        write_text(note, digest)
    elif note.read_text() != digest:
        raise ModelError(
            f"{part} was begun on another tokenizer than the one in {folder}; delete {note.parent} to train it anew"
        )


def compilable(config: Config, device: torch.device) -> Config:
    """The settings without compilation where nothing here can compile."""
    if not config.run.compile:
        return config
    try:
        if device.type == "cuda":
            import triton  # noqa: F401
        else:
            from torch._inductor.cpp_builder import get_cpp_compiler

            get_cpp_compiler()
    except Exception:
        print("run.compile: no compiler was found here; training goes on uncompiled, slower", file=sys.stderr)
        return dataclasses.replace(config, run=dataclasses.replace(config.run, compile=False))
    return config


def file_hash(path: Path) -> str:
    """Twelve digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
