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
"""Increased when the meaning of weights changes: in format 1 narrow layers had group norms of one channel."""


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
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ValueError(f"it is not of format {_FORMAT}, the only one this version reads; train the model again")
        for name in ("model", "decoding"):
            if name not in content:
                raise ValueError(f"it has no {name!r}")
        config = from_dict(ModelConfig, content["model"], "model")
        decoding = from_dict(DecodingConfig, content["decoding"], "decoding")
        path = folder / "classes.txt"
        # Editors may add a byte-order mark and blank lines at the end.
        classes = path.read_text(encoding="utf-8-sig").rstrip().splitlines() if path.exists() else []
    except FileNotFoundError as error:
        raise ModelError(f"--model: {folder} is not a model folder (it has no config.json)") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: {error}") from error
    return config, classes, decoding


def save_part(folder: Path, part: str, weights: dict[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """Write ``PART.safetensors`` atomically, without any changing metadata.

    Raises:
        OSError: if it cannot be written; an existing file is left untouched.
    """
    write_tensors(
        folder / f"{part}.safetensors", {name: value.to(dtype or value.dtype) for name, value in weights.items()}
    )
    flush(folder)


def check_part(folder: Path, part: str, module: nn.Module) -> None:
    """Check that a weight file fits its part, before any of it is loaded.

    Raises:
        ModelError: naming the file and the mismatch.
    """
    path = folder / f"{part}.safetensors"
    expected = {name: list(value.shape) for name, value in module.state_dict().items()}
    try:
        with safe_open(str(path), framework="pt") as file:
            stored = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        if path.is_file() and path.open("rb").read(len(_LFS_POINTER)) == _LFS_POINTER:
            raise ModelError(f"{path} is a Git LFS pointer, not weights; download them: git lfs pull") from error
        raise ModelError(f"{path} is not a safetensors file: {error}") from error
    missing, extra = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    if missing or extra:
        reason = f"it lacks {missing[0]}" if missing else f"it has {extra[0]}, which the configuration does not"
        raise ModelError(f"{path} does not fit config.json: {reason}")
    for name, shape in sorted(expected.items(), key=lambda item: not item[0].endswith("head.bias")):
        if name.endswith("head.bias") and stored[name] != shape and len(stored[name]) == 1:
            raise ModelError(
                f"{path} predicts {stored[name][0]} codes, but the tokenizer of config.json has {shape[0]} "
                f"(tokenizer.codebook_size or bottom_codebook_size): they must be the same"
            )
        if stored[name] != shape:
            raise ModelError(f"{path} does not fit config.json: {name} is {stored[name]} instead of {shape}")


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
