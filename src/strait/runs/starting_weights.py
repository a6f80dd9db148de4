"""Starting weights from another model, which can have other classes."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import nn

from strait.config import config_names, config_path, read_config
from strait.data.classes import ClassNames
from strait.model.config import ModelConfig, ModelError
from strait.model.folder import check_part, load_part, read_description
from strait.model.parts import build_part
from strait.runs.run_folder import file_hash
from strait.runtime.files import write_bytes
from strait.tokenizer.build import build_tokenizer
from strait.tokenizer.classifier import Classifier
from strait.transformer.embedding import TokenEmbedding


def fitting_configs(source: Path) -> list[str]:
    """Names of the packaged configurations that have a model's shape; dropout does not count."""
    shape = _without_dropout(read_description(source)[0])
    return [name for name in config_names() if _without_dropout(read_config(config_path(name)).model) == shape]


def _without_dropout(config: ModelConfig) -> ModelConfig:
    transformers = {part: dataclasses.replace(getattr(config, part), dropout=0.0) for part in config.parts[1:]}
    return dataclasses.replace(config, **transformers)


def require_fit(source: Path, part: str, config: ModelConfig) -> None:
    """Refuse a part of another model, before any training, if its weights do not fit this configuration.

    Raises:
        ModelError: naming the mismatch, and configurations that fit.
    """
    classes = read_description(source)[1]
    with torch.device("meta"):
        module = build_part(config, part, len(classes))
    try:
        check_part(source, part, module)
    except ModelError as error:
        fitting = " or ".join(f"--config {name}" for name in fitting_configs(source))
        hint = f"use {fitting}" if fitting else "no packaged configuration has its shape"
        raise ModelError(
            f"--init-from: the {part} of {source} does not fit this configuration; {hint} ({error})"
        ) from error


def start_from(folder: Path, part: str, module: nn.Module, config: ModelConfig, classes: Sequence[str]) -> None:
    """Copy a part's weights from another model.

    In a transformer, the embedding of a class is copied from the class with the same name (in any case) or WordNet id;
    a class that the other model does not have starts as its null class, in a classifier from random weights.

    Args:
        folder: of the other model.
        part: name of the part.
        module: to copy the weights to.
        config: of the module's model.
        classes: of the module's model; empty for an unconditional one.

    Raises:
        ModelError: if anything other than the classes does not fit.
    """
    embeddings = {name: child for name, child in module.named_modules() if isinstance(child, TokenEmbedding)}
    source_classes = ClassNames(read_description(folder)[1])
    if isinstance(module, Classifier):
        _start_classifier(folder, part, module, source_classes, classes)
        return
    if not embeddings or list(source_classes) == list(classes):
        check_part(folder, part, module)
        load_part(folder, part, module)
        return
    source = build_part(config, part, len(source_classes))
    check_part(folder, part, source)
    load_part(folder, part, source)
    weights = source.state_dict()
    labels = [source_classes.named(name) for name in classes]
    for name, embedding in embeddings.items():
        if embedding.class_token:
            weights[f"{name}.ids.weight"] = embedding.for_classes(weights[f"{name}.ids.weight"], labels)
    module.load_state_dict(weights)


def start_with_what_fits(folder: Path, part: str, module: nn.Module) -> list[str]:
    """Copy those weights of a part from another model that have the same name and shape; the others stay random.

    A network of a cascade takes those of a tokenizer that is no cascade, whose names lack its prefix.

    Returns:
        The names of the module's weights that stay random.
    """
    theirs, ours = load_file(folder / f"{part}.safetensors"), module.state_dict()
    others = []
    for name, value in ours.items():
        source = theirs.get(name, theirs.get(name.removeprefix("coarse.").removeprefix("fine.")))
        if source is not None and source.shape == value.shape:
            value.copy_(source)
        else:
            others.append(name)
    return others


def _start_classifier(
    folder: Path, part: str, module: Classifier, source_classes: ClassNames, classes: Sequence[str]
) -> None:
    source = copy.deepcopy(module)
    source.head = nn.Linear(module.head.in_features, len(source_classes))
    check_part(folder, part, source)
    load_part(folder, part, source)
    head = copy.deepcopy(module.head)
    with torch.no_grad():
        for row, label in enumerate(source_classes.named(name) for name in classes):
            if label is not None:
                head.weight[row], head.bias[row] = source.head.weight[label], source.head.bias[label]
    source.head = head
    module.load_state_dict(source.state_dict())


def keep_tokenizer(source: Path, folder: Path, config: ModelConfig) -> None:
    """Copy another model's tokenizer to a model folder, bit for bit.

    Args:
        source: folder of the other model.
        folder: of the model whose transformers will be trained with this tokenizer.
        config: of that model.

    Raises:
        ModelError: if it does not fit, or the folder has another tokenizer.
    """
    check_part(source, "tokenizer", build_tokenizer(config.tokenizer))
    original, copy = source / "tokenizer.safetensors", folder / "tokenizer.safetensors"
    if not copy.exists():
        write_bytes(copy, original.read_bytes())
    elif file_hash(copy) != file_hash(original):
        raise ModelError(
            f"--keep-tokenizer: {folder} already has another tokenizer; choose another --model, or omit the option"
        )
