"""Layers with weights packed for matrix products on a CPU: once, instead of at every product."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AMX_PIECE, AMX_MULTIPLE = 384, 32
"""The inner dimension of a bfloat16 product on a processor with AMX: at most the one, and a multiple of the other.

For others oneDNN may choose the order of a row's sum by the number of rows, so an image would depend on its batch.
"""


class Packed(nn.Module):
    """A layer for inference on a CPU: the same products by oneDNN, with weights in its own layout.

    The state dictionary has the original weights, bit for bit.

    Raises:
        RuntimeError: on gradients, a move to another device or dtype, a copy, or loading other weights: none of these
            is possible with packed weights.
    """

    def __init__(self, weights: list[Tensor], columns: int, bias: Tensor | None) -> None:
        """``weights``: packed; side by side along their second dimension they start with the layer's weight."""
        super().__init__()
        self._weights = weights
        self._columns = columns
        self._bias = None if bias is None else bias.detach()

    def _refuse_gradients(self, x: Tensor) -> None:
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError("packed weights have no gradients; to train a model, load it with pack=False")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Packed:
        weight = self._weights[0]
        moved = fn(torch.empty(0, dtype=weight.dtype))
        if (moved.device, moved.dtype) != (weight.device, weight.dtype):
            raise RuntimeError("packed weights cannot be moved; load the model on that device, or with pack=False")
        return self

    def __reduce_ex__(self, protocol: object) -> Any:
        raise RuntimeError("packed weights cannot be copied or pickled; for that, load the model with pack=False")

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        raise RuntimeError("packed weights cannot be replaced; to load others, load the model with pack=False first")

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        pieces = [weight.to_dense() for weight in self._weights]
        whole = pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1)
        destination[f"{prefix}weight"] = whole[:, : self._columns]
        if self._bias is not None:
            destination[f"{prefix}bias"] = self._bias


class PackedLinear(Packed):
    """``nn.Linear``, 9 to 30% faster (`benchmarks/blocks.py`). A row's result does not depend on the others."""

    def __init__(self, linear: nn.Linear) -> None:
        weight = linear.weight.detach()
        columns = self._piece = weight.shape[1]
        self._padding = 0
        if weight.dtype == torch.bfloat16 and torch.cpu._is_amx_tile_supported():
            self._piece, self._padding = AMX_PIECE, -columns % AMX_MULTIPLE
            weight = F.pad(weight, (0, self._padding))
        pieces = [piece.contiguous() for piece in weight.split(self._piece, 1)]
        packed = [torch.ops.mkldnn._reorder_linear_weight(piece, None) for piece in pieces]
        super().__init__(packed, columns, linear.bias)
        self.in_features, self.out_features = linear.in_features, linear.out_features

    def forward(self, x: Tensor, then: Literal["none", "gelu"] = "none") -> Tensor:
        """``then``: an operation fused with the product, before rounding; ``gelu`` is the tanh form."""
        self._refuse_gradients(x)
        if self._padding:
            x = F.pad(x, (0, self._padding))
        first, *others = zip(x.split(self._piece, -1), self._weights, strict=True)
        y = torch.ops.mkldnn._linear_pointwise(*first, self._bias, "none" if others else then, [], "tanh")
        for piece, weight in others:
            y = torch.ops.mkldnn._linear_pointwise.binary(piece, y, weight, None, "add")
        return F.gelu(y, approximate="tanh") if others and then == "gelu" else y


class PackedConvolution(Packed):
    """``nn.Conv2d``, 14 to 31% faster for one image (`benchmarks/blocks.py`).

    The best layout depends on the input's shape. With another one, oneDNN would rearrange the weights at every call,
    in many times the time of the convolution; so they are packed anew when the shape changes.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        padding: Any = convolution.padding
        self._arguments = (list(padding), list(convolution.stride), list(convolution.dilation), convolution.groups)
        weight = convolution.weight.detach().to_mkldnn()
        super().__init__([self._packed(weight, None)], weight.shape[1], convolution.bias)
        self._packed_for: torch.Size | None = None

    def forward(self, x: Tensor) -> Tensor:
        self._refuse_gradients(x)
        if x.shape != self._packed_for:
            dense = self._weights[0].to_dense()
            self._weights, self._packed_for = [self._packed(dense.to_mkldnn(), list(x.shape))], x.shape
        weight = self._weights[0]
        return torch.ops.mkldnn._convolution_pointwise(x, weight, self._bias, *self._arguments, "none", [], "")

    def _packed(self, weight: Tensor, shape: list[int] | None) -> Tensor:
        return torch.ops.aten.mkldnn_reorder_conv2d_weight(weight, *self._arguments, shape)


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
