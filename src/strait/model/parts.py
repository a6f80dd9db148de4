"""The parts of a model as networks with random weights, and the level that each network predicts."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from strait.model.config import ModelConfig, ModelError
from strait.tokenizer.build import build_tokenizer
from strait.transformer.bottom import BottomTransformer
from strait.transformer.top import TopTransformer
from strait.transformer.upsampler import Upsampler

LevelNetwork = TopTransformer | BottomTransformer


def build_part(config: ModelConfig, part: str, num_classes: int) -> nn.Module:
    """Build one part of a model with random weights.

    Args:
        config: of the model.
        part: one of ``config.parts``.
        num_classes: 0 for an unconditional model.
    """
    sizes, grids = config.tokenizer.codebook_sizes, config.tokenizer.grids(config.image_size)
    if part == "tokenizer":
        return build_tokenizer(config.tokenizer)
    if part == "top":
        return TopTransformer(config.top, sizes[0], num_classes, grids[0])
    if part == "bottom" and config.bottom is not None:
        return BottomTransformer(config.bottom, sizes[1], sizes[:1], num_classes, grids[1], grids[:1])
    if part == "upsampler" and config.upsampler is not None:
        return Upsampler(config.upsampler, sizes, num_classes, grids)
    raise ModelError(f"{part}: this model has no such part; its parts are {', '.join(config.parts)}")


def level_networks(part: nn.Module) -> dict[int, LevelNetwork]:
    """The networks of a part, by the index of the level that each predicts."""
    if isinstance(part, TopTransformer):
        return {0: part}
    if isinstance(part, BottomTransformer):
        return {1: part}
    assert isinstance(part, Upsampler)
    return {2: part.top, 3: part.bottom}


class WithoutWeights(TorchFunctionMode):
    """A context in which networks are built in shape alone: on the meta device, and without drawing their weights.

    On that device some draws load torch's compiler, which takes as long as to load torch itself.
    """

    def __enter__(self) -> WithoutWeights:
        self._device = torch.device("meta")
        self._device.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._device.__exit__(*error)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__module__", None) == "torch.nn.init":
            return kwargs["tensor"] if kwargs and "tensor" in kwargs else args[0]
        return function(*args, **(kwargs or {}))
