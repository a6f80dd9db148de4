"""Layers with weights packed for matrix products on a CPU: once, instead of at every product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn


class Packed(nn.Module):
    """A layer for inference on a CPU: the same products by oneDNN, with weights in its own layout.

    The state dictionary has the original weights, bit for bit.

    Raises:
        RuntimeError: on gradients, a move to another device or dtype, a copy, or loading other weights: none of these
            is possible with packed weights.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self._weight = weight
        self._bias = None if bias is None else bias.detach()

    def _refuse_gradients(self, x: Tensor) -> None:
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("packed weights have no gradients; to train a model, load it with pack=False")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Packed:
        moved = fn(torch.empty(0, dtype=self._weight.dtype))
        if (moved.device, moved.dtype) != (self._weight.device, self._weight.dtype):
            raise RuntimeError("packed weights cannot be moved; load the model on that device, or with pack=False")
        return self

    def __reduce_ex__(self, protocol: object) -> Any:
        raise RuntimeError("packed weights cannot be copied or pickled; for that, load the model with pack=False")

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        raise RuntimeError("packed weights cannot be replaced; to load others, load the model with pack=False first")

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        destination[f"{prefix}weight"] = self._weight.to_dense()
        if self._bias is not None:
            destination[f"{prefix}bias"] = self._bias


class PackedLinear(Packed):
    """``nn.Linear``, 9 to 30% faster (`benchmarks/blocks.py`).

    The result of a row does not depend on the number of rows.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None), linear.bias)
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, x: Tensor, then: Literal["none", "gelu"] = "none") -> Tensor:
        """``then``: an operation fused with the product, before rounding; ``gelu`` is the tanh form."""
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
    """Replace all linear layers and convolutions inside a module, one by one: at most one is in memory twice.

    Layers that cannot be packed stay as they are: those on another device or an unsupported processor, with a dtype
    other than float32 (or, for linear layers, bfloat16), or with padding other than zeros.
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
