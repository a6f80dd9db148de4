"""Encode images to the token cache (train does this itself)."""

from __future__ import annotations

import sys

from jsonargparse import ArgumentParser

from strait.commands.arguments import STOPPED_BY_SIGNAL, device_named, new_folder
from strait.commands.parsing import parse, verb_parser


def parser() -> ArgumentParser:
    parser = verb_parser("encode", __doc__, "--model M --data DIR [options]")
    parser.add_argument("--model", required=True, help="model folder with a trained tokenizer")
    parser.add_argument("--data", required=True, help="images, as for train")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    return parser


def run(argv: list[str]) -> int:
    args = parse(parser(), argv)
    folder = new_folder("--model", args.model)

    from strait.data.job import Job
    from strait.runs.training import ModelTraining
    from strait.runtime.stop import orderly_stop
    from strait.training.distributed import launched

    with orderly_stop(None) as stop, launched(device_named(args.device)) as (ranks, device):
        job = Job(device, ranks, stop)
        cache = ModelTraining(folder, None, args.data, job).encode()
        if cache is None:
            print(f"{args.model}: stopped; rerun the command to resume", file=sys.stderr)
            return STOPPED_BY_SIGNAL + (stop.signal_number or 0)
        print(f"{len(cache)} images, {cache.variants} variants, in {args.model}/runs/tokens/train", file=sys.stderr)
    return 0
