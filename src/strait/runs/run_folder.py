"""The state of a model folder that resuming relies on: its settings and classes, and which parts are finished."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from strait.config import Config, read_config
from strait.data.sources import DataError
from strait.model.config import PARTS, ModelError
from strait.model.folder import read_description, save_part
from strait.runtime.devices import DTYPES, can_compile, usable_dtype
from strait.runtime.files import flush, sha256, write_text

_OF_ITSELF = ("classifier", "tokenizer")
"""Parts that are trained on photographs, not on tokens."""


def settled_config(folder: Path, config: Config | None) -> Config:
    """The settings to train with: ``config`` if it is compatible with those in the folder; without one, those in the
    folder.

    Raises:
        ModelError: naming the difference.
    """
    stored = folder / "runs" / "config.yaml"
    if not stored.exists():
        if config is None:
            raise ModelError(f"--model: {stored} is missing; name a --config to start training")
        if (folder / "config.json").exists():
            raise ModelError(
                f"--model: {folder} has a model that was trained elsewhere; "
                f"choose another --model, with --init-from {folder} to start from it"
            )
        return config
    before = read_config(stored)
    if config is None:
        return before
    if config.run.seed != before.run.seed:
        raise ModelError(f"run.seed: {folder} was started with {before.run.seed}, not {config.run.seed}")
    if config.classifier != before.classifier and (folder / "runs" / "classifier").exists():
        raise ModelError(
            f"--config: classifier differs from the settings that {folder} was started with; choose another --model, "
            f"omit --config, or delete {folder / 'runs' / 'classifier'} to train it again"
        )
    for field in dataclasses.fields(config.model):
        new, old = getattr(config.model, field.name), getattr(before.model, field.name)
        grows = field.name == "upsampler" and old is None
        if new != old and not grows:
            raise ModelError(
                f"--config: {field.name} differs from the settings that {folder} was started with; "
                f"choose another --model or omit --config"
            )
    return config


def settled_classes(folder: Path, classes: Sequence[str]) -> list[str]:
    """The classes of a data set, if they are those of the folder.

    Raises:
        DataError: if they differ.
    """
    names = list(classes)
    if (folder / "config.json").exists():
        _, before, _ = read_description(folder)
        if before != names:
            raise DataError(
                f"--data: its {len(names)} classes are not the {len(before)} that {folder} was started with "
                f"({_first_difference(before, names)}); choose another --model, with --init-from {folder} to "
                "start from its weights"
            )
    return names


def _first_difference(before: Sequence[str], now: Sequence[str]) -> str:
    for kind, names, common in (("new", now, set(before)), ("missing", before, set(now))):
        differing = [name for name in names if name not in common]
        if differing:
            return f"{kind}: {differing[0]!r}" + (f" and {len(differing) - 1} more" if len(differing) > 1 else "")
    index = next(index for index, pair in enumerate(zip(before, now, strict=False)) if pair[0] != pair[1])
    return f"number {index} was {before[index]!r} and is now {now[index]!r}"


def is_finished(folder: Path, part: str, steps: int) -> bool:
    """Whether a part has been trained for ``steps`` steps with the present tokenizer, and its file is intact; a
    damaged file is reported."""
    path = folder / f"{part}.safetensors"
    try:
        note = json.loads((folder / "runs" / part / "finished.json").read_text())
        if note["steps"] < steps or not path.exists():
            return False
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if part not in _OF_ITSELF and note.get("tokenizer") != file_hash(folder / "tokenizer.safetensors"):
        return False
    fault = _fault(path, note)
    if fault is not None:
        print(f"{path} is damaged ({fault}); the {part} is restored from its last checkpoint", file=sys.stderr)
    return fault is None


def _fault(path: Path, note: dict[str, Any]) -> str | None:
    """Why a file differs from the one described in a note; None if it does not."""
    if "sha256" not in note:  # a note from before hashes were stored
        return None
    size = path.stat().st_size
    if size != note.get("bytes"):
        return f"it has {size} bytes instead of {note.get('bytes')}"
    return None if sha256(path) == note["sha256"] else "its hash differs"


def refuse_damaged(folder: Path, part: str) -> None:
    """Refuse a finished part with a damaged file.

    Raises:
        ModelError: if the file has changed since the part was finished.
    """
    path, note = folder / f"{part}.safetensors", folder / "runs" / part / "finished.json"
    try:
        fault = _fault(path, json.loads(note.read_text()))
    except (OSError, ValueError, AttributeError, TypeError):
        return
    if fault is not None:
        raise ModelError(f"{path} is damaged ({fault}); strait train {part} restores it from its last checkpoint")


def write_part(folder: Path, part: str, weights: dict[str, Tensor], steps: int | None) -> None:
    """Write a part's weights to the model folder.

    Args:
        folder: of the model.
        part: name of the part.
        weights: of the part.
        steps: number of steps if training is finished; None if it was stopped.
    """
    forget_finished(folder, part)
    if part == "tokenizer":
        _replace_tokenizer(folder, weights)
    else:
        save_part(folder, part, weights)
    if steps is not None:
        note_finished(folder, part, steps)


def forget_finished(folder: Path, part: str) -> None:
    """Delete the note that a part is finished, before it is written again."""
    (folder / "runs" / part / "finished.json").unlink(missing_ok=True)


def note_finished(folder: Path, part: str, steps: int) -> None:
    """Write the note that ``is_finished`` reads."""
    weights = folder / f"{part}.safetensors"
    note: dict[str, int | str] = {"steps": steps, "bytes": weights.stat().st_size, "sha256": sha256(weights)}
    if part not in _OF_ITSELF:
        note["tokenizer"] = file_hash(folder / "tokenizer.safetensors")
    path = folder / "runs" / part / "finished.json"
    path.parent.mkdir(exist_ok=True)  # the run folders of a cascade have other names
    write_text(path, json.dumps(note))


def _tokenizer_of(folder: Path, part: str) -> str | None:
    """The hash of the tokenizer that a transformer's training started with, if it is recorded.

    Raises:
        ModelError: if the record is not text.
    """
    note = folder / "runs" / part / "tokenizer.txt"
    try:
        return note.read_text(encoding="utf-8").strip() if note.exists() else None
    except UnicodeDecodeError as error:
        raise ModelError(
            f"{note} is damaged (it is not text); delete it if {part} was trained with this tokenizer"
        ) from error


def _replace_tokenizer(folder: Path, weights: dict[str, Tensor]) -> None:
    """Write the tokenizer. Transformers of another tokenizer are renamed first, so that the folder never has parts
    that do not fit each other."""
    aside = folder / "runs" / "tokenizer"
    aside.mkdir(exist_ok=True)  # the run folders of a cascade have other names
    save_part(aside, "tokenizer", weights)
    written = aside / "tokenizer.safetensors"
    written.chmod((folder / "config.json").stat().st_mode)
    _set_aside_others_tokens(folder, file_hash(written))
    written.replace(folder / "tokenizer.safetensors")
    flush(folder)


def _set_aside_others_tokens(folder: Path, digest: str) -> None:
    """Rename transformers that were trained with another tokenizer."""
    for part in PARTS[1:]:
        weights, before = folder / f"{part}.safetensors", _tokenizer_of(folder, part)
        if weights.exists() and before is not None and before != digest:
            aside = weights.with_name(f"{part}-of-{before}.safetensors")
            weights.replace(aside)
            print(f"the {part} was trained with another tokenizer; it has been renamed to {aside}", file=sys.stderr)


def refuse_other_tokenizer(folder: Path, part: str) -> None:
    """Refuse to resume a transformer with another tokenizer than it was started with; record a new one's tokenizer.

    Raises:
        ModelError: if the tokenizer differs.
    """
    digest, before = file_hash(folder / "tokenizer.safetensors"), _tokenizer_of(folder, part)
    if before is None:
        write_text(folder / "runs" / part / "tokenizer.txt", digest)
    elif before != digest:
        raise ModelError(
            f"{part} was started with another tokenizer than the one in {folder}; "
            f"delete {folder / 'runs' / part} to train it again"
        )


def runnable(config: Config, device: torch.device) -> Config:
    """The settings that this machine can run: without compilation if there is no compiler, in float32 if bfloat16 is
    only emulated. Changes are reported once."""
    run = config.run
    if usable_dtype(DTYPES[run.precision], device) == torch.float32:
        run = dataclasses.replace(run, precision="float32")
    if run.compile and not can_compile(device):
        print("run.compile: no compiler was found; training runs uncompiled and slower", file=sys.stderr)
        run = dataclasses.replace(run, compile=False)
    return dataclasses.replace(config, run=run)


def file_hash(path: Path) -> str:
    """Twelve digits of a file's SHA-256."""
    return sha256(path)[:12]
