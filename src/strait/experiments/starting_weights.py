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

_CLASSLESS = ("tokenizer", "classifier")


def start_from(folder: Path, part: str, module: nn.Module, config: ModelConfig, classes: Sequence[str]) -> None:
    """Copy a part's weights from another model.

    Classes of the same name, WordNet ids and case aside, take over what was learned of them; any other begins as the
    null class, of which nothing is known but that it is an image.

    Args:
        folder: of the other model.
        part: which.
        module: takes the weights.
        config: of the module's model.
        classes: of the module's model; none for an unconditional one.

    Raises:
        ModelError: if the weights do not fit in anything but their classes.
    """
    theirs = read_description(folder)[1]
    if part in _CLASSLESS or theirs == list(classes):
        check_part(folder, part, module)
        load_part(folder, part, module)
        return
    other = build_part(config, part, len(theirs))
    check_part(folder, part, other)
    load_part(folder, part, other)
    taken = other.state_dict()
    known, own = ClassNames(theirs), ClassNames(classes)
    numbers = {known.title(index).casefold(): index for index in range(len(known))}
    wanted = [numbers.get(own.title(index).casefold()) for index in range(len(own))]
    for name, embedding in module.named_modules():
        if isinstance(embedding, TokenEmbedding) and embedding.class_token:
            taken[f"{name}.ids.weight"] = embedding.for_classes(taken[f"{name}.ids.weight"], wanted)
    module.load_state_dict(taken)
