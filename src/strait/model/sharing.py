"""A model from a folder or a hub, and its way to them: what is shared is the description, the weights, the card."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import torch
from torch import nn

from strait.data.classes import ClassNames
from strait.decoding.config import DecodingConfig
from strait.model.card import model_card, with_metadata
from strait.model.config import ModelConfig
from strait.model.folder import ModelError, check_part, load_part, read_description, save_part, write_description
from strait.model.hub import find_folder, push_folder
from strait.nn.packed import Packed, pack_layers
from strait.runtime.devices import give_back_memory, usable_dtype
from strait.runtime.files import write_text


class SharedModel(nn.Module):
    """Parts that are trained one by one, loaded, saved and shared under one configuration.

    Args:
        config: of every part; each is a submodule of its name.
        classes: names in the order of their indices.
        decoding: defaults of generation.

    Attributes:
        trained: the parts whose weights are not random.
        card: the README.md of the folder that it was loaded from; empty where there is none.
    """

    def __init__(
        self, config: ModelConfig, classes: Sequence[str] = (), decoding: DecodingConfig | None = None
    ) -> None:
        super().__init__()
        self.config, self.classes = config, ClassNames(classes)
        # Without any, the paper's 18+6, and its 12 steps of U in the same proportion.
        own = DecodingConfig(steps=(18, 6, 9, 3)[: len(config.grids)], temperature=(4.5,) * len(config.grids))
        self.decoding = decoding or own
        self.trained: set[str] = set()
        self.card = ""

    def part(self, name: str) -> nn.Module:
        """One of the model's parts, by its name in ``PARTS``."""
        module = getattr(self, name)
        if module is None:
            raise ModelError(f"this model has no {name}")
        return module

    def require(self, *parts: str) -> None:
        """Check that parts have been trained.

        Raises:
            ModelError: naming the first that has not, and the command that makes it.
        """
        for part in parts:
            if part in self.config.parts and part not in self.trained:
                raise ModelError(
                    f"the model has no {part} yet; make it with: strait train {part} --data DIR --model M"
                )

    def default_decoding(self) -> DecodingConfig:
        """The model's own settings, without the upsampler's levels as long as it is not trained."""
        if "upsampler" not in self.config.parts or "upsampler" in self.trained:
            return self.decoding
        return self.decoding.first(self.config.tokenizer.num_levels)

    def pack(self) -> Self:
        """Lay the weights out for fast inference on a CPU; elsewhere nothing changes.

        The same results up to rounding in the last bits. From then on the model has no gradients, and is not to be
        copied or moved. Returns the model.
        """
        for name in self.config.parts:
            pack_layers(self.part(name))
        if any(isinstance(module, Packed) for module in self.modules()):
            self.requires_grad_(False)  # what is not packed, too: a norm's would ask for those of the layer after it
        give_back_memory()  # as much as the weights of a large model, which were freed one by one
        return self

    def weights_hash(self) -> str:
        """Twelve digits that tell one set of weights from another, whatever device or folder they are on."""
        digest = hashlib.sha256()
        for name, value in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]

    def save_pretrained(self, folder: str | Path, parts: Sequence[str] | None = None, dtype: Any = None) -> None:
        """Write the model folder: its description and the trained parts (or those named).

        Args:
            folder: made if need be; files of parts that are not written stay as they are, and so does a README.md.
            parts: which; all trained ones by default.
            dtype: of the stored weights, such as ``torch.bfloat16``; as they are by default.
        """
        folder = Path(folder)
        write_description(folder, self.config, list(self.classes), self.decoding)
        for part in sorted(self.trained) if parts is None else parts:
            save_part(folder, part, self.part(part).state_dict(), dtype)
        if self.card and not (folder / "README.md").exists():
            write_text(folder / "README.md", self.card)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: str | None = None,
        commit_message: str = "Upload model",
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        dtype: Any = None,
    ) -> str:
        """Share the model on a hub: its description, trained parts and model card, in one commit.

        Args:
            repo_id: ``user/name``; made if there is none.
            card: Markdown for its README.md. By default ``self.card``, or where that is empty one that says what the
                model knows of itself. Metadata of the library are added to any.
            commit_message: of the commit.
            private: of a repository that is made; the hub's default if None.
            token: one that may write; that of ``hf auth login`` or ``HF_TOKEN`` by default.
            revision: the branch to commit to, made if need be; main by default.
            create_pr: open a pull request instead.
            dtype: of the stored weights, such as ``torch.bfloat16``; as they are by default.

        Returns:
            The address of the commit, or of the pull request.

        Raises:
            ModelError: if the tokenizer is not trained, or the hub does not take it.
        """
        self.require("tokenizer")
        text = card or self.card
        if text:
            text = with_metadata(text, bool(self.classes))
        else:
            sizes = {
                part: sum(value.numel() for value in self.part(part).state_dict().values())
                for part in self.config.parts
                if part in self.trained
            }
            text = model_card(
                repo_id, self.config, list(self.classes), self.default_decoding(), sizes, self.weights_hash()
            )
        with TemporaryDirectory() as folder:
            write_text(Path(folder) / "README.md", text)
            self.save_pretrained(folder, dtype=dtype)
            return push_folder(Path(folder), repo_id, commit_message, private, token, revision, create_pr)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        pack: bool = True,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
    ) -> Self:
        """Load a model.

        Args:
            source: a model folder, a hub id (``user/name``, or ``user/name@revision``), or None for the model that
                ships with the package.
            device: where to.
            dtype: of the transformers; float32 where the device cannot compute in another. The tokenizer is always
                float32: rounding there would change tokens and pixels.
            pack: for inference on a CPU (see ``pack``); False for a model that is to be trained, copied or moved.
            revision: branch, tag or commit of a hub's model.
            cache_dir: where downloads are kept; the hub library's own cache by default.
            token: for private models; that of ``hf auth login`` or ``HF_TOKEN`` by default.
            local_files_only: take what the cache has, and ask no hub.

        Raises:
            ModelError: if it is not there, or its files do not fit its configuration; nothing is then loaded.
        """
        folder = find_folder(source, revision, cache_dir, token, local_files_only)
        config, classes, decoding = read_description(folder)
        model = cls.shaped(config, classes, decoding, usable_dtype(dtype, torch.device(device)))
        present = [part for part in model.config.parts if (folder / f"{part}.safetensors").exists()]
        for part in present:
            check_part(folder, part, model.part(part))
        model.to_empty(device="cpu")
        for part in model.config.parts:
            if part in present:
                load_part(folder, part, model.part(part))
                model.trained.add(part)
            else:
                for value in model.part(part).parameters():
                    nn.init.zeros_(value)
        readme = folder / "README.md"
        model.card = readme.read_text(encoding="utf-8", errors="replace") if readme.exists() else ""
        model.to(device)
        return model.pack() if pack else model

    @classmethod
    def shaped(
        cls, config: ModelConfig, classes: Sequence[str], decoding: DecodingConfig | None, dtype: torch.dtype
    ) -> Self:
        """A model without memory for its weights (on the meta device), its transformers of a dtype."""
        with torch.device("meta"):
            model = cls(config, classes, decoding)
        for part in config.parts:
            if part != "tokenizer":
                model.part(part).to(dtype)
        return model
