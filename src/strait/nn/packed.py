"""Layers as a CPU's matrix product wants them: their weights laid out once, not at every product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn


class Packed(nn.Module):
    """A layer for inference on a CPU: the same products by oneDNN, from weights in its own layout.

    The state dictionary holds the weights as they were, to the last bit.

    Raises:
        RuntimeError: where a gradient is asked for, another device or dtype, a copy or other weights: the layout is
            made once, for one of each.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._weight = weight
        self._bias = None if bias is None else bias.detach()

    def _refuse_gradients(self, x: Tensor) -> None:
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("packed weights have no gradient; to train a model, load it with pack=False")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Packed:
        moved = fn(torch.empty(0, dtype=self._weight.dtype))
        if (moved.device, moved.dtype) != (self._weight.device, self._weight.dtype):
            raise RuntimeError("packed weights stay where they are; load the model for its device, or with pack=False")
        return self

    def __reduce_ex__(self, protocol: object) -> Any:
        raise RuntimeError("packed weights cannot be copied or pickled; for that, load the model with pack=False")

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        raise RuntimeError("packed weights stay as they are; to load others, load the model with pack=False first")

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self._weight.to_dense()
        if self._bias is not None:
            destination[f"{prefix}bias"] = self._bias


class PackedLinear(Packed):
    """``nn.Linear``, 9 to 30% faster (`benchmarks/blocks.py`).

    A row's result does not depend on how many rows there are.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None), linear.bias)
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, x: Tensor, then: Literal["none", "gelu"] = "none") -> Tensor:
        """``then``: what is done to the sum before it is rounded, within the product; ``gelu`` is the tanh form."""
        self._refuse_gradients(x)
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, then, [], "tanh")


class PackedConvolution(Packed):
    """``nn.Conv2d``, 14 to 31% faster for one image (`benchmarks/blocks.py`)."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        padding: Any = convolution.padding
        shape = (list(padding), list(convolution.stride), list(convolution.dilation), convolution.groups)
        weight = convolution.weight.detach().to_mkldnn()
        super().__init__(torch.ops.aten.mkldnn_reorder_conv2d_weight(weight, *shape), convolution.bias)
        self._shape = shape

    def forward(self, x: Tensor) -> Tensor:
        self._refuse_gradients(x)
        return torch.ops.mkldnn._convolution_pointwise(x, self._weight, self._bias, *self._shape, "none", [], "")


def pack_layers(module: nn.Module) -> None:
    """Replace every linear layer and convolution below a module, one by one: never are two of them in memory twice.

    Where the layout is not to be had (another device, processor or dtype than float32 and, for linear layers,
    bfloat16; padding other than zeros) nothing happens.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.Linear):
            if _can_be_packed(child.weight):
                setattr(module, name, PackedLinear(child))
        elif isinstance(child, nn.Conv2d):
            plain = child.padding_mode == "zeros" and not isinstance(child.padding, str)
            if plain and child.weight.dtype == torch.float32 and _can_be_packed(child.weight):
                setattr(module, name, PackedConvolution(child))
        else:
            pack_layers(child)


def _can_be_packed(weight: Tensor) -> bool:
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32
