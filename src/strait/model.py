"""StraIT: a tokenizer and its transformers, and the folder in which they are shared.

config.json              ModelConfig, and decoding defaults that fit its grids
classes.txt              a class a line, in the order of their indices; absent without classes
tokenizer.safetensors    )
top.safetensors          ) parts; a folder grows one by one, and a part that is missing says what makes it
bottom.safetensors       )
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from strait.data.classes import ClassNames
from strait.decoding.config import DecodingConfig
from strait.decoding.stratified import final_tokens, stratified_decode
from strait.files import write_text
from strait.model_config import PARTS, ModelConfig, from_dict
from strait.randomness import as_seed, image_seeds, key
from strait.tokenizer.build import AnyTokenizer, build_tokenizer
from strait.transformer.bottom import BottomTransformer
from strait.transformer.top import TopTransformer
from strait.types import NULL_LABEL, Canvas, DecodingStep, Images, Level, Tokens

SHIPPED = Path(__file__).parent / "shipped"
_CLASSES_STREAM = 21


class ModelError(ValueError):
    """A model folder cannot be used; the message is for people."""


class StraIT(nn.Module):
    """Generates and edits images through stratified tokens.

    Args:
        config: of every part.
        classes: names in the order of their indices; empty for an unconditional model.
        decoding: defaults for ``generate``.

    A fresh model has random weights and no parts that count as trained: see ``from_pretrained``.
    """

    def __init__(
        self, config: ModelConfig, classes: Sequence[str] = (), decoding: DecodingConfig | None = None
    ) -> None:
        super().__init__()
        self.config, self.classes = config, ClassNames(classes)
        levels = config.tokenizer.num_levels
        self.decoding = decoding or DecodingConfig(steps=(18, 6)[:levels], temperature=(4.5, 4.5)[:levels])
        sizes, grids, count = config.tokenizer.codebook_sizes, config.grids, len(classes)
        self.tokenizer: AnyTokenizer = build_tokenizer(config.tokenizer)
        self.top = TopTransformer(config.top, sizes[0], count, grids[0])
        self.bottom: BottomTransformer | None = None
        if config.bottom is not None:
            self.bottom = BottomTransformer(config.bottom, sizes[1], sizes[0], count, grids[1], grids[0])
        self.trained: set[str] = set()
        self.eval()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def part(self, name: str) -> nn.Module:
        """One of ``tokenizer``, ``top``, ``bottom``."""
        module = getattr(self, name)
        if module is None:
            raise ModelError(f"this model has no {name}")
        return module

    def levels(self) -> list[Level]:
        """What the decoding loop runs over, coarse to fine."""
        found = [Level("top", self.top.grid, self.top.codebook_size, self.top.bind)]
        if self.bottom is not None:
            found.append(Level("bottom", self.bottom.grid, self.bottom.codebook_size, self.bottom.bind))
        return found

    def require(self, *parts: str) -> None:
        """Check that parts have been trained.

        Raises:
            ModelError: naming the first that has not, and the command that makes it.
        """
        for part in parts:
            if part in PARTS and part not in self.trained and getattr(self, part) is not None:
                raise ModelError(
                    f"the model has no {part} yet; make it with: strait train {part} --data DIR --model M"
                )

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
        seed: int = 0,
        indices: Tensor | None = None,
        decoding: DecodingConfig | None = None,
        canvases: Sequence[Canvas] | None = None,
    ) -> Iterator[DecodingStep]:
        """Every step of generating one batch, as it happens.

        Args:
            labels: int64 ``[batch]``, ``NULL_LABEL`` for none.
            seed: the user's.
            indices: int64 ``[batch]``; image k of a seed is the same in whatever batch. 0, 1, ... by default.
            decoding: settings; the model's own by default.
            canvases: where each level starts; blank by default.
        """
        self.require("top", "bottom")
        if len(labels) and not NULL_LABEL <= int(labels.min()) <= int(labels.max()) < len(self.classes):
            last = len(self.classes) - 1
            raise ValueError(f"labels: they must lie between 0 and {last}, or be {NULL_LABEL} for none")
        labels = labels.to(self.device)
        places = torch.arange(labels.shape[0]) if indices is None else indices
        seeds = image_seeds(seed, places.to(self.device))
        yield from stratified_decode(self.levels(), labels, seeds, decoding or self.decoding, canvases)

    @torch.no_grad()
    def decode(self, tokens: Tokens) -> Images:
        """Tokens -> images in [-1, 1].

        On a CPU image by image: convolutions over another batch size can differ in the last bit, and image k of a
        seed must not.
        """
        self.require("tokenizer")
        if self.device.type == "cuda":
            return self.tokenizer.decode(tokens)
        rows = [
            self.tokenizer.decode(Tokens(tuple(grid[row : row + 1] for grid in tokens.levels)))
            for row in range(tokens.batch)
        ]
        return torch.cat(rows)

    def generate(
        self,
        labels: Sequence[str | int] | None = None,
        count: int = 1,
        seed: int = 0,
        decoding: DecodingConfig | None = None,
        batch_size: int = 64,
    ) -> Images:
        """Generate images.

        Args:
            labels: names in any case, WordNet ids or indices, an image each; None draws ``count`` classes from the
                seed, or generates unconditionally where the model has no classes.
            count: how many, without labels.
            seed: image k of a seed is the same however many are asked for.
            decoding: steps, temperature, guidance; the model's own by default.
            batch_size: images decoded at once.

        Returns:
            ``[images, 3, size, size]`` in [-1, 1].

        Raises:
            ValueError: for a label no class has (the message lists the nearest).
            ModelError: if a part is missing.
        """
        wanted = [labels] if isinstance(labels, str) else labels
        numbers = torch.tensor(self.labels(wanted, count, seed), dtype=torch.int64)
        if not len(numbers):
            raise ValueError("generate: no images were asked for (labels is empty, or count is below 1)")
        indices = torch.arange(len(numbers))
        made = [
            self.decode(final_tokens(self.decoding_steps(some, seed, index, decoding)))
            for some, index in zip(numbers.split(batch_size), indices.split(batch_size), strict=True)
        ]
        return torch.cat(made)

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
            folder: made if need be; files of parts that are not written stay as they are.
            parts: which; all trained ones by default.
            dtype: of the stored weights, such as ``torch.bfloat16``; as they are by default.
        """
        folder = Path(folder)
        write_description(folder, self.config, list(self.classes), self.decoding)
        for part in sorted(self.trained) if parts is None else parts:
            save_part(folder, part, self.part(part).state_dict(), dtype)

    @classmethod
    def from_pretrained(cls, source: str | Path | None = None, device: str | torch.device = "cpu") -> StraIT:
        """Load a model.

        Args:
            source: a model folder, a hub id (``user/name``), or None for the model that ships with the package.
            device: where to.

        Raises:
            ModelError: if it is not there, or its files do not fit its configuration; nothing is then loaded.
        """
        folder = find_folder(source)
        config, classes, decoding = read_description(folder)
        with torch.device("meta"):
            model = cls(config, classes, decoding)
        present = [part for part in model.parts() if (folder / f"{part}.safetensors").exists()]
        for part in present:
            check_part(folder, part, model.part(part))
        model.to_empty(device="cpu")
        for part in model.parts():
            if part in present:
                load_part(folder, part, model.part(part))
                model.trained.add(part)
            else:
                for value in model.part(part).parameters():
                    nn.init.zeros_(value)
        return model.to(device)

    def parts(self) -> list[str]:
        """The parts this model has by its configuration."""
        return [part for part in PARTS if getattr(self, part) is not None]


