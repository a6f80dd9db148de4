"""The root of all settings: one YAML file describes a model and its training (no torch here)."""

from __future__ import annotations

import dataclasses
import re
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from strait.data.config import DataConfig
from strait.decoding.config import DecodingConfig
from strait.model.config import PARTS, ModelConfig, from_dict
from strait.runtime.files import write_text
from strait.tokenizer.config import ClassifierConfig, TokenizerConfig
from strait.training.config import (
    ClassifierTrainingConfig,
    RunConfig,
    TokenizerTrainingConfig,
    TransformerTrainingConfig,
)
from strait.transformer.config import TransformerConfig

CONFIGS = Path(__file__).parent / "configs"

TRAINED = ("classifier", *PARTS)
"""Everything that can be trained, in order: the classifier for a perceptual loss, then the parts of a model."""


@dataclass(frozen=True)
class Config:
    """A model and its training. The defaults are the paper's at 256x256.

    Args:
        image_size: side in pixels.
        tokenizer: the tokenizer's shape.
        top: the top transformer's shape.
        bottom: the bottom transformer's shape; None for a single-scale tokenizer.
        upsampler: the shape of each of U's two networks; None for a model without it.
        decoding: defaults of generation, stored with the model.
        data: how photographs are cropped.
        classifier: the shape of the classifier whose features the perceptual loss may use; not part of the model.
        classifier_training: of the classifier.
        tokenizer_training: stage 1.
        top_training: stage 2, top.
        bottom_training: stage 2, bottom.
        upsampler_training: stage 2, upsampler.
        run: seed, precision, log, checkpoints.
    """

    image_size: int = 256
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    top: TransformerConfig = field(default_factory=TransformerConfig)
    bottom: TransformerConfig | None = field(default_factory=lambda: TransformerConfig(layers=16, mlp=4096, heads=24))
    upsampler: TransformerConfig | None = None
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)
    classifier_training: ClassifierTrainingConfig = field(default_factory=ClassifierTrainingConfig)
    tokenizer_training: TokenizerTrainingConfig = field(default_factory=TokenizerTrainingConfig)
    top_training: TransformerTrainingConfig = field(default_factory=TransformerTrainingConfig)
    bottom_training: TransformerTrainingConfig = field(default_factory=TransformerTrainingConfig)
    upsampler_training: TransformerTrainingConfig = field(default_factory=TransformerTrainingConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        levels = len(self.model.grids)
        if len(self.decoding.steps) != levels:
            raise ValueError(f"decoding.steps: {self.decoding.steps} must give steps for {levels} level(s)")
        for part in ("top", "upsampler"):
            if getattr(self, f"{part}_training").condition_augmentation:
                raise ValueError(f"{part}_training.condition_augmentation: only bottom_training supports it")
        for part in ("top", "bottom", "upsampler"):
            if getattr(self, f"{part}_training").optimizer == "muon" and self.run.parallel == "fsdp":
                raise ValueError(
                    f"{part}_training.optimizer: muon needs whole matrices; use adamw, or run.parallel: ddp"
                )
        self._refuse_idle()
        training = self.tokenizer_training
        if training.crop is not None and (
            training.crop > self.image_size or training.crop % self.tokenizer.downsampling
        ):
            raise ValueError(
                f"tokenizer_training.crop: {training.crop} must be a multiple of the downsampling "
                f"{self.tokenizer.downsampling} and at most the image_size {self.image_size}"
            )
        side = training.crop or self.image_size
        needs_halving = training.adversarial.weight > 0 and training.adversarial.kind == "stylegan"
        if needs_halving and (side % 4 or (side // 4) & (side // 4 - 1)):
            name = "image_size" if training.crop is None else "tokenizer_training.crop"
            raise ValueError(f"{name}: {side} must be 4 times a power of two for the stylegan discriminator")

    def _refuse_idle(self) -> None:
        """A setting that asks for something which this model has no place for would be ignored without a word."""
        dropout, kind = self.tokenizer_training.bottom_dropout, self.tokenizer.kind
        if dropout and not self.tokenizer.fuses:
            raise ValueError(
                f"tokenizer_training.bottom_dropout: {dropout} does nothing with tokenizer.kind {kind}, which fuses "
                "no bottom; set it to 0"
            )
        share = self.bottom_training.condition_augmentation
        if share and self.tokenizer.num_levels == 1:
            raise ValueError(
                f"bottom_training.condition_augmentation: {share} does nothing with tokenizer.kind {kind}, which has "
                "no bottom; set it to 0"
            )

    @property
    def model(self) -> ModelConfig:
        """The settings that a model folder stores."""
        return ModelConfig(self.image_size, self.tokenizer, self.top, self.bottom, self.upsampler)

    @property
    def tokenizer_parts(self) -> tuple[str, ...]:
        """The tokenizer, preceded by the classifier if its perceptual loss needs one."""
        return ("classifier", "tokenizer") if self.tokenizer_training.perceptual == "classifier" else ("tokenizer",)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts to train for this model, in order."""
        return (*self.tokenizer_parts, *self.model.parts[1:])


def config_names() -> list[str]:
    """The configurations that ship with the package."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def config_path(name: str) -> Path:
    """The YAML file of a configuration, by its name or path.

    Raises:
        ValueError: if there is none; the message lists those that ship with the package.
    """
    for path in (CONFIGS / f"{name}.yaml", Path(name)):
        if path.is_file():
            return path
    raise ValueError(f"--config: {name!r} is neither a file nor one of {', '.join(config_names())}")


def read_config(path: Path) -> Config:
    """A configuration from YAML.

    Raises:
        ValueError: naming the file and the unknown or invalid setting.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        if content is None:
            raise ValueError("it is empty")
        return from_dict(Config, content, "config")
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def write_config(path: Path, config: Config) -> None:
    """The inverse of ``read_config``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, yaml.safe_dump(_plain(dataclasses.asdict(config)), sort_keys=False))


def setting_names(kind: type, prefix: str = "") -> list[str]:
    """The names of all settings of a dataclass, such as ``top.layers``; groups precede their members."""
    names: list[str] = []
    for name, hint in typing.get_type_hints(kind).items():
        names.append(prefix + name)
        for group in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(group):
                names += setting_names(group, f"{prefix}{name}.")  # type: ignore[arg-type]
    return names


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


class _Loader(yaml.SafeLoader):
    """YAML 1.2 numbers (1e-3 is a number), and an error for duplicate settings."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines and name != "<<":
                raise ValueError(f"line {line}: {name} is set twice, first in line {lines[name]}")
            lines[name] = line
        return node


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
