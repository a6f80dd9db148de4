"""What a model folder was begun with, and which of its parts are finished: what resuming relies on."""

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
"""What is trained on no tokenizer's tokens."""


def settled_config(folder: Path, config: Config | None) -> Config:
    """The settings to train with: those asked for, if they agree with what the folder was begun with; without any,
    those it was begun with.

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
        new, old = getattr(config.model, field.name), getattr(before.model, field.name)
        grows = field.name == "upsampler" and old is None
        if new != old and not grows:
            raise ModelError(
                f"--config: {field.name} differs from what {folder} was begun with; "
                f"choose another --model or leave --config out"
            )
    return config


def settled_classes(folder: Path, classes: Sequence[str]) -> list[str]:
    """The classes of a data set, if they are those that the folder was begun with.

    Raises:
        DataError: if they are others.
    """
    names = list(classes)
    if (folder / "config.json").exists():
        _, before, _ = read_description(folder)
        if before != names:
            raise DataError(
                f"--data: its {len(names)} classes are not the {len(before)} that {folder} was begun with "
                f"({_first_difference(before, names)}); choose another --model, with --init-from {folder} to "
                "start from what it has learned"
            )
    return names


def _first_difference(before: Sequence[str], now: Sequence[str]) -> str:
    for kind, names, others in (("new", now, set(before)), ("gone", before, set(now))):
        differing = [name for name in names if name not in others]
        if differing:
            return f"{kind}: {differing[0]!r}" + (f" and {len(differing) - 1} more" if len(differing) > 1 else "")
    place = next(place for place, pair in enumerate(zip(before, now, strict=False)) if pair[0] != pair[1])
    return f"number {place} was {before[place]!r} and is {now[place]!r}"


def is_finished(folder: Path, part: str, steps: int) -> bool:
    """Whether a part has been trained for so many steps, on the tokenizer that is there, and is still what it was
    then; if it is not, that is said."""
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
        print(f"{path} is damaged ({fault}); the {part} is made again from its last checkpoint", file=sys.stderr)
    return fault is None


def _fault(path: Path, note: dict[str, Any]) -> str | None:
    """How a file differs from the one that was noted, if it does."""
    if "sha256" not in note:  # noted before hashes were
        return None
    size = path.stat().st_size
    if size != note.get("bytes"):
        return f"it has {size} bytes instead of {note.get('bytes')}"
    return None if sha256(path) == note["sha256"] else "its hash differs"


def refuse_damaged(folder: Path, part: str) -> None:
    """Refuse a finished part that is no longer what it was.

    Raises:
        ModelError: if its file differs from the one that was noted when it was finished.
    """
    path, note = folder / f"{part}.safetensors", folder / "runs" / part / "finished.json"
    try:
        fault = _fault(path, json.loads(note.read_text()))
    except (OSError, ValueError, AttributeError, TypeError):
        return
    if fault is not None:
        raise ModelError(f"{path} is damaged ({fault}); strait train {part} makes it again from its last checkpoint")


def write_part(folder: Path, part: str, weights: dict[str, Tensor], steps: int | None) -> None:
    """Put a part's weights into the model folder.

    Args:
        folder: of the model.
        part: which.
        weights: of the part.
        steps: for which it has been trained to its end; None where training was stopped before.
    """
    forget_finished(folder, part)
    if part == "tokenizer":
        _replace_tokenizer(folder, weights)
    else:
        save_part(folder, part, weights)
    if steps is not None:
        note_finished(folder, part, steps)


def forget_finished(folder: Path, part: str) -> None:
    """A part is about to be written anew: delete the note about the one before."""
    (folder / "runs" / part / "finished.json").unlink(missing_ok=True)


def note_finished(folder: Path, part: str, steps: int) -> None:
    """Write down what ``is_finished`` asks."""
    weights = folder / f"{part}.safetensors"
    note: dict[str, int | str] = {"steps": steps, "bytes": weights.stat().st_size, "sha256": sha256(weights)}
    if part not in _OF_ITSELF:
        note["tokenizer"] = file_hash(folder / "tokenizer.safetensors")
    path = folder / "runs" / part / "finished.json"
    path.parent.mkdir(exist_ok=True)  # a cascade trains in folders of other names
    write_text(path, json.dumps(note))


def _tokenizer_of(folder: Path, part: str) -> str | None:
    """The hash of the tokenizer that a transformer was begun on, where it has been written down.

    Raises:
        ModelError: if what is written there is no text.
    """
    note = folder / "runs" / part / "tokenizer.txt"
    try:
        return note.read_text(encoding="utf-8").strip() if note.exists() else None
    except UnicodeDecodeError as error:
        raise ModelError(f"{note} is damaged (it is not text); delete it if {part} is of this tokenizer") from error


def _replace_tokenizer(folder: Path, weights: dict[str, Tensor]) -> None:
    """Write the tokenizer. Transformers of another one are renamed before it takes its place: at no moment does a
    folder hold two that do not belong together."""
    aside = folder / "runs" / "tokenizer"
    aside.mkdir(exist_ok=True)  # a cascade trains in folders of other names
    save_part(aside, "tokenizer", weights)
    written = aside / "tokenizer.safetensors"
    written.chmod((folder / "config.json").stat().st_mode)
    _set_aside_others_tokens(folder, file_hash(written))
    written.replace(folder / "tokenizer.safetensors")
    flush(folder)


def _set_aside_others_tokens(folder: Path, digest: str) -> None:
    """Rename transformers that were trained on another tokenizer's tokens: they would not fit this one's."""
    for part in PARTS[1:]:
        weights, before = folder / f"{part}.safetensors", _tokenizer_of(folder, part)
        if weights.exists() and before is not None and before != digest:
            aside = weights.with_name(f"{part}-of-{before}.safetensors")
            weights.replace(aside)
            print(f"the {part} was trained on another tokenizer; it is now {aside}", file=sys.stderr)


def refuse_other_tokenizer(folder: Path, part: str) -> None:
    """A transformer begun on another tokenizer's tokens cannot go on with these."""
    digest, before = file_hash(folder / "tokenizer.safetensors"), _tokenizer_of(folder, part)
    if before is None:
        write_text(folder / "runs" / part / "tokenizer.txt", digest)
    elif before != digest:
        raise ModelError(
            f"{part} was begun on another tokenizer than the one in {folder}; "
            f"delete {folder / 'runs' / part} to train it anew"
        )


def runnable(config: Config, device: torch.device) -> Config:
    """The settings as they can be had here: without compilation where nothing can compile, in float32 where bfloat16
    would only be imitated. Either is said, once."""
    run = config.run
    if usable_dtype(DTYPES[run.precision], device) == torch.float32:
        run = dataclasses.replace(run, precision="float32")
    if run.compile and not can_compile(device):
        print("run.compile: no compiler was found here; training runs uncompiled, slower", file=sys.stderr)
        run = dataclasses.replace(run, compile=False)
    return dataclasses.replace(config, run=run)


def file_hash(path: Path) -> str:
    """Twelve digits of a file's SHA-256."""
    return sha256(path)[:12]
