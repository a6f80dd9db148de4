"""The configuration of a model, and its conversion to and from JSON (no torch here)."""

from __future__ import annotations

import dataclasses
import reprlib
import types
import typing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from strait.tokenizer.config import TokenizerConfig
from strait.transformer.config import TransformerConfig

PARTS = ("tokenizer", "top", "bottom", "upsampler")
"""The parts of a model in training order."""

_LEVELS = ("top", "bottom", "upsampled_top", "upsampled_bottom")

T = TypeVar("T")


class ModelError(ValueError):
    """A model, or its folder, cannot be used."""


def level_names(count: int) -> tuple[str, ...]:
    """The names of the first ``count`` levels, coarse to fine."""
    return _LEVELS[:count]


@dataclass(frozen=True)
class ModelConfig:
    """A model: image size, tokenizer, and a transformer for each level.

    Args:
        image_size: side in pixels.
        tokenizer: stage 1.
        top: the transformer of the top (or only) level.
        bottom: the transformer of the bottom level; None for a single-scale tokenizer.
        upsampler: U, which doubles the size of generated images; None for a model without it.
    """

    image_size: int = 256
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    top: TransformerConfig = field(default_factory=TransformerConfig)
    bottom: TransformerConfig | None = field(default_factory=lambda: TransformerConfig(layers=16, mlp=4096, heads=24))
    upsampler: TransformerConfig | None = None

    def __post_init__(self) -> None:
        self.tokenizer.grids(self.image_size)
        if (self.bottom is None) != (self.tokenizer.num_levels == 1):
            raise ValueError(
                f"bottom: {self.tokenizer.kind} has {self.tokenizer.num_levels} level(s), "
                f"so {'remove the' if self.bottom else 'add a'} bottom transformer"
            )
        if self.upsampler is not None and self.tokenizer.num_levels == 1:
            raise ValueError(f"upsampler: it needs two levels of tokens, but {self.tokenizer.kind} has one")

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of this model in training order."""
        return tuple(part for part in PARTS if getattr(self, part) is not None)

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """The token grids, coarse to fine; those of the upsampler come last."""
        grids = self.tokenizer.grids(self.image_size)
        return grids if self.upsampler is None else (*grids, *self.tokenizer.grids(2 * self.image_size))

    @property
    def level_codebook_sizes(self) -> tuple[int, ...]:
        """The number of ids of each grid."""
        return self.tokenizer.codebook_sizes * (1 if self.upsampler is None else 2)

    @property
    def level_names(self) -> tuple[str, ...]:
        """The name of each grid."""
        return level_names(len(self.grids))


def from_dict(kind: type[T], values: Any, where: str) -> T:
    """Build a dataclass from plain JSON values, including nested dataclasses and tuples.

    Raises:
        ValueError: naming the field that is unknown or has a wrong value.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be an object, not {type(values).__name__}")
    hints = typing.get_type_hints(kind)
    names = {entry.name for entry in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in names:
            raise ValueError(f"{where}.{name[:100]} is not a setting; there are {', '.join(sorted(names))}")
    return kind(**{name: _value(hints[name], value, f"{where}.{name}") for name, value in values.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (hint,) = [argument for argument in arguments if argument is not type(None)]
        return _value(hint, value, where)
    if dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where)  # type: ignore[arg-type]
    if origin is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{where} must be a list, not {reprlib.repr(value)}")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(value):
            raise ValueError(f"{where} must have {len(kinds)} values, not {len(value)}")
        return tuple(_value(kind, item, where) for kind, item in zip(kinds, value, strict=True))
    if origin is typing.Literal:
        if value not in arguments:
            raise ValueError(f"{where}: {reprlib.repr(value)} is not one of {', '.join(map(str, arguments))}")
        return value
    if hint is float and isinstance(value, int | str) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError as error:
            raise ValueError(f"{where}: the number is too large") from error
        except ValueError as error:
            raise ValueError(f"{where} must be float, not {reprlib.repr(value)}") from error
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ValueError(f"{where} must be {hint.__name__}, not {reprlib.repr(value)}")
    return value
