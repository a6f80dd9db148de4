"""StraIT: a tokenizer and its transformers as one model that generates images.

What only some callers need is imported where they need it: hubs and files, pictures of other kinds, the memory that is
free. Drawing an image with a model at hand takes none of them.
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
from strait.model.parts import LevelNetwork, build_part, level_networks
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

    Args:
        config: of every part.
        classes: names in the order of their indices; empty for an unconditional model.
        decoding: defaults for ``generate``.

    Attributes:
        trained: the parts whose weights are not random.
        card: the README.md of the folder that it was loaded from; empty where there is none.

    A fresh model has random weights and no parts that count as trained: see ``from_pretrained``.
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

    def levels(self) -> list[Level]:
        """What the decoding loop runs over, coarse to fine: one level, two, or with an upsampler four."""
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

    def labels(self, wanted: Sequence[str | int] | None, count: int, seed: int) -> list[int]:
        """Class indices by name, WordNet id or index; without any, ``count`` classes drawn from the seed."""
        if wanted is not None:
            return [self.classes.find(label) for label in wanted]
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
        """Every step of generating one batch, as it happens.

        Args:
            labels: int64 ``[batch]``, ``NULL_LABEL`` for none.
            seed: the user's; or int64 ``[batch]``, one for each row.
            indices: int64 ``[batch]``; image k of a seed is the same in whatever batch. 0, 1, ... by default.
            decoding: settings, or one for each row, which may differ in steps, temperature and guidance; the model's
                own by default. Those for fewer levels than the model has stop there: before an upsampler, at the
                base size; or after the top.
            canvases: where each level starts; blank by default.
        """
        settings = self.default_decoding() if decoding is None else decoding
        levels = self.levels()
        wanted = len(shared_config(settings).steps)
        if wanted in (1, self.config.tokenizer.num_levels):
            levels = levels[:wanted]
        self.require(*self.config.parts[1 : 1 + min(wanted, 3)])
        if len(labels) and not NULL_LABEL <= int(labels.min()) <= int(labels.max()) < len(self.classes):
            last = len(self.classes) - 1
            raise ValueError(f"labels: they must lie between 0 and {last}, or be {NULL_LABEL} for none")
        labels = labels.to(self.device)
        places = torch.arange(labels.shape[0]) if indices is None else indices
        rows = seed.to(self.device) if isinstance(seed, Tensor) else seed
        seeds = image_seeds(rows, places.to(self.device))
        yield from stratified_decode(levels, labels, seeds, settings, canvases)

    @torch.no_grad()
    def encode(self, pictures: Pictures) -> Tokens:
        """Pictures -> tokens, on a CPU image by image for the reason that ``decode`` gives.

        Args:
            pictures: ``Images`` of any size that the downsampling divides; or PIL pictures and arrays, which are
                brought to the model's size (``pictures/as_images.py`` has all that is understood).

        Raises:
            ValueError: if they are no pictures, or the downsampling does not divide the sides of a tensor.
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
        """Tokens -> images in [-1, 1]; of the upsampler's tokens where they are there, twice the base size, and of
        the top's alone where there are no others.

        On a CPU image by image: convolutions over another batch size can differ in the last bit, and image k of a
        seed must not.
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
        """Compile what is decoded with; the first image of each batch size then takes a minute or so.

        On a GPU a step of a network becomes one CUDA graph over the whole canvas, on a CPU networks stay as they are
        (``pack`` serves them better). Drawing, its noise included, becomes one kernel on both. Returns the model.

        Args:
            options: of ``torch.compile`` in place of these.
        """
        self._graphs = self.device.type == "cuda"
        for name in self.config.parts if self._graphs else ():
            for network in level_networks(self.part(name)).values() if name != "tokenizer" else ():
                compiled = torch.compile(network.logits, **{"mode": "reduce-overhead", **options})
                setattr(network, "logits", compiled)  # noqa: B010
        self._draw_rows = torch.compile(draw_rows, **{"dynamic": True, **options})
        return self

    def batch_size(self, wanted: int | None, decoding: DecodingConfig | None = None) -> int:
        """How many images to decode at once: those wanted, or without a wish as many as fit, 64 at most.

        Raises:
            ValueError: for none or fewer; if so many do not fit into the memory that is free it says how many would.
        """
        from strait.model import memory

        element = next(self.part(self.config.parts[-1]).parameters()).element_size()
        settings = self.default_decoding() if decoding is None else decoding
        return memory.batch_size(wanted, self.config, settings, element, self.device)

    def generate(
        self,
        labels: Sequence[str | int] | None = None,
        count: int = 1,
        seed: int = 0,
        decoding: DecodingConfig | None = None,
        batch_size: int | None = None,
    ) -> Images:
        """Generate images.

        Args:
            labels: names in any case, WordNet ids or indices, an image each; None draws ``count`` classes from the
                seed, or generates unconditionally where the model has no classes.
            count: how many, without labels.
            seed: image k of a seed is the same however many are asked for.
            decoding: steps, temperature, guidance; the model's own by default. A model with an upsampler stops at
                the base size where they are for two levels.
            batch_size: images decoded at once; by default as many as fit into memory, 64 at most.

        Returns:
            ``[images, 3, size, size]`` in [-1, 1].

        Raises:
            ValueError: for a label no class has (the message lists the nearest).
            ModelError: if a part is missing.
        """
        wanted = [labels] if isinstance(labels, str) else labels  # of any library: an array, a tensor
        numbers = torch.tensor(self.labels(wanted, count, seed), dtype=torch.int64)
        if not len(numbers):
            raise ValueError("generate: no images were asked for (labels is empty, or count is below 1)")
        indices = torch.arange(len(numbers))
        # More than are asked for need not fit.
        batch_size = self.batch_size(None if batch_size is None else min(batch_size, len(numbers)), decoding)
        made = [
            self.decode(final_tokens(self.decoding_steps(some, seed, index, decoding)))
            for some, index in zip(numbers.split(batch_size), indices.split(batch_size), strict=True)
        ]
        return torch.cat(made)

    def pack(self) -> Self:
        """Lay the weights out for fast inference on a CPU; elsewhere nothing changes.

        The same results up to rounding in the last bits. From then on the model has no gradients, and is not to be
        copied or moved. Returns the model.
        """
        from strait.runtime.devices import give_back_memory

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
        from strait.model import sharing

        folder = sharing.find_folder(source, revision, cache_dir, token, local_files_only)
        model = sharing.load(cls, folder, torch.device(device), dtype)
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

    def save_pretrained(self, folder: str | Path, parts: Sequence[str] | None = None, dtype: Any = None) -> None:
        """Write the model folder: its description and the trained parts (or those named).

        Args:
            folder: made if need be; files of parts that are not written stay as they are. Its README.md becomes
                ``self.card``, or where that is empty a card that says what the model knows of itself; a README.md
                that somebody wrote or changed stays.
            parts: which; all trained ones by default.
            dtype: of the stored weights, such as ``torch.bfloat16``; as they are by default.
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
        from strait.model import sharing

        options = (commit_message, private, token, revision, create_pr)
        return sharing.push(self, repo_id, card, dtype, *options)


def unfilled_model(
    config: ModelConfig, classes: Sequence[str], decoding: DecodingConfig, dtype: torch.dtype
) -> StraIT:
    """A model whose weights are whatever lies in memory, and count as trained: to be filled by the caller."""
    model = StraIT.shaped(config, classes, decoding, dtype).to_empty(device="cpu")
    model.trained = set(config.parts)
    return model


def _whole_canvas(bind: Bind) -> Bind:
    """A network that always runs over the whole canvas: a CUDA graph has one shape."""

    def bound(condition: Condition) -> LogitsFn:
        network = bind(condition)

        def logits(canvas: Canvas, positions: Tensor | None = None) -> Tensor:
            torch.compiler.cudagraph_mark_step_begin()
            return pick(network(canvas), positions)

        return logits

    return bound


def random_model(config: ModelConfig, classes: Sequence[str] = (), seed: int = 0) -> StraIT:
    """A model whose random weights count as trained: for tests, benchmarks and first tries."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(key(seed).item()) & 0xFFFFFFFF)
        model = StraIT(config, classes)
    model.trained = set(model.config.parts)
    return model
