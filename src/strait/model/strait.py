"""StraIT: a tokenizer and its transformers as one model that generates images.

Modules that generation does not need (hubs and files, other picture types, memory estimates) are imported by the
methods that use them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

import torch
from torch import Tensor, nn

from strait.data.classes import ClassNames
from strait.decoding.config import DecodingConfig
from strait.decoding.sampling import draw_rows
from strait.decoding.stratified import final_tokens, shared_config, stratified_decode
from strait.model.config import ModelConfig, ModelError
from strait.model.parts import LevelNetwork, WithoutWeights, build_part, level_networks
from strait.nn.attention import pick
from strait.nn.packed import Packed, pack_layers
from strait.randomness import as_seed, image_seeds, key
from strait.tokenizer.build import AnyTokenizer
from strait.transformer.bottom import BottomTransformer
from strait.transformer.top import TopTransformer
from strait.transformer.upsampler import Upsampler
from strait.types import (
    NULL_LABEL,
    Bind,
    Canvas,
    Condition,
    DecodingStep,
    Drawer,
    Images,
    Level,
    LogitsFn,
    Tokens,
)

if TYPE_CHECKING:
    from strait.pictures.as_images import Pictures

_CLASSES_STREAM = 21


class StraIT(nn.Module):
    """Generates and edits images through stratified tokens.

    A new model has random weights, and none of its parts counts as trained: see ``from_pretrained``.

    Args:
        config: of every part.
        classes: names in the order of their indices; empty for an unconditional model.
        decoding: defaults for ``generate``.

    Attributes:
        trained: the parts that have been trained.
        card: the README.md of the folder that it was loaded from; empty if there is none.
    """

    def __init__(
        self, config: ModelConfig, classes: Sequence[str] = (), decoding: DecodingConfig | None = None
    ) -> None:
        super().__init__()
        self.config, self.classes = config, ClassNames(classes)
        # By default the paper's 18+6 steps, and its 12 steps of U in the same proportion.
        default = DecodingConfig(steps=(18, 6, 9, 3)[: len(config.grids)], temperature=(4.5,) * len(config.grids))
        self.decoding = decoding or default
        self.trained: set[str] = set()
        self.card = ""
        parts = {part: build_part(config, part, len(classes)) for part in config.parts}
        self.tokenizer = cast(AnyTokenizer, parts["tokenizer"])
        self.top = cast(TopTransformer, parts["top"])
        self.bottom = cast("BottomTransformer | None", parts.get("bottom"))
        self.upsampler = cast("Upsampler | None", parts.get("upsampler"))
        self._draw_rows: Drawer | None = None
        self._graphs = False
        self.eval()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def part(self, name: str) -> nn.Module:
        """A part of the model, by its name in ``PARTS``."""
        module = getattr(self, name)
        if module is None:
            raise ModelError(f"this model has no {name}")
        return module

    def require(self, *parts: str) -> None:
        """Check that parts have been trained.

        Raises:
            ModelError: naming the first that is missing, and the command that trains it.
        """
        for part in parts:
            if part in self.config.parts and part not in self.trained:
                raise ModelError(
                    f"the model has no {part} yet; train it with: strait train {part} --data DIR --model M"
                )

    def default_decoding(self) -> DecodingConfig:
        """The model's decoding settings, without the upsampler's levels unless it is trained."""
        if "upsampler" not in self.config.parts or "upsampler" in self.trained:
            return self.decoding
        return self.decoding.first(self.config.tokenizer.num_levels)

    def levels(self) -> list[Level]:
        """The levels of the decoding loop, coarse to fine: one, two, or with an upsampler four."""
        networks: dict[int, LevelNetwork] = {}
        for part in self.config.parts:
            if part != "tokenizer":
                networks.update(level_networks(self.part(part)))
        return [
            Level(
                name,
                networks[number].grid,
                networks[number].codebook_size,
                _whole_canvas(networks[number].bind) if self._graphs else networks[number].bind,
                self._draw_rows,
            )
            for number, name in enumerate(self.config.level_names)
        ]

    def labels(self, names: Sequence[str | int] | None, count: int, seed: int) -> list[int]:
        """Class indices by name, WordNet id or index; if None, ``count`` classes drawn from the seed."""
        if names is not None:
            return [self.classes.find(name) for name in names]
        if not self.classes:
            return [NULL_LABEL] * count
        return [as_seed(seed, _CLASSES_STREAM, index) % len(self.classes) for index in range(count)]

    @torch.no_grad()
    def decoding_steps(
        self,
        labels: Tensor,
        seed: int | Tensor = 0,
        indices: Tensor | None = None,
        decoding: DecodingConfig | Sequence[DecodingConfig] | None = None,
        canvases: Sequence[Canvas] | None = None,
    ) -> Iterator[DecodingStep]:
        """Yield every step of generating one batch.

        Args:
            labels: int64 ``[batch]``, ``NULL_LABEL`` for no class.
            seed: the user's seed; or int64 ``[batch]``, one for each row.
            indices: int64 ``[batch]``, the index of each image under its seed; 0, 1, ... by default. An image depends
                only on its seed and index, not on the batch.
            decoding: settings, or one for each row, which may differ in steps, temperature and guidance; the model's
                defaults if None. Settings for fewer levels stop early: at the base size, or after the top.
            canvases: the initial canvas of each level; blank by default.
        """
        settings = self.default_decoding() if decoding is None else decoding
        levels = self.levels()
        num_levels = len(shared_config(settings).steps)
        if num_levels in (1, self.config.tokenizer.num_levels):
            levels = levels[:num_levels]
        self.require(*self.config.parts[1 : 1 + min(num_levels, 3)])
        if len(labels) and not NULL_LABEL <= int(labels.min()) <= int(labels.max()) < len(self.classes):
            last = len(self.classes) - 1
            raise ValueError(f"labels: they must lie between 0 and {last}, or be {NULL_LABEL} for no class")
        labels = labels.to(self.device)
        positions = torch.arange(labels.shape[0]) if indices is None else indices
        rows = seed.to(self.device) if isinstance(seed, Tensor) else seed
        seeds = image_seeds(rows, positions.to(self.device))
        yield from stratified_decode(levels, labels, seeds, settings, canvases)

    @torch.no_grad()
    def encode(self, pictures: Pictures) -> Tokens:
        """Pictures -> tokens, one image at a time on a CPU (see ``decode``).

        Args:
            pictures: ``Images`` of any size divisible by the downsampling; or PIL pictures and arrays, which are
                resized to the model's size (``pictures/as_images.py`` lists all types).

        Raises:
            ValueError: if they are not pictures, or the sides of a tensor are not divisible by the downsampling.
        """
        self.require("tokenizer")
        from strait.pictures.as_images import as_images

        images = as_images(pictures, self.config.image_size).to(self.device)
        if self.device.type == "cuda":
            return self.tokenizer.encode(images)
        rows = [self.tokenizer.encode(image[None]) for image in images]
        return Tokens(tuple(torch.cat(grids) for grids in zip(*(row.levels for row in rows), strict=True)))

    @torch.no_grad()
    def decode(self, tokens: Tokens) -> Images:
        """Tokens -> images in [-1, 1]; of twice the base size if the upsampler's tokens are included, and of the top
        alone if that is the only level.

        On a CPU one image at a time: convolutions can differ in the last bit for another batch size, and image k of a
        seed must not depend on the batch.
        """
        self.require("tokenizer")
        tokens = Tokens(tokens.levels[-self.config.tokenizer.num_levels :])
        levels = len(tokens.levels)
        if self.device.type == "cuda":
            return self.tokenizer.decode(tokens, levels)
        rows = [
            self.tokenizer.decode(Tokens(tuple(grid[row : row + 1] for grid in tokens.levels)), levels)
            for row in range(tokens.batch)
        ]
        return torch.cat(rows)

    def compile_decoding(self, **options: Any) -> StraIT:
        """Compile the decoding; the first image of each batch size then takes about a minute longer.

        On a GPU each step of a network becomes one CUDA graph over the whole canvas; on a CPU networks stay unchanged,
        since ``pack`` is faster. On both, drawing with its noise becomes one kernel. Returns the model.

        Args:
            options: for ``torch.compile``, which override the defaults.
        """
        self._graphs = self.device.type == "cuda"
        for name in self.config.parts if self._graphs else ():
            for network in level_networks(self.part(name)).values() if name != "tokenizer" else ():
                compiled = torch.compile(network.logits, **{"mode": "reduce-overhead", **options})
                setattr(network, "logits", compiled)  # noqa: B010
        self._draw_rows = torch.compile(draw_rows, **{"dynamic": True, **options})
        return self

    def batch_size(self, requested: int | None, decoding: DecodingConfig | None = None) -> int:
        """The number of images to decode at once: as requested, or if None as many as fit, at most 64.

        Raises:
            ValueError: if below 1, or more than fits into the free memory; it says how many would fit.
        """
        from strait.model import memory

        element = next(self.part(self.config.parts[-1]).parameters()).element_size()
        settings = self.default_decoding() if decoding is None else decoding
        return memory.batch_size(requested, self.config, settings, element, self.device)

    def generate(
        self,
        labels: Sequence[str | int] | str | int | None = None,
        count: int = 1,
        seed: int = 0,
        decoding: DecodingConfig | None = None,
        batch_size: int | None = None,
    ) -> Images:
        """Generate images.

        Args:
            labels: a name in any case, WordNet id or index, or one for each image; None draws ``count`` classes from
                the seed, or generates unconditionally if the model has no classes.
            count: number of images without labels.
            seed: image k of a seed does not depend on the number of images.
            decoding: steps, temperature, guidance; the model's defaults if None. Settings for two levels stop a model
                with an upsampler at the base size.
            batch_size: images decoded at once; by default as many as fit into memory, at most 64.

        Returns:
            ``[images, 3, size, size]`` in [-1, 1].

        Raises:
            ValueError: for an unknown label (the message lists the nearest classes).
            ModelError: if a part is missing.
        """
        names: Any = [labels] if isinstance(labels, str | int) or getattr(labels, "ndim", 1) == 0 else labels
        numbers = torch.tensor(self.labels(names, count, seed), dtype=torch.int64)
        if not len(numbers):
            raise ValueError("generate: no images were requested (labels is empty, or count is below 1)")
        indices = torch.arange(len(numbers))
        # A batch larger than the request need not fit.
        batch_size = self.batch_size(None if batch_size is None else min(batch_size, len(numbers)), decoding)
        batches = [
            self.decode(final_tokens(self.decoding_steps(label, seed, index, decoding)))
            for label, index in zip(numbers.split(batch_size), indices.split(batch_size), strict=True)
        ]
        return torch.cat(batches)

    def pack(self) -> Self:
        """Lay out the weights for fast inference on a CPU; no effect on other devices.

        Results are equal up to rounding in the last bits. Afterwards the model has no gradients and must not be copied
        or moved. Returns the model.
        """
        from strait.runtime.devices import give_back_memory

        for name in self.config.parts:
            pack_layers(self.part(name))
        if any(isinstance(module, Packed) for module in self.modules()):
            self.requires_grad_(False)  # unpacked layers too: a norm's gradient would need that of the next layer
        give_back_memory()  # the original weights were freed one by one
        return self

    def weights_hash(self, part: str | None = None) -> str:
        """Twelve hexadecimal digits that identify the weights, of all parts or of one, whatever their device or
        folder."""
        digest = hashlib.sha256()
        for name, value in sorted((self if part is None else self.part(part)).state_dict().items()):
            digest.update(name.encode())
            digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:12]

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
            device: to load it on.
            dtype: of the transformers; float32 if the device does not support another. The tokenizer is always
                float32: rounding there would change tokens and pixels.
            pack: for inference on a CPU (see ``pack``); False for a model that will be trained, copied or moved.
            revision: branch, tag or commit of a hub model.
            cache_dir: folder for downloads; the cache of huggingface_hub by default.
            token: for private models; that of ``hf auth login`` or ``HF_TOKEN`` by default.
            local_files_only: use only the cache, without asking the hub.

        Raises:
            ModelError: if it is missing, or its files do not fit its configuration; nothing is then loaded.
        """
        from strait.model import sharing

        folder = sharing.find_folder(source, revision, cache_dir, token, local_files_only)
        model = sharing.load(cls, folder, torch.device(device), dtype)
        return model.pack() if pack else model

    @classmethod
    def shaped(
        cls, config: ModelConfig, classes: Sequence[str], decoding: DecodingConfig | None, dtype: torch.dtype
    ) -> Self:
        """A model on the meta device, without memory for its weights, with transformers of a dtype."""
        with WithoutWeights():
            model = cls(config, classes, decoding)
        for part in config.parts:
            if part != "tokenizer":
                model.part(part).to(dtype)
        return model

    def save_pretrained(self, folder: str | Path, parts: Sequence[str] | None = None, dtype: Any = None) -> None:
        """Write the model folder: its description and the trained parts (or those named).

        Args:
            folder: created if needed; files of other parts are left as they are. Its README.md becomes ``self.card``,
                or if that is empty a generated card; a README.md written or changed by a person is left as it is.
            parts: to write; all trained parts by default.
            dtype: of the stored weights, such as ``torch.bfloat16``; their own by default.
        """
        from strait.model import sharing

        sharing.save(self, Path(folder), parts, dtype)

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
        """Upload the model to a hub: its description, trained parts and model card, in one commit.

        Args:
            repo_id: ``user/name``; created if needed.
            card: Markdown for its README.md. By default ``self.card``, or if that is empty a generated card. The
                library's metadata is added in any case.
            commit_message: of the commit.
            private: visibility of a new repository; the hub's default if None.
            token: with write access; that of ``hf auth login`` or ``HF_TOKEN`` by default.
            revision: branch to commit to, created if needed; main by default.
            create_pr: open a pull request instead.
            dtype: of the stored weights, such as ``torch.bfloat16``; their own by default.

        Returns:
            The URL of the commit, or of the pull request.

        Raises:
            ModelError: if the tokenizer is not trained, or the hub refuses it.
        """
        from strait.model import sharing

        options = (commit_message, private, token, revision, create_pr)
        return sharing.push(self, repo_id, card, dtype, *options)


def _whole_canvas(bind: Bind) -> Bind:
    """A network that always runs over the whole canvas, since a CUDA graph has a fixed shape."""

    def bound(condition: Condition) -> LogitsFn:
        network = bind(condition)

        def logits(canvas: Canvas, positions: Tensor | None = None) -> Tensor:
            torch.compiler.cudagraph_mark_step_begin()
            return pick(network(canvas), positions)

        return logits

    return bound


def random_model(config: ModelConfig, classes: Sequence[str] = (), seed: int = 0) -> StraIT:
    """A model whose random weights count as trained, for tests, benchmarks and trials."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(key(seed).item()) & 0xFFFFFFFF)
        model = StraIT(config, classes)
    model.trained = set(model.config.parts)
    return model
