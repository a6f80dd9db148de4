"""Dtypes and shapes of the values of ``strait.types``, checked by jaxtyping whenever a test builds one."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from functools import cache
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import jaxtyping
import torch
from jaxtyping import jaxtyped
from torch import Tensor

from strait.types import Canvas, Condition, DecodingStep, Sampling, StratifiedTokens, Tokens

CHECKED = (Tokens, StratifiedTokens, Canvas, Condition, Sampling, DecodingStep)


def tensors(hint: Any, value: Any) -> Iterator[tuple[str, Tensor]]:
    """The specifications ("int64 batch length") in an annotation, each with the tensor that must fit it."""
    if get_origin(hint) is Annotated:
        yield hint.__metadata__[0], value
    elif get_origin(hint) is tuple:
        for item in value:
            yield from tensors(get_args(hint)[0], item)
    elif get_origin(hint) in (Union, types.UnionType) and value is not None:
        yield from tensors(get_args(hint)[0], value)


def check(value: Any) -> None:
    """Raise a TypeError unless all tensors of a value fit their annotations and agree on the sizes' names.

    Grids of several levels share only the batch.
    """
    with jaxtyped("context"):
        for field, hint in _hints(type(value)).items():
            for number, (specification, tensor) in enumerate(tensors(hint, getattr(value, field))):
                dtype, *sizes = specification.split()
                names = [f"{size}_{number}" if size in ("height", "width") else size for size in sizes]
                if not isinstance(tensor, getattr(jaxtyping, dtype.capitalize())[Tensor, " ".join(names)]):
                    shape = f"{tensor.dtype} {tuple(tensor.shape)}"
                    raise TypeError(f"{type(value).__name__}.{field} must be {specification}, not {shape}")


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def check_all() -> None:
    """From now on, each new value is checked."""
    for kind in CHECKED:
        kind.__init__ = _checked(kind, kind.__init__)


def _checked(kind: type, init: Callable[..., None]) -> Callable[..., None]:
    def checked(self: Any, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        if type(self) is kind and not torch.compiler.is_compiling():
            check(self)

    return checked
