"""What a model costs: parameters and multiply-adds of each part, on the meta device, without allocating weights.

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
    """Parameters and the multiply-adds of one forward pass for one image, part by part.

    Returns:
        ``{"parts": {name: {"parameters", "multiply_adds", "input", "output", "shapes"}}, "parameters": in all}``. The
        tokenizer's pass is encoding and decoding; a transformer's is one step over a whole canvas, the upsampler's one
        step of each of its networks; a transformer also has ``level_multiply_adds``, those of each network by itself,
        coarse to fine. ``shapes`` are those of the outputs of the modules that make up the part, in the
        order of the pass: ``{"module", "times", "output", "parameters"}``.
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
        so_far: list[int] = [0]
        with FlopCounterMode(display=False) as counter, _recorded(module, shapes):
            if name == "tokenizer":
                module(images)
                levels = range(config.tokenizer.num_levels)
                given, made = f"{config.image_size}x{config.image_size} pixels", " + ".join(sides[i] for i in levels)
                made = f"{made} tokens"
            else:
                networks = level_networks(module)
                for level, network in networks.items():
                    # Not the pass of training: how many tokens are masked is nothing that this device knows.
                    network.bind(Condition(labels, tuple(tokens[:level])))(Canvas.blank(1, network.grid, "meta"))
                    so_far.append(counter.get_total_flops() // 2)
                given = f"class, {' + '.join(sides[: max(networks) + 1])} tokens"
                sizes = config.level_codebook_sizes
                made = " + ".join(f"{sides[level]} x {sizes[level]}" for level in networks) + " logits"
        parts[name] = {
            "parameters": _parameters(module),
            "multiply_adds": counter.get_total_flops() // 2,
            "input": given,
            "output": made,
            "shapes": _repeated(shapes),
        }
        if len(so_far) > 1:
            parts[name]["level_multiply_adds"] = [after - before for before, after in pairwise(so_far)]
    return {"parts": parts, "parameters": sum(part["parameters"] for part in parts.values())}


def _parameters(module: nn.Module) -> int:
    return sum(value.numel() for value in module.parameters())


def _members(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The modules a reader wants to see: what a network lists, one by one, and the others whole."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList):
            yield from ((f"{prefix}{name}.{index}", item) for index, item in enumerate(child))
        elif any(isinstance(part, nn.ModuleList | nn.Sequential) for part in child.children()):
            yield from _members(child, f"{prefix}{name}.")
        elif not isinstance(child, nn.Identity):
            yield f"{prefix}{name}", child


@contextmanager
def _recorded(module: nn.Module, shapes: list[dict[str, Any]]) -> Iterator[None]:
    """Note the output of each member of a module as a pass goes through it; its parameters are counted once."""
    counted: set[nn.Module] = set()

    def note(name: str, member: nn.Module):
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            values = output if isinstance(output, Tensor) else getattr(output, "values", None)
            if isinstance(values, Tensor):
                own = 0 if member in counted else _parameters(member)
                counted.add(member)
                shapes.append({"module": name, "output": list(values.shape[1:]), "parameters": own})

        return member.register_forward_hook(hook)

    hooks = [note(name, member) for name, member in _members(module)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _repeated(shapes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Runs of modules that differ by their number alone, as one."""
    found: list[dict[str, Any]] = []
    for entry in shapes:
        entry = {**entry, "module": re.sub(r"\.\d+(?=\.|$)", ".*", entry["module"])}
        if found and {**found[-1], "times": 1} == {**entry, "times": 1}:
            found[-1]["times"] += 1
        else:
            found.append({**entry, "times": 1})
    return found


def describe_table(description: dict[str, Any]) -> str:
    """The description as tables for people: the parts, then the shapes through each."""
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
