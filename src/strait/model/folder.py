"""The model folder, in which a model is stored and shared; it grows part by part.

config.json              ModelConfig, and decoding defaults for its grids
classes.txt              one class per line, in the order of their indices; absent for an unconditional model
tokenizer.safetensors    )
top.safetensors          ) the parts, once trained
bottom.safetensors       )
upsampler.safetensors    )
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from strait.data.classes import MOST_CLASSES
from strait.decoding.config import DecodingConfig
from strait.model.config import ModelConfig, ModelError, from_dict
from strait.model.memory import least_tensors
from strait.runtime.files import flush, parse_json, read_bounded, write_tensors, write_text
from strait.runtime.messages import first_line

SHIPPED = Path(__file__).parents[1] / "shipped"

_FORMAT = 2
"""Increased when the meaning of weights changes: in format 1 narrow layers had group norms of one channel."""

_LONGEST_DESCRIPTION, _LONGEST_CLASSES, _LONGEST_CARD, _LONGEST_HEADER = 2**20, 2**22, 2**24, 2**24
"""Bytes of config.json, classes.txt, README.md, and of the header of a weight file, which names its tensors."""

_LONGEST_REASON = 300
"""Characters of an error that may repeat what stands in a file."""

_FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")
"""Kinds of numbers that weights are stored in, as the header of their file calls them."""

_LFS_POINTER = b"version https://git-lfs"


def write_description(folder: Path, config: ModelConfig, classes: Sequence[str], decoding: DecodingConfig) -> None:
    """Write ``config.json`` and ``classes.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    # The classes first: a folder counts as a model once it has config.json, and must then be complete.
    if classes:
        write_text(folder / "classes.txt", "".join(name + "\n" for name in classes))
    else:
        (folder / "classes.txt").unlink(missing_ok=True)
    content = {
        "format": _FORMAT,
        "model": dataclasses.asdict(config),
        "decoding": dataclasses.asdict(decoding),
    }
    write_text(folder / "config.json", json.dumps(content, indent=1) + "\n")


def read_description(folder: Path) -> tuple[ModelConfig, list[str], DecodingConfig]:
    """Inverse of ``write_description``.

    Raises:
        ModelError: if the folder does not describe a model.
    """
    path = folder / "config.json"
    try:
        content = parse_json(read_bounded(path, _LONGEST_DESCRIPTION).decode("utf-8"))
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"it is not of format {_FORMAT}, the only one this version reads; train the model again")
        for name in ("model", "decoding"):
            if name not in content:
                raise ValueError(f"it has no {name!r}")
        config = from_dict(ModelConfig, content["model"], "model")
        decoding = from_dict(DecodingConfig, content["decoding"], "decoding")
        if len(decoding.steps) > len(config.grids):
            raise ValueError(
                f"decoding.steps: {decoding.steps} are for more levels than the {len(config.grids)} there are"
            )
        path = folder / "classes.txt"
        classes = _read_classes(path) if path.exists() else []
    except FileNotFoundError as error:
        raise ModelError(f"--model: {folder} is not a model folder (it has no config.json)") from error
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ModelError(f"{path}: {str(error)[:_LONGEST_REASON]}") from error
    return config, classes, decoding


def _read_classes(path: Path) -> list[str]:
    # Editors put a mark in front and blank lines at the end.
    names = read_bounded(path, _LONGEST_CLASSES).decode("utf-8-sig").rstrip().splitlines()
    if len(names) > MOST_CLASSES:
        raise ValueError(f"{len(names)} classes are too many (at most {MOST_CLASSES})")
    return names


def read_card(folder: Path) -> str:
    """``README.md``; empty where there is none.

    Raises:
        ModelError: if it cannot be read.
    """
    path = folder / "README.md"
    try:
        return read_bounded(path, _LONGEST_CARD).decode("utf-8", "replace") if path.exists() else ""
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: {error}") from error


