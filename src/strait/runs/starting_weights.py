"""The weights that a part starts from: another model's, which may know other classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from strait.config import config_names, config_path, read_config
from strait.data.classes import ClassNames
from strait.model.config import ModelConfig, ModelError
from strait.model.folder import check_part, load_part, read_description
from strait.model.parts import build_part
from strait.runs.run_folder import file_hash
from strait.runtime.files import write_bytes
from strait.tokenizer.build import build_tokenizer
from strait.transformer.embedding import TokenEmbedding


def fitting_configs(source: Path) -> list[str]:
    """The package's configurations of whose shape a model is; dropout is a matter of training."""
    shape = _without_dropout(read_description(source)[0])
    return [name for name in config_names() if _without_dropout(read_config(config_path(name)).model) == shape]


def _without_dropout(config: ModelConfig) -> ModelConfig:
    transformers = {part: dataclasses.replace(getattr(config, part), dropout=0.0) for part in config.parts[1:]}
    return dataclasses.replace(config, **transformers)


def require_fit(source: Path, part: str, config: ModelConfig) -> None:
    """Refuse another model's part before any training, if its weights have no place in this one.

    Raises:
        ModelError: naming what does not fit, and the configurations that do.
    """
    classes = read_description(source)[1]
    with torch.device("meta"):
        module = build_part(config, part, len(classes))
    try:
        check_part(source, part, module)
    except ModelError as error:
        fitting = " or ".join(f"--config {name}" for name in fitting_configs(source))
        cure = f"of its shape is {fitting}" if fitting else "none of the package's configurations is of its shape"
        raise ModelError(
            f"--init-from: the {part} of {source} does not fit this configuration; {cure} ({error})"
        ) from error


def start_from(folder: Path, part: str, module: nn.Module, config: ModelConfig, classes: Sequence[str]) -> None:
    """Copy a part's weights from another model.

    In a transformer a class that the other model has, by its name in any case or its WordNet id, takes over what was
    learned of it; any other begins as the null class, of which nothing is known but that it is an image.

    Args:
        folder: of the other model.
        part: which.
        module: takes the weights.
        config: of the module's model.
        classes: of the module's model; none for an unconditional one.

    Raises:
        ModelError: if the weights do not fit in anything but their classes.
    """
    embeddings = {name: child for name, child in module.named_modules() if isinstance(child, TokenEmbedding)}
    theirs = read_description(folder)[1]
    if not embeddings or theirs == list(classes):
        check_part(folder, part, module)
        load_part(folder, part, module)
        return
    other = build_part(config, part, len(theirs))
    check_part(folder, part, other)
    load_part(folder, part, other)
    taken = other.state_dict()
    known = ClassNames(theirs)
    rows = [known.named(name) for name in classes]
    for name, embedding in embeddings.items():
        if embedding.class_token:
            taken[f"{name}.ids.weight"] = embedding.for_classes(taken[f"{name}.ids.weight"], rows)
    module.load_state_dict(taken)


def keep_tokenizer(source: Path, folder: Path, config: ModelConfig) -> None:
    """Put another model's tokenizer into a model folder as it is, bit for bit.

    Args:
        source: folder of the other model.
        folder: of the model whose transformers are to be trained on its tokens.
        config: of that model.

    Raises:
        ModelError: if it does not fit, or the folder has a tokenizer of its own.
    """
    check_part(source, "tokenizer", build_tokenizer(config.tokenizer))
    theirs, ours = source / "tokenizer.safetensors", folder / "tokenizer.safetensors"
    if not ours.exists():
        write_bytes(ours, theirs.read_bytes())
    elif file_hash(ours) != file_hash(theirs):
        raise ModelError(
            f"--keep-tokenizer: {folder} has a tokenizer of its own; choose another --model, or leave the option out"
        )
