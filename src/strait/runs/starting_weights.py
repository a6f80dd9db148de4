"""The weights that a part starts from: another model's, which may know other classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from strait.data.classes import ClassNames
from strait.model.config import ModelConfig, ModelError
from strait.model.folder import check_part, load_part, read_description
from strait.model.parts import build_part
from strait.runs.run_folder import file_hash
from strait.runtime.files import write_bytes
from strait.tokenizer.build import build_tokenizer
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
