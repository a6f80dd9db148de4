"""The model folder, in which a model is kept and shared; it grows part by part.

config.json              ModelConfig, and decoding defaults that fit its grids
classes.txt              a class a line, in the order of their indices; absent without classes
tokenizer.safetensors    )
top.safetensors          ) parts; one that is missing says what makes it
bottom.safetensors       )
upsampler.safetensors    )
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from strait.decoding.config import DecodingConfig
from strait.model.config import ModelConfig, ModelError, from_dict
from strait.runtime.files import flush, write_tensors, write_text

SHIPPED = Path(__file__).parents[1] / "shipped"

_FORMAT = 2
"""Raised when weights come to mean something else: in format 1 narrow layers had group norms of one channel."""


_LFS_POINTER = b"version https://git-lfs"


def write_description(folder: Path, config: ModelConfig, classes: Sequence[str], decoding: DecodingConfig) -> None:
    """``config.json`` and ``classes.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    # The classes first: a folder without config.json is no model yet, and one with it must not lack them.
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
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"it is not of format {_FORMAT}, which alone this version reads; train the model anew")
        for name in ("model", "decoding"):
            if name not in content:
                raise ValueError(f"it has no {name!r}")
        config = from_dict(ModelConfig, content["model"], "model")
        decoding = from_dict(DecodingConfig, content["decoding"], "decoding")
        path = folder / "classes.txt"
        # Editors put a mark in front and blank lines at the end.
        classes = path.read_text(encoding="utf-8-sig").rstrip().splitlines() if path.exists() else []
    except FileNotFoundError as error:
        raise ModelError(f"--model: {folder} is not a model folder (it has no config.json)") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: {error}") from error
    return config, classes, decoding


def save_part(folder: Path, part: str, weights: dict[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """``PART.safetensors``, without any changing metadata, put in place whole.

    Raises:
        OSError: if it cannot be written; what was there before is untouched.
    """
    write_tensors(
        folder / f"{part}.safetensors", {name: value.to(dtype or value.dtype) for name, value in weights.items()}
    )
    flush(folder)


def check_part(folder: Path, part: str, module: nn.Module) -> None:
    """Refuse a weight file that does not fit, before any of it is loaded.

    Raises:
        ModelError: naming the file and what does not fit.
    """
    path = folder / f"{part}.safetensors"
    wanted = {name: list(value.shape) for name, value in module.state_dict().items()}
    try:
        with safe_open(str(path), framework="pt") as file:
            found = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        if path.is_file() and path.open("rb").read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise ModelError(f"{path} is a pointer of Git LFS, not weights; fetch them: git lfs pull") from error
        raise ModelError(f"{path} is not a safetensors file: {error}") from error
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or extra:
        what = f"it lacks {missing[0]}" if missing else f"it holds {extra[0]}, which the configuration does not"
        raise ModelError(f"{path} does not fit config.json: {what}")
    for name, shape in sorted(wanted.items(), key=lambda item: not item[0].endswith("head.bias")):
        if name.endswith("head.bias") and found[name] != shape and len(found[name]) == 1:
            raise ModelError(
                f"{path} predicts {found[name][0]} codes, and the tokenizer of config.json has {shape[0]} "
                f"(tokenizer.codebook_size or bottom_codebook_size): they must be the same"
            )
        if found[name] != shape:
            raise ModelError(f"{path} does not fit config.json: {name} is {found[name]} instead of {shape}")


@torch.no_grad()
def load_part(folder: Path, part: str, module: nn.Module) -> None:
    """Copy a part's weights in from the mapped file, in the module's dtypes whatever they are stored in."""
    with safe_open(str(folder / f"{part}.safetensors"), framework="pt") as file:
        for name, value in module.state_dict().items():
            value.copy_(file.get_tensor(name))
    for submodule in module.modules():
        # Buffers outside the state: they were made on the meta device and hold nothing yet.
        if any(True for _ in submodule.named_buffers(recurse=False)) and not submodule.state_dict():
            raise ModelError(f"{part}: {type(submodule).__name__} has a buffer that no file holds")