def find_folder(source: str | Path | None) -> Path:
    """The folder of a model: the shipped one, one on disk, or one from a hub."""
    if source is None:
        return SHIPPED
    folder = Path(source)
    if folder.is_dir():
        return folder
    if str(source).count("/") == 1 and not str(source).startswith((".", "/", "~")):
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(str(source), allow_patterns=["*.json", "*.txt", "*.safetensors", "*.md"]))
        except Exception as error:
            raise ModelError(
                f"--model: {source} is no folder here, and no hub gave it: {str(error).splitlines()[0]}"
            ) from error
    raise ModelError(f"--model: there is no folder {source}; make one with: strait train --data DIR --model {source}")


def write_description(folder: Path, config: ModelConfig, classes: Sequence[str], decoding: DecodingConfig) -> None:
    """``config.json`` and ``classes.txt``."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "format": 1,
        "model": dataclasses.asdict(config),
        "decoding": dataclasses.asdict(decoding),
    }
    write_text(folder / "config.json", json.dumps(content, indent=1) + "\n")
    if classes:
        write_text(folder / "classes.txt", "".join(name + "\n" for name in classes))
    else:
        (folder / "classes.txt").unlink(missing_ok=True)


def read_description(folder: Path) -> tuple[ModelConfig, list[str], DecodingConfig]:
    """The way back of ``write_description``.

    Raises:
        ModelError: if the folder does not describe a model.
    """
    path = folder / "config.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("format") != 1:
            raise ValueError("it is not of format 1")
        for name in ("model", "decoding"):
            if name not in content:
                raise ValueError(f"it has no {name!r}")
        config = from_dict(ModelConfig, content["model"], "model")
        decoding = from_dict(DecodingConfig, content["decoding"], "decoding")
        names = folder / "classes.txt"
        classes = names.read_text(encoding="utf-8").splitlines() if names.exists() else []
    except FileNotFoundError as error:
        raise ModelError(f"--model: {folder} is not a model folder (it has no config.json)") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{path}: {error}") from error
    return config, classes, decoding


def save_part(folder: Path, part: str, weights: dict[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """``PART.safetensors``, without any changing metadata, put in place whole."""
    path = folder / f"{part}.safetensors"
    aside = path.with_name(path.name + ".tmp")
    tensors = {name: value.detach().cpu().to(dtype or value.dtype).contiguous() for name, value in weights.items()}
    try:
        save_file(dict(sorted(tensors.items())), str(aside))
    except SafetensorError as error:  # a full disk, for one
        raise OSError(f"{path}: {error}") from error
    # The library makes files that their owner alone can read; a model folder is for sharing.
    aside.chmod((folder / "config.json").stat().st_mode if (folder / "config.json").exists() else 0o644)
    aside.replace(path)


def check_part(folder: Path, part: str, module: nn.Module) -> None:
    """Refuse a weight file that does not fit, before any of it is loaded.

    Raises:
        ModelError: naming the file and what does not fit.
    """
    path = folder / f"{part}.safetensors"
    wanted = {name: list(value.shape) for name, value in module.state_dict().items()}
    try:
        with safe_open(str(path), framework="pt") as file:
            found = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is not a safetensors file: {error}") from error
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or extra:
        what = f"it lacks {missing[0]}" if missing else f"it holds {extra[0]}, which the configuration does not"
        raise ModelError(f"{path} does not fit config.json: {what}")
    for name, shape in wanted.items():
        if found[name] != shape:
            raise ModelError(f"{path} does not fit config.json: {name} is {found[name]} instead of {shape}")


@torch.no_grad()
def load_part(folder: Path, part: str, module: nn.Module) -> None:
    """Copy a part's weights in, as float32 whatever they are stored as."""
    with safe_open(str(folder / f"{part}.safetensors"), framework="pt") as file:
        for name, value in module.state_dict().items():
            value.copy_(file.get_tensor(name))
    for submodule in module.modules():
        # Buffers outside the state: they were made on the meta device and hold nothing yet.
        if any(True for _ in submodule.named_buffers(recurse=False)) and not submodule.state_dict():
            raise ModelError(f"{part}: {type(submodule).__name__} has a buffer that no file holds")


def random_model(config: ModelConfig, classes: Sequence[str] = (), seed: int = 0) -> StraIT:
    """A model whose random weights count as trained: for tests, benchmarks and first tries."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(key(seed).item()) & 0xFFFFFFFF)
        model = StraIT(config, classes)
    model.trained = set(model.parts())
    return model
