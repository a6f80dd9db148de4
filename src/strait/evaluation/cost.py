"""Parameters and multiply-adds of each part of a model, on the meta device, without allocating weights.

The paper's "FLOPs" are multiply-adds: section 4.3 and Table 5.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from strait.model.config import ModelConfig
from strait.model.parts import level_networks
from strait.model.strait import StraIT
from strait.runtime.messages import aligned
from strait.types import Canvas, Condition


@torch.no_grad()
def describe(config: ModelConfig, num_classes: int) -> dict[str, Any]:
    """Parameters, and the multiply-adds of one forward pass for one image, part by part.

    Returns:
        ``{"parts": {name: {"parameters", "multiply_adds", "input", "output", "shapes"}}, "parameters": total}``. The
        tokenizer's pass encodes and decodes; a transformer's pass is one step over a whole canvas, the upsampler's one
        step of each of its networks. Transformers also have ``level_multiply_adds``, one value per network, coarse to
        fine. ``shapes`` lists the outputs of the part's modules in forward order: ``{"module", "times", "output",
        "parameters"}``.
    """
    with torch.device("meta"):
        model = StraIT(config, [str(index) for index in range(num_classes)])
        images = torch.zeros(1, 3, config.image_size, config.image_size)
        labels = torch.zeros(1, dtype=torch.int64)
        tokens = [torch.zeros(1, *grid, dtype=torch.int64) for grid in config.grids]
    parts: dict[str, Any] = {}
    sides = [f"{height}x{width}" for height, width in config.grids]
    for name in config.parts:
        module = model.part(name)
        shapes: list[dict[str, Any]] = []
        totals = [0]
        with FlopCounterMode(display=False) as counter, _recorded(module, shapes):
            if name == "tokenizer":
                module(images)
                levels = range(config.tokenizer.num_levels)
                source = f"{config.image_size}x{config.image_size} pixels"
                result = f"{' + '.join(sides[level] for level in levels)} tokens"
            else:
                networks = level_networks(module)
                for level, network in networks.items():
                    # Not the pass of training: how many tokens are masked is nothing that this device knows.
                    network.bind(Condition(labels, tuple(tokens[:level])))(Canvas.blank(1, network.grid, "meta"))
                    totals.append(counter.get_total_flops() // 2)
                source = f"class, {' + '.join(sides[: max(networks) + 1])} tokens"
                sizes = config.level_codebook_sizes
                result = " + ".join(f"{sides[level]} x {sizes[level]}" for level in networks) + " logits"
        parts[name] = {
            "parameters": _parameters(module),
            "multiply_adds": counter.get_total_flops() // 2,
            "input": source,
            "output": result,
            "shapes": _merged(shapes),
        }
        if len(totals) > 1:
            parts[name]["level_multiply_adds"] = [after - before for before, after in pairwise(totals)]
    return {"parts": parts, "parameters": sum(part["parameters"] for part in parts.values())}


def _parameters(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def _members(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules to list: the items of a network's lists one by one, other modules whole."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{prefix}{name}.{index}", item) for index, item in enumerate(child))
        elif any(isinstance(part, nn.ModuleList | nn.Sequential) for part in child.children()):
            yield from _members(child, f"{prefix}{name}.")
        elif not isinstance(child, nn.Identity):
            yield f"{prefix}{name}", child


@contextmanager
def _recorded(module: nn.Module, shapes: list[dict[str, Any]]) -> Iterator[None]:
    """Record the output shape of each member of a module in forward passes; parameters are counted once."""
    counted: set[nn.Module] = set()

    def attach(name: str, member: nn.Module):
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            values = output if isinstance(output, Tensor) else getattr(output, "values", None)
            if isinstance(values, Tensor):
                parameters = 0 if member in counted else _parameters(member)
                counted.add(member)
                shapes.append({"module": name, "output": list(values.shape[1:]), "parameters": parameters})

        return member.register_forward_hook(hook)

    hooks = [attach(name, member) for name, member in _members(module)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _merged(shapes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge consecutive modules that differ only by their index."""
    entries: list[dict[str, Any]] = []
    for entry in shapes:
        entry = {**entry, "module": re.sub(r"\.\d+(?=\.|$)", ".*", entry["module"])}
        if entries and {**entries[-1], "times": 1} == {**entry, "times": 1}:
            entries[-1]["times"] += 1
        else:
            entries.append({**entry, "times": 1})
    return entries


def describe_table(description: dict[str, Any]) -> str:
    """The description as text tables: the parts, then the output shapes of each."""
    rows = [("part", "parameters", "multiply-adds", "from", "to")]
    for name, part in description["parts"].items():
        adds = part["multiply_adds"]
        rows.append((name, f"{part['parameters'] / 1e6:.2f}M", f"{adds / 1e9:.2f}G", part["input"], part["output"]))
    rows.append(("all", f"{description['parameters'] / 1e6:.2f}M", "", "", ""))
    tables = [aligned(rows, right=(1, 2))]
    for name, part in description["parts"].items():
        rows = [(name, "output", "parameters")]
        for entry in part["shapes"]:
            times = f" ({entry['times']} times)" if entry["times"] > 1 else ""
            count = entry["parameters"] * entry["times"]
            rows.append((f"  {entry['module']}{times}", " x ".join(map(str, entry["output"])), f"{count:,}"))
        tables.append(aligned(rows, right=(2,)))
    if "hash" in description:
        tables.append(f"weights {description['hash']}")
    return "\n\n".join(tables)
