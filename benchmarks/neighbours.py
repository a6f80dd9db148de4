"""A forward pass of the paper's top transformer and of two similar models, each relative to the machine's peak.

    pip install transformers einops
    git clone https://github.com/valeoai/Halton-MaskGIT
    python benchmarks/neighbours.py --halton-maskgit Halton-MaskGIT [--dtype float32] [--repeats 5] [--json]

The package's transformer is packed, as for `strait generate`. BertModel of transformers has the same layers, width,
MLP, heads and tokens; that of Halton-MaskGIT is its large model (24 layers, width 1024) on 16x16 tokens. Weights are
random. All three are measured alternately, so that a slowing machine affects all. Operations are counted on the meta
device.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from strait.config import config_path, read_config
from strait.model.parts import build_part
from strait.nn.packed import pack_layers
from strait.runs.bench import Machine, fill_quickly
from strait.types import Canvas, Condition

Pass = Callable[[nn.Module, str], Callable[[], Any]]


def ours() -> tuple[Callable[[], nn.Module], Pass]:
    config = read_config(config_path("imagenet256")).model

    def one_pass(module: nn.Module, device: str) -> Callable[[], Any]:
        condition = Condition(torch.zeros(1, dtype=torch.int64, device=device))
        canvas = Canvas.blank(1, config.grids[0], device)
        return lambda: module.bind(condition)(canvas)  # pyright: ignore

    return lambda: build_part(config, "top", 1000), one_pass


def bert() -> tuple[Callable[[], nn.Module], Pass]:
    from transformers import BertConfig, BertModel  # pyright: ignore

    config = BertConfig(
        vocab_size=9193, hidden_size=768, num_hidden_layers=48, num_attention_heads=32, intermediate_size=5120
    )

    def one_pass(module: nn.Module, device: str) -> Callable[[], Any]:
        ids = torch.zeros(1, 257, dtype=torch.int64, device=device)
        return lambda: module(ids)

    return lambda: BertModel(config, add_pooling_layer=False), one_pass


def halton(folder: str) -> tuple[Callable[[], nn.Module], Pass]:
    sys.path.insert(0, folder)
    from Network.transformer import Transformer  # pyright: ignore

    def build() -> nn.Module:
        return Transformer(
            input_size=16, hidden_dim=1024, codebook_size=16384, depth=24, heads=16, mlp_dim=4096, nclass=1000
        )

    def one_pass(module: nn.Module, device: str) -> Callable[[], Any]:
        canvas = torch.zeros(1, 16, 16, dtype=torch.int64, device=device)
        label = torch.zeros(1, dtype=torch.int64, device=device)
        return lambda: module(canvas, label, torch.zeros(1, dtype=torch.bool, device=device))

    return build, one_pass


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--halton-maskgit", help="folder of a checkout; omitted without")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    machine = Machine(torch.device("cpu"), getattr(torch, args.dtype))
    rivals = {"strait": ours(), "transformers BertModel": bert()}
    if args.halton_maskgit:
        rivals["Halton-MaskGIT"] = halton(args.halton_maskgit)
    calls, flops, parameters = {}, {}, {}
    for name, (build, one_pass) in rivals.items():
        with torch.device("meta"):
            module = build().eval()
            with FlopCounterMode(display=False) as counter:
                one_pass(module, "meta")()
        flops[name], parameters[name] = counter.get_total_flops(), sum(p.numel() for p in module.parameters())
        module = build().eval().to(machine.dtype)  # with their own buffers
        fill_quickly(module)
        if name == "strait":
            pack_layers(module)
        calls[name] = one_pass(module, "cpu")
        calls[name]()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    ceilings = []
    for _ in range(args.repeats):
        for name, call in calls.items():
            ceilings.append(machine.product())
            seconds[name].append(machine.seconds(call))
    ceiling = statistics.median(ceilings)
    report = {
        **machine.describe(),
        "repeats": args.repeats,
        "ceiling_flops_per_s": ceiling,
        "forward": {
            name: {
                "parameters": parameters[name],
                "seconds": statistics.median(times),
                "flops": flops[name],
                "fraction_of_ceiling": flops[name] / statistics.median(times) / ceiling,
            }
            for name, times in seconds.items()
        },
    }
    print(json.dumps(report) if args.json else json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