def save_part(folder: Path, part: str, weights: dict[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """Write ``PART.safetensors`` atomically, without any changing metadata.

    Raises:
        OSError: if it cannot be written; an existing file is left untouched.
    """
    write_tensors(
        folder / f"{part}.safetensors", {name: value.to(dtype or value.dtype) for name, value in weights.items()}
    )
    flush(folder)


def check_sizes(folder: Path, part: str, config: ModelConfig, num_classes: int) -> None:
    """Refuse a description of more layers, blocks or classes than a part's weight file has, before networks are made.

    ``check_part`` compares the rest: sizes of tensors cost nothing until there is memory for them.

    Raises:
        ModelError: naming the file, and what is too much.
    """
    path = folder / f"{part}.safetensors"
    with _weight_file(path) as file:
        count = len(file.keys())
        rows = max((max(file.get_slice(name).get_shape(), default=0) for name in file.keys()), default=0)  # noqa: SIM118
    if count < least_tensors(config, part):
        what = "blocks" if part == "tokenizer" else "layers"
        raise ModelError(f"{path} does not fit config.json: it holds {count} tensors, too few for so many {what}")
    if part != "tokenizer" and rows < num_classes:
        raise ModelError(f"{path} does not fit classes.txt: it has no table for {num_classes} classes")


def check_part(folder: Path, part: str, module: nn.Module) -> None:
    """Check that a weight file fits its part, before any of it is loaded.

    Raises:
        ModelError: naming the file and the mismatch.
    """
    path = folder / f"{part}.safetensors"
    state = module.state_dict()
    shapes = {name: list(value.shape) for name, value in state.items()}
    with _weight_file(path) as file:
        names = set(file.keys())
        missing, extra = sorted(shapes.keys() - names), sorted(names - shapes.keys())
        if missing or extra:
            what = (
                f"it lacks {missing[0]}" if missing else f"it holds {extra[0][:200]}, which the configuration does not"
            )
            raise ModelError(f"{path} does not fit config.json: {what}")
        stored = {name: list(file.get_slice(name).get_shape()) for name in names}
        kinds = {name: file.get_slice(name).get_dtype() for name in names}
    for name, shape in sorted(shapes.items(), key=lambda item: not item[0].endswith("head.bias")):
        if part != "classifier" and name.endswith("head.bias") and stored[name] != shape and len(stored[name]) == 1:
            raise ModelError(
                f"{path} predicts {stored[name][0]} codes, but the tokenizer of config.json has {shape[0]} "
                f"(tokenizer.codebook_size or bottom_codebook_size): they must be the same"
            )
        if stored[name] != shape:
            raise ModelError(f"{path} does not fit config.json: {name} is {stored[name]} instead of {shape}")
        if state[name].is_floating_point() and kinds[name] not in _FLOATS:
            raise ModelError(f"{path}: {name} holds {kinds[name]}, and weights are one of {', '.join(_FLOATS)}")


@contextmanager
def _weight_file(path: Path) -> Iterator[Any]:
    """A weight file of which no more than the header is read.

    Raises:
        ModelError: if it is none, or its header is longer than one of ours can be.
    """
    try:
        if path.exists() and not path.is_file():
            raise ModelError(f"{path} is not a safetensors file: it is not a regular file")
        with path.open("rb") as content:
            start = content.read(len(_LFS_POINTER))
        if start == _LFS_POINTER:
            raise ModelError(f"{path} is a pointer of Git LFS, not weights; fetch them: git lfs pull")
        length = int.from_bytes(start[:8], "little")
        if length > _LONGEST_HEADER:
            raise ModelError(f"{path} is not a safetensors file: its header would have {length:,} bytes")
        with safe_open(str(path), framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a safetensors file: {first_line(error)[:_LONGEST_REASON]}") from error


@torch.no_grad()
def load_part(folder: Path, part: str, module: nn.Module) -> None:
    """Copy a part's weights from the memory-mapped file, converted to the module's dtypes."""
    with safe_open(str(folder / f"{part}.safetensors"), framework="pt") as file:
        for name, value in module.state_dict().items():
            value.copy_(file.get_tensor(name))
    for submodule in module.modules():
        # Buffers outside the state dict were created on the meta device and are still empty.
        if any(True for _ in submodule.named_buffers(recurse=False)) and not submodule.state_dict():
            raise ModelError(f"{part}: {type(submodule).__name__} has a buffer that no file stores")
