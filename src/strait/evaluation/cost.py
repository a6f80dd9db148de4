"""What a model costs: parameters and multiply-adds of each part, on the meta device, without allocating weights.

The paper's "FLOPs" are multiply-adds: section 4.3 and Table 5.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from strait.model import StraIT
from strait.model_config import ModelConfig
from strait.types import Canvas, Condition


@torch.no_grad()
def describe(config: ModelConfig, num_classes: int) -> dict[str, Any]:
    """Parameters and the multiply-adds of one forward pass for one image, part by part.

    Returns:
        ``{"parts": {name: {"parameters", "multiply_adds", "input", "output"}}, "parameters": in all}``. The
        tokenizer's pass is encoding and decoding; a transformer's is one step over a whole canvas.
    """
    with torch.device("meta"):
        model = StraIT(config, [str(index) for index in range(num_classes)])
        size = config.image_size
        images = torch.zeros(1, 3, size, size)
        labels = torch.zeros(1, dtype=torch.int64)
        grids = config.grids
        context = (torch.zeros(1, *grids[0], dtype=torch.int64),)
    parts: dict[str, Any] = {}
    sides = [f"{height}x{width}" for height, width in grids]
    for name in model.parts():
        module = model.part(name)
        with FlopCounterMode(display=False) as counter:
            if name == "tokenizer":
                module(images)
            else:
                grid = grids[0] if name == "top" else grids[1]
                canvas = Canvas.blank(1, grid, "meta")
                module(Condition(labels, context if name == "bottom" else ()), canvas)
        shapes = {
            "tokenizer": (f"{size}x{size} pixels", " + ".join(sides) + " tokens"),
            "top": (f"class, {sides[0]} tokens", f"{sides[0]} x {config.tokenizer.codebook_sizes[0]} logits"),
            "bottom": (
                f"class, {sides[0]} and {sides[-1]} tokens",
                f"{sides[-1]} x {config.tokenizer.codebook_sizes[-1]} logits",
            ),
        }[name]
        parts[name] = {
            "parameters": sum(value.numel() for value in module.parameters()),
            "multiply_adds": counter.get_total_flops() // 2,
            "input": shapes[0],
            "output": shapes[1],
        }
    return {"parts": parts, "parameters": sum(part["parameters"] for part in parts.values())}


def describe_table(description: dict[str, Any]) -> str:
    """The description as a table for people."""
    rows = [("part", "parameters", "multiply-adds", "from", "to")]
    for name, part in description["parts"].items():
        adds = part["multiply_adds"]
        rows.append((name, f"{part['parameters'] / 1e6:.2f}M", f"{adds / 1e9:.2f}G", part["input"], part["output"]))
    rows.append(("all", f"{description['parameters'] / 1e6:.2f}M", "", "", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in (1, 2) else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
