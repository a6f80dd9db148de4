"""Load a model from a folder, save it to one, or upload it to a hub: description, weights and card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from strait.model.card import is_generated, model_card, signed, with_metadata
from strait.model.folder import (
    check_part,
    check_sizes,
    load_part,
    read_card,
    read_description,
    save_part,
    write_description,
)
from strait.model.hub import find_folder, push_folder
from strait.model.memory import refuse_what_is_not_free
from strait.runtime.devices import allocate, usable_dtype
from strait.runtime.files import write_text

if TYPE_CHECKING:
    from strait.decoding.config import DecodingConfig
    from strait.model.config import ModelConfig
    from strait.model.strait import StraIT

__all__ = ["find_folder", "load", "moved", "push", "save", "unfilled"]

Model = TypeVar("Model", bound="StraIT")


def load(kind: type[Model], folder: Path, device: torch.device, dtype: torch.dtype) -> Model:
    """Load a model of class ``kind`` from its folder, on a device, with transformers of a dtype.

    Raises:
        ModelError: if its files do not fit its configuration; nothing is then loaded.
    """
    config, classes, decoding = read_description(folder)
    present = [part for part in config.parts if (folder / f"{part}.safetensors").exists()]
    for part in present:
        check_sizes(folder, part, config, len(classes))
    model = kind.shaped(config, classes, decoding, usable_dtype(dtype, device))
    for part in present:
        check_part(folder, part, model.part(part))
    refuse_what_is_not_free(model, folder)
    allocate(model, torch.device("cpu"))
    for part in model.config.parts:
        if part in present:
            load_part(folder, part, model.part(part))
            model.trained.add(part)
        else:
            for value in model.part(part).parameters():
                nn.init.zeros_(value)
    card = read_card(folder)
    model.card = "" if is_generated(card) else card
    model.to(device)
    return model


def unfilled(
    kind: type[Model], config: ModelConfig, classes: Sequence[str], decoding: DecodingConfig, dtype: torch.dtype
) -> Model:
    """A model of class ``kind`` with uninitialised weights that count as trained, to be filled by the caller."""
    model = kind.shaped(config, classes, decoding, dtype)
    allocate(model, torch.device("cpu"))
    model.trained = set(config.parts)
    return model


def moved(model: Model, device: torch.device, dtype: torch.dtype) -> Model:
    """The same model on another device, or with transformers of another dtype; the model itself stays as it is.

    Packed weights cannot be moved. These are copies of what they were before, and are not packed.
    """
    copy = type(model).shaped(model.config, model.classes, model.decoding, usable_dtype(dtype, device))
    allocate(copy, device)
    copy.load_state_dict(model.state_dict())
    copy.trained, copy.card = set(model.trained), model.card
    return copy


def save(model: StraIT, folder: Path, parts: Sequence[str] | None, dtype: Any) -> None:
    """``StraIT.save_pretrained``."""
    write_description(folder, model.config, list(model.classes), model.decoding)
    for part in sorted(model.trained) if parts is None else parts:
        save_part(folder, part, model.part(part).state_dict(), dtype)
    before = read_card(folder)
    if not before or is_generated(before):
        write_text(folder / "README.md", model.card or signed(_card_of(model, None)))


def _card_of(model: StraIT, repo_id: str | None) -> str:
    """The card that a model can write of itself."""
    sizes = {
        part: sum(value.numel() for value in model.part(part).state_dict().values())
        for part in model.config.parts
        if part in model.trained
    }
    decoding, digest = model.default_decoding(), model.weights_hash()
    return model_card(repo_id, model.config, list(model.classes), decoding, sizes, digest)


def push(
    model: StraIT,
    repo_id: str,
    card: str | None,
    dtype: Any,
    commit_message: str,
    private: bool | None,
    token: str | bool | None,
    revision: str | None,
    create_pr: bool,
) -> str:
    """``StraIT.push_to_hub``."""
    model.require("tokenizer")
    text = card or model.card
    text = with_metadata(text, bool(model.classes)) if text else _card_of(model, repo_id)
    with TemporaryDirectory() as folder:
        write_text(Path(folder) / "README.md", text)
        save(model, Path(folder), None, dtype)
        return push_folder(Path(folder), repo_id, commit_message, private, token, revision, create_pr)
