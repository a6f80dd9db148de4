"""The weights that a part starts from: another model's, which may know other classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from strait.data.classes import ClassNames
from strait.model_config import ModelConfig
from strait.model_folder import check_part, load_part, read_description
from strait.model_parts import build_part
from strait.transformer.embedding import TokenEmbedding


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
    wanted = [known.named(name) for name in classes]
    for name, embedding in embeddings.items():
        if embedding.class_token:
            taken[f"{name}.ids.weight"] = embedding.for_classes(taken[f"{name}.ids.weight"], wanted)
    module.load_state_dict(taken)
