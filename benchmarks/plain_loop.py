"""A straightforward implementation of generation, the reference for the speed of the package.

Its only optimization is to compute the keys and values of each level's context once. Each step runs the whole network
in float32 with torch's layers, computes logits at every position, draws every id, and keeps the most confident. The
noise is the package's, so that both must draw the same tokens (`tests/test_speed.py`).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strait.decoding.config import DecodingConfig
from strait.decoding.masking import mask_ratio
from strait.model.strait import StraIT
from strait.randomness import gumbel, image_seeds, key, uniform, uniform_ids
from strait.transformer.bottom import BottomTransformer


def _linear(layer: nn.Module, x: Tensor) -> Tensor:
    return F.linear(x, layer.weight, layer.bias)  # pyright: ignore


def _attended(attention: nn.Module, query: Tensor, key_: Tensor, value: Tensor) -> Tensor:
    heads: int = attention.heads  # pyright: ignore
    split = [part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (query, key_, value)]
    split[0], split[1] = attention.query_norm(split[0]), attention.key_norm(split[1])  # pyright: ignore
    return _linear(attention.out, F.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2))  # pyright: ignore


def _layer(layer: nn.Module, x: Tensor, keys_values: Tensor | None = None) -> Tensor:
    """Attention and MLP, before or after their norms."""

    def attention(x: Tensor) -> Tensor:
        if keys_values is None:
            return _attended(layer.attention, *_linear(layer.attention.qkv, x).chunk(3, -1))  # pyright: ignore
        return _attended(layer.attention, _linear(layer.attention.query, x), *keys_values.chunk(2, -1))  # pyright: ignore

    def mlp(x: Tensor) -> Tensor:
        return _linear(layer.mlp_out, F.gelu(_linear(layer.mlp_in, x), approximate="tanh"))  # pyright: ignore

    if layer.pre_norm:
        x = x + attention(layer.attention_norm(x))  # pyright: ignore
        return x + mlp(layer.mlp_norm(x))  # pyright: ignore
    x = layer.attention_norm(x + attention(x))  # pyright: ignore
    return layer.mlp_norm(x + mlp(x))  # pyright: ignore


def _head(network: nn.Module, x: Tensor) -> Tensor:
    head = network.head
    x = head.norm(F.gelu(_linear(head.dense, network.norm(x)), approximate="tanh"))  # pyright: ignore
    return F.linear(x, network.embedding.ids.weight[: network.codebook_size], head.bias)  # pyright: ignore


def plain_network(network: nn.Module, labels: Tensor, context: list[Tensor]):
    """Ids ``[batch, length]`` with ``[MASK]`` among them -> logits ``[batch, length, codes]``."""
    if isinstance(network, BottomTransformer):
        classes = network.contexts[0].class_ids(labels)  # pyright: ignore
        known = [
            embedding(grid, classes if number == 0 else None)
            for number, (embedding, grid) in enumerate(zip(network.contexts, context, strict=True))
        ]
        seen = torch.cat(known, 1)
        keys_values = [_linear(layer.cross_layer.attention.key_value, seen) for layer in network.layers]  # pyright: ignore

        def bottom(ids: Tensor) -> Tensor:
            x = network.embedding(ids)
            for layer, cached in zip(network.layers, keys_values, strict=True):
                x = _layer(layer.cross_layer, _layer(layer.self_layer, x), cached)  # pyright: ignore
            return _head(network, x)

        return bottom

    def top(ids: Tensor) -> Tensor:
        x = network.embedding(ids, network.embedding.class_ids(labels))  # pyright: ignore
        for layer in network.layers:  # pyright: ignore
            x = _layer(layer, x)
        return _head(network, x[:, 1:])

    return top


@torch.no_grad()
def plain_tokens(model: StraIT, labels: Tensor, seed: int, decoding: DecodingConfig) -> list[Tensor]:
    """The tokens of each level, ``[batch, length]``, of a model that is not packed."""
    parts, context = [model.part(name) for name in model.config.parts[1:]], []
    seeds, batch = image_seeds(seed, torch.arange(len(labels))), len(labels)
    for level, network in enumerate(parts):
        guided = decoding.guidance != 0
        doubled = [torch.cat([grid, grid]) for grid in context] if guided else context
        both = torch.cat([labels, torch.full_like(labels, -1)]) if guided else labels
        logits_of = plain_network(network, both, doubled)
        length = network.grid[0] * network.grid[1]  # pyright: ignore
        mask_id = network.embedding.mask_id  # pyright: ignore
        steps, places = min(decoding.steps[level], length), torch.arange(length)
        ids = torch.full((batch, length), mask_id)
        for step in range(steps):
            masked = ids == mask_id
            logits = logits_of(torch.cat([ids, ids]) if guided else ids)
            if guided:
                given, free = logits.chunk(2)
                scale = 0.0 if step + 1 <= decoding.guidance_start * steps else decoding.guidance
                logits = given + scale * (given - free)
            noise = gumbel(uniform_ids(key(seeds[:, None], level, 1, step, places), logits.shape[-1]))
            drawn = (logits + noise).argmax(-1)
            log_p = logits.log_softmax(-1).gather(-1, drawn[..., None])[..., 0]
            progress = (step + 1) / steps
            fading = gumbel(uniform(key(seeds[:, None], level, 2, step, places)))
            scores = log_p + decoding.temperature[level] * (1 - progress) * fading
            scores = scores.masked_fill(~masked, torch.inf)
            ids = torch.where(masked, drawn, ids)
            if step + 1 < steps:
                ratio = mask_ratio(
                    decoding.schedule, torch.tensor([progress], dtype=torch.float64), torch.tensor([length])
                )
                count = max(1, min(int(masked[0].sum()) - 1, int(length * float(ratio) + 1e-9)))
                again = scores.argsort(dim=-1, stable=True)[:, :count]
                ids = ids.scatter(1, again, mask_id)
        context.append(ids)
    return context
