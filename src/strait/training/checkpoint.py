"""Checkpoints that survive a kill at any moment: written aside, flushed, renamed; verified before they are believed.

runs/PART/checkpoints/step-00001000/state.safetensors   every tensor of the training state
                                    state.json          step, and what log and guard go on from
                                    manifest.json       size and hash of both; written last
"""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from strait.runtime.files import flush, sha256, write_tensors, write_text

_FILES = ("state.safetensors", "state.json")


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with a prefix, without it."""
    return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}


def save_checkpoint(
    folder: Path, step: int, tensors: dict[str, Tensor], notes: dict[str, Any], keep: int, best: int | None = None
) -> Path:
    """Write the state after ``step`` steps and drop all but the newest ``keep`` and that of the step ``best``.

    Raises:
        OSError: if it cannot be written; earlier checkpoints are then untouched.
    """
    try:
        target = _write(folder, step, tensors, notes)
    except OSError as error:
        before = newest_checkpoint(folder)
        kept = f"{before} is whole" if before else "there is no earlier one"
        # In words of ours: the system's own name a temporary file, or none at all.
        raise OSError(
            f"{folder}: the checkpoint of step {step} could not be written ({error.strerror or error}); {kept}; "
            "make room, or give leave to write there, and rerun the command to resume"
        ) from error
    for old in _checkpoints(folder)[keep:]:
        if old.name != _name(best):
            shutil.rmtree(old, ignore_errors=True)
    return target


def _name(step: int | None) -> str:
    return "" if step is None else f"step-{step:08d}"


def _write(folder: Path, step: int, tensors: dict[str, Tensor], notes: dict[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / _name(step)
    aside = folder / f".{target.name}.tmp"
    for left in folder.glob(".step-*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    aside.mkdir()
    try:
        write_tensors(aside / "state.safetensors", tensors)
        write_text(aside / "state.json", json.dumps({"step": step, **notes}))
        manifest = {name: {"bytes": (aside / name).stat().st_size, "sha256": sha256(aside / name)} for name in _FILES}
        write_text(aside / "manifest.json", json.dumps(manifest, indent=1))
        flush(aside)
        shutil.rmtree(target, ignore_errors=True)
        aside.replace(target)
        flush(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise
    return target


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True) if folder.is_dir() else []


def _fault(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be believed, or None."""
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        for name in _FILES:
            path, noted = checkpoint / name, manifest[name]
            if path.stat().st_size != noted["bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {noted['bytes']}"
            if sha256(path) != noted["sha256"]:
                return f"{name} is damaged (its hash differs)"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its manifest cannot be used ({type(error).__name__}: {error})"
    return None


def _unused(path: Path) -> Path:
    number = 1
    free = path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; broken ones are passed over and left where they are."""
    return next((path for path in _checkpoints(folder) if _fault(path) is None), None)


def set_damaged_aside(folder: Path) -> None:
    """Name and rename the checkpoints that ``load_checkpoint`` would pass over."""
    load_checkpoint(folder)


def load_checkpoint(folder: Path) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
    """The newest checkpoint that is whole: (step, tensors, notes), or None; broken ones are named and passed over."""
    for checkpoint in _checkpoints(folder):
        fault = _fault(checkpoint)
        if fault is None:
            try:
                notes = json.loads((checkpoint / "state.json").read_text())
                return int(notes.pop("step")), load_file(str(checkpoint / "state.safetensors")), notes
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                fault = str(error)
        print(f"{checkpoint} is passed over: {fault}", file=sys.stderr, flush=True)
        # Out of the way of those to come, which must not be thought older than it.
        with suppress(OSError):
            checkpoint.rename(_unused(checkpoint.with_name(f"damaged-{checkpoint.name}")))
    return None
