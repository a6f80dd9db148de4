"""Checkpoints that survive a kill at any moment: written to a temporary folder, flushed, renamed; verified when read.

runs/PART/checkpoints/step-00001000/state.safetensors   every tensor of the training state
                                    state.json          the step, and the state of log and guard
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
    """Write the state after ``step`` steps; delete all but the newest ``keep`` checkpoints and that of step ``best``.

    Raises:
        OSError: if it cannot be written; earlier checkpoints are then unchanged.
    """
    try:
        target = _write(folder, step, tensors, notes)
    except OSError as error:
        before = newest_checkpoint(folder)
        state = f"{before} is intact" if before else "there is no earlier one"
        # The system's message names a temporary file, or none at all.
        raise OSError(
            f"{folder}: the checkpoint of step {step} could not be written ({error.strerror or error}); {state}; "
            "free disk space or fix the permissions, then rerun the command to resume"
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
    """Why a checkpoint is damaged; None if it is not."""
    try:
        manifest = json.loads((checkpoint / "manifest.json").read_text())
        for name in _FILES:
            path, entry = checkpoint / name, manifest[name]
            if path.stat().st_size != entry["bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {entry['bytes']}"
            if sha256(path) != entry["sha256"]:
                return f"{name} is damaged (its hash differs)"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"its manifest cannot be read ({type(error).__name__}: {error})"
    return None


def _unused(path: Path) -> Path:
    number = 1
    free = path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest intact checkpoint, if any; damaged ones stay in place."""
    return next((path for path in _checkpoints(folder) if _fault(path) is None), None)


def set_damaged_aside(folder: Path) -> None:
    """Report and rename the damaged checkpoints that ``load_checkpoint`` would skip."""
    load_checkpoint(folder)


def load_checkpoint(folder: Path) -> tuple[int, dict[str, Tensor], dict[str, Any]] | None:
    """The newest intact checkpoint as (step, tensors, notes), or None; newer damaged ones are reported and renamed."""
    for checkpoint in _checkpoints(folder):
        fault = _fault(checkpoint)
        if fault is None:
            try:
                notes = json.loads((checkpoint / "state.json").read_text())
                return int(notes.pop("step")), load_file(str(checkpoint / "state.safetensors")), notes
            except (OSError, ValueError, KeyError, SafetensorError) as error:
                fault = str(error)
        print(f"skipped the checkpoint {checkpoint}: {fault}", file=sys.stderr, flush=True)
        # Renamed, so that it is not taken for newer than checkpoints still to be written.
        with suppress(OSError):
            checkpoint.rename(_unused(checkpoint.with_name(f"damaged-{checkpoint.name}")))
    return None
