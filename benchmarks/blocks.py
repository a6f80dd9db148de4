"""The package's blocks against those of torch on a CPU, each pair alternately, to show where a speed-up comes from.

    python benchmarks/blocks.py [--repeats 40] [--json]

Times are medians for one call, after warm-up. Shapes are those of `imagenet256` for one image and of the shipped model
for 16. On a processor without bfloat16 its rows are omitted.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from strait.decoding.sampling import draw_rows
from strait.nn.attention import attend
from strait.nn.convolution import BlurDownsample
from strait.nn.dropout import dropout
from strait.nn.gelu import gelu, linear_gelu
from strait.nn.packed import pack_layers
from strait.randomness import gumbel, key, uniform_ids
from strait.runs.bench import Machine
from strait.runtime.devices import DTYPES, usable_dtype
from strait.runtime.messages import aligned

HEADS = {
    "top of imagenet256": (1, 32, 257, 257, 24),
    "bottom of imagenet256": (1, 24, 1024, 1024, 32),
    "its cross-attention": (1, 24, 1024, 257, 32),
    "shipped top": (16, 8, 65, 65, 32),
    "shipped bottom": (16, 5, 256, 256, 32),
}


class Pair(NamedTuple):
    """An operation in two implementations."""

    block: str
    where: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]


def _packed(layer: nn.Module) -> nn.Module:
    net = nn.Sequential(layer)
    pack_layers(net)
    return net[0]


def _heads(batch: int, heads: int, length: int, width: int, dtype: torch.dtype) -> Tensor:
    """Random heads in the memory layout of a projection's output."""
    projected = torch.randn(batch, length, 3 * heads * width).to(dtype)
    return projected[..., : heads * width].unflatten(-1, (heads, width)).transpose(1, 2)


@torch.enable_grad()
def _there_and_back(layer: Callable[[Tensor], Tensor], x: Tensor) -> None:
    layer(x).sum().backward()


def pairs(dtype: torch.dtype) -> Iterator[Pair]:
    for where, (batch, heads, queries, keys, width) in HEADS.items():
        q, k, v = (_heads(batch, heads, length, width, dtype) for length in (queries, keys, keys))
        yield Pair(
            "attention",
            where,
            lambda q=q, k=k, v=v: attend(q, k, v),
            lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(-2),
        )
    for where, rows, inputs, outputs in (
        ("top of imagenet256", (1, 257), 768, 5120),
        ("shipped top", (16, 65), 256, 1024),
    ):
        plain = nn.Linear(inputs, outputs).to(dtype)
        packed = _packed(plain)
        x = torch.randn(*rows, inputs).to(dtype)
        yield Pair("linear layer", where, lambda packed=packed, x=x: packed(x), lambda plain=plain, x=x: plain(x))
        yield Pair(
            "linear layer and GELU",
            where,
            lambda packed=packed, x=x: linear_gelu(packed, x),
            lambda packed=packed, x=x: F.gelu(packed(x), approximate="tanh"),
        )
    logits, keys = torch.randn(256, 1024).to(dtype), key(0, torch.arange(256))

    def gumbel_max() -> tuple[Tensor, Tensor]:
        values = logits.float()
        ids = (values + gumbel(uniform_ids(keys, 1024))).argmax(-1)
        return ids, values.log_softmax(-1).gather(-1, ids[:, None])

    yield Pair("draw", "256 of 1024 codes", lambda: draw_rows(logits, keys), gumbel_max)
    weights = torch.randn(8, 8, 257, 257).to(dtype)
    yield Pair(
        "dropout", "8 heads of 257x257, 8 images", lambda: dropout(weights, 0.1), lambda: F.dropout(weights, 0.1)
    )
    blur = BlurDownsample()
    kernel = torch.outer(blur.taps, blur.taps).to(dtype).expand(16, 1, 4, 4)
    pixels = torch.randn(32, 16, 64, 64).to(dtype).requires_grad_()
    yield Pair(
        "blur, there and back",
        "16 channels, 64x64, 32 images",
        lambda: _there_and_back(blur, pixels),
        lambda: _there_and_back(lambda x: F.conv2d(x, kernel, stride=2, padding=1, groups=16), pixels),
    )
    if dtype == torch.float32:
        x = torch.randn(1, 257, 5120)
        yield Pair(
            "GELU", "top of imagenet256", lambda: gelu(x.clone()), lambda: F.gelu(x.clone(), approximate="tanh")
        )
        for channels, side in ((128, 4), (128, 16), (64, 32), (128, 256)):
            layer = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
            packed, x = _packed(layer), torch.randn(1, channels, side, side)
            last = x.to(memory_format=torch.channels_last)  # the output layout of a preceding packed layer
            yield Pair(
                "convolution",
                f"{channels} channels, {side}x{side}",
                lambda packed=packed, last=last: packed(last),
                lambda layer=layer, x=x: layer(x),
            )


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    machine = Machine(torch.device("cpu"), torch.float32)
    results: list[dict[str, Any]] = []
    for name, dtype in DTYPES.items():
        if usable_dtype(dtype, machine.device) != dtype:
            continue
        for pair in pairs(dtype):
            times: tuple[list[float], list[float]] = ([], [])
            for turn in range(args.repeats + 3):
                for way, call in enumerate((pair.ours, pair.theirs)):
                    start = time.perf_counter()
                    call()
                    if turn >= 3:  # warm
                        times[way].append(time.perf_counter() - start)
            ours, theirs = map(statistics.median, times)
            results.append(
                {
                    "block": pair.block,
                    "where": pair.where,
                    "dtype": name,
                    "milliseconds": 1e3 * ours,
                    "milliseconds_torch": 1e3 * theirs,
                    "times_faster": theirs / ours,
                }
            )
    if args.json:
        print(json.dumps({**machine.describe(), "blocks": results}))
        return
    rows = [("block", "where", "dtype", "ms", "torch's, ms", "times faster")]
    for result in results:
        ours, theirs = f"{result['milliseconds']:.3f}", f"{result['milliseconds_torch']:.3f}"
        rows.append((result["block"], result["where"], result["dtype"], ours, theirs, f"{result['times_faster']:.2f}"))
    print(aligned(rows, right=range(3, 6)))


if __name__ == "__main__":
    main()
