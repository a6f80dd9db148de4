"""The shipped model against the plain loop: 16 images, after warm-up, in one process, alternately.

    python benchmarks/generation.py [--model M] [--images 16] [--dtype float32] [--repeats 9] [--compile] [--json]
    python benchmarks/generation.py --profile

The plain loop always runs in float32. In float32 the package draws the same tokens (checked); in bfloat16, with other
rounding, the report states the share of equal tokens. Times are medians over the repeats.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from itertools import pairwise

import torch
from plain_loop import plain_tokens

from strait.decoding.stratified import final_tokens
from strait.model.strait import StraIT
from strait.runs.bench import Machine
from strait.runtime.devices import DTYPES
from strait.types import Tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="of our transformers")
    parser.add_argument("--compile", action="store_true", help="draw by one compiled kernel")
    parser.add_argument("--profile", action="store_true", help="show the operations of the package's decoding instead")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    plain = StraIT.from_pretrained(args.model, pack=False)
    ours = StraIT.from_pretrained(args.model, dtype=DTYPES[args.dtype])
    if args.compile:
        ours.compile_decoding()
    labels = torch.arange(args.images) % max(1, len(plain.classes))
    if args.profile:
        decoding = replace(plain.default_decoding(), guidance=0.0)
        for _ in range(2):  # the first warms up
            with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
                final_tokens(ours.decoding_steps(labels, 0, None, decoding))
        print(profile.key_averages().table(sort_by="self_cpu_time_total", row_limit=25, max_name_column_width=40))
        return
    machine = Machine(torch.device("cpu"), DTYPES[args.dtype])
    report = {"images": args.images, "compiled": args.compile, **machine.describe()}
    for guidance in (0.0, 1.0):
        decoding = replace(plain.default_decoding(), guidance=guidance)
        names = ("plain_tokens", "plain_pixels", "tokens", "pixels")
        times: dict[str, list[float]] = {name: [] for name in names}
        for _ in range(args.repeats + 1):  # the first warms up
            marks = [time.perf_counter()]
            expected = plain_tokens(plain, labels, 0, decoding)
            marks.append(time.perf_counter())
            grids = [ids.view(-1, *grid) for ids, grid in zip(expected, plain.config.grids, strict=False)]
            plain.decode(Tokens(tuple(grids)))
            marks.append(time.perf_counter())
            tokens = final_tokens(ours.decoding_steps(labels, 0, None, decoding))
            marks.append(time.perf_counter())
            ours.decode(tokens)
            marks.append(time.perf_counter())
            for name, (start, end) in zip(names, pairwise(marks), strict=True):
                times[name].append(end - start)
            equal = torch.cat([(a == b).flatten() for a, b in zip(grids, tokens.levels, strict=True)])
            if machine.dtype == torch.float32 and not equal.all():
                raise SystemExit("the two drew different tokens")
        medians = {name: statistics.median(values[1:]) for name, values in times.items()}
        seconds_plain = medians["plain_tokens"] + medians["plain_pixels"]
        seconds = medians["tokens"] + medians["pixels"]
        report["guided" if guidance else "unguided"] = {
            **{f"seconds_{name}": value for name, value in medians.items()},
            "seconds_plain": seconds_plain,
            "seconds": seconds,
            "same_tokens": equal.double().mean().item(),
            "times_faster_tokens": medians["plain_tokens"] / medians["tokens"],
            "times_faster": seconds_plain / seconds,
        }
    print(json.dumps(report) if args.json else json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
