"""The shipped model against the plain loop: 16 images, warm, in one process, both in turns.

    python benchmarks/generation.py [--model M] [--images 16] [--repeats 9] [--compile] [--profile] [--json]

Both draw the same tokens (checked) and decode the same pixels; times are medians over the repeats.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from dataclasses import replace

import torch
from plain_loop import plain_tokens

from strait.decoding.stratified import final_tokens
from strait.model import StraIT
from strait.types import Tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--compile", action="store_true", help="draw by one compiled kernel")
    parser.add_argument("--profile", action="store_true", help="show what operations our tokens are made of instead")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    plain = StraIT.from_pretrained(args.model, pack=False)
    ours = copy.deepcopy(plain).pack()
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
    report = {"images": args.images, "threads": torch.get_num_threads(), "compiled": args.compile}
    for guidance in (0.0, 1.0):
        decoding = replace(plain.default_decoding(), guidance=guidance)
        times: dict[str, list[float]] = {"plain": [], "ours": [], "pixels": []}
        for _ in range(args.repeats + 1):  # the first warms up
            start = time.perf_counter()
            expected = plain_tokens(plain, labels, 0, decoding)
            between = time.perf_counter()
            found = final_tokens(ours.decoding_steps(labels, 0, None, decoding))
            decoded = time.perf_counter()
            ours.decode(Tokens(found.levels))
            times["plain"].append(between - start)
            times["ours"].append(decoded - between)
            times["pixels"].append(time.perf_counter() - decoded)
            if any(not torch.equal(a, b.flatten(1)) for a, b in zip(expected, found.levels, strict=True)):
                raise SystemExit("the two drew different tokens")
        medians = {name: statistics.median(values[1:]) for name, values in times.items()}
        name = "guided" if guidance else "unguided"
        report[name] = {
            "seconds_plain_tokens": medians["plain"],
            "seconds_tokens": medians["ours"],
            "seconds_pixels": medians["pixels"],
            "seconds": medians["ours"] + medians["pixels"],
            "times_faster_tokens": medians["plain"] / medians["ours"],
            "times_faster": (medians["plain"] + medians["pixels"]) / (medians["ours"] + medians["pixels"]),
        }
    print(json.dumps(report) if args.json else json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
