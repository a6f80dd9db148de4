"""Measure speed relative to the machine's peak performance."""

from __future__ import annotations

import json
from typing import Any

from jsonargparse import ArgumentParser

from strait.commands.arguments import (
    add_decoding_options,
    check_compile,
    chosen_decoding,
    device_named,
)
from strait.commands.parsing import parse, verb_parser
from strait.config import config_path, read_config


def parser() -> ArgumentParser:
    parser = verb_parser("bench", __doc__, "[--config C | --model M] [options]")
    parser.add_argument("--config", help="name or path of a configuration, used with random weights")
    parser.add_argument("--model", help="model folder or hub id; the shipped model by default")
    parser.add_argument(
        "--part",
        help="tokenizer, top, bottom, upsampler or generate (by default all of these); or with --config a training "
        "step: train-tokenizer, train-top, train-bottom, train-upsampler",
    )
    parser.add_argument("--batch", type=int, default=1, help="images at once")
    parser.add_argument("--dtype", default="float32", help="of the transformers: float32, or bfloat16")
    parser.add_argument("--repeats", type=int, default=5, help="of each measurement; medians are reported")
    parser.add_argument("--warm-up", type=int, default=1, help="calls before each measurement")
    parser.add_argument("--compile", action="store_true", help="compile what can be compiled first")
    parser.add_argument("--no-pack", action="store_true", help="keep the weight layout of torch")
    add_decoding_options(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser


def run(argv: list[str]) -> int:
    args = parse(parser(), argv)
    config = None if args.config is None else read_config(config_path(args.config))
    for name, least in (("batch", 1), ("repeats", 1), ("warm_up", 0)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name.replace('_', '-')}: {getattr(args, name)} must be at least {least}")
    if config is not None and args.model is not None:
        raise ValueError("bench: pass either --config or --model")

    from strait.model.strait import StraIT
    from strait.runs.bench import PARTS, Bench, Machine, model_to_time
    from strait.runtime.devices import DTYPES

    if args.dtype not in DTYPES:
        raise ValueError(f"--dtype: {args.dtype!r} is not one of {', '.join(DTYPES)}")
    if args.part is not None and args.part not in PARTS:
        raise ValueError(f"--part: {args.part!r} is not one of {', '.join(PARTS)}")
    device = device_named(args.device)
    if args.compile:
        check_compile(device)
    machine = Machine(device, DTYPES[args.dtype])
    if config is None:
        model = StraIT.from_pretrained(args.model, machine.device, machine.dtype, pack=False)
    else:
        model = model_to_time(config.model, config.decoding, machine)
    decoding = chosen_decoding(model.default_decoding(), model.config.tokenizer.num_levels, args)
    model.batch_size(args.batch, decoding)  # raises if the batch does not fit
    if not args.no_pack:
        model.pack()
    if args.compile:
        model.compile_decoding()
    bench = Bench(model, machine, args.batch, args.repeats, args.warm_up, args.compile, config)
    available = [part for part in PARTS if part in (*model.config.parts, "generate")]
    parts = available if args.part is None else [args.part]
    reports = [bench.run(part, decoding) for part in parts]
    for report in reports:
        report["model"] = args.config or args.model or "shipped"
    if args.json:
        print(json.dumps(reports[0] if args.part is not None else {"parts": {r["part"]: r for r in reports}}))
    else:
        print(_table(reports))
    return 0


def _table(reports: list[dict[str, Any]]) -> str:
    from strait.runtime.messages import aligned

    first = reports[0]
    rows = [("part", "seconds", "least to most", "of the ceiling", "ceiling, GFLOP/s", "peak memory")]
    for report in reports:
        rows.append(
            (
                report["part"],
                f"{report['seconds']:.4g}",
                f"{report['seconds_least']:.4g} to {report['seconds_most']:.4g}",
                f"{report['fraction_of_ceiling']:.3f}",
                f"{report['ceiling_flops_per_s'] / 1e9:.1f}",
                f"{report['peak_memory_bytes'] / 2**30:.2f} GiB",
            )
        )
    lines = [
        f"{first['device']}, {first['threads']} threads, {first['dtype']}, batch {first['batch']}, "
        f"torch {first['torch']}; medians of {first['repeats']}; "
        f"memory copy {first['copy_bytes_per_s'] / 1e9:.1f} GB/s",
        aligned(rows, right=range(1, 6)),
    ]
    for report in reports:
        if report["part"] == "generate":
            lines.append(
                f"generate: {report['images_per_second']:.3g} images a second; "
                f"{report['over_forward_passes']:.3f} times its forward passes ({'+'.join(map(str, report['steps']))} "
                f"steps, guidance {report['guidance']:g}); weights {report['weights_bytes'] / 2**30:.2f} GiB"
            )
        if "fraction_loader" in report:
            lines.append(f"{report['part']}: the loader takes {100 * report['fraction_loader']:.2f}% of a step")
    return "\n".join(lines)
