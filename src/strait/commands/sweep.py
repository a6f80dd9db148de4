"""Search a model's decoding settings, and plot score against time."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
from functools import partial
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from strait.commands.arguments import STOPPED_BY_SIGNAL, device_named, new_folder
from strait.commands.parsing import parse, verb_parser


def parser() -> ArgumentParser:
    parser = verb_parser("sweep", __doc__, "--data DIR [options]")
    parser.add_argument("--model", help="model folder or hub id; the shipped model by default")
    parser.add_argument("--data", required=True, help="images, as for train")
    parser.add_argument("--split", default="validation", choices=["train", "validation"], help="which images")
    parser.add_argument("--budget", type=float, default=30.0, help="minutes to search, including earlier runs")
    parser.add_argument("--samples", type=int, default=1000, help="images for each setting")
    parser.add_argument(
        "--features", default="inception", help="inception, efficientnet, or the path of a TorchScript network"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the generated images, shared by all settings")
    parser.add_argument("--output", default="sweep", help="folder for the trials, the table and the plot")
    parser.add_argument("--batch-size", type=int, default=50, help="images generated at once")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    return parser


def run(argv: list[str]) -> int:
    args = parse(parser(), argv)
    for name, least in (("samples", 4), ("batch_size", 1)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name.replace('_', '-')}: {getattr(args, name)} must be at least {least}")
    if not args.budget > 0:
        raise ValueError(f"--budget: {args.budget} must be above 0 minutes")

    from strait.training.distributed import launched

    with launched(device_named(args.device)) as (ranks, device):
        return _sweep(args, ranks, device)


def _sweep(args: Namespace, ranks: Any, device: Any) -> int:
    from strait.data.sources import open_images
    from strait.evaluation.features import open_features
    from strait.evaluation.generation import Judge, SampleSet
    from strait.model.strait import StraIT
    from strait.runtime.ranks import Stopped
    from strait.runtime.stop import orderly_stop
    from strait.tables.plots import check_plots
    from strait.tables.search import Trials
    from strait.tables.sweep import front, scored_again, sweep, timed
    from strait.tables.sweep_report import sweep_name, write_sweep

    check_plots()
    output = new_folder("--output", args.output)
    model = StraIT.from_pretrained(args.model, device)
    model.require("tokenizer", "top", "bottom")
    network = open_features(args.features, device)
    start = model.default_decoding()
    sample_set = SampleSet(args.samples, args.seed, start, args.batch_size)
    say = partial(print, file=sys.stderr, flush=True) if ranks.first else lambda line: None
    with orderly_stop(None) as stop:

        def trials(judge: Judge, kind: str, seed: int) -> Trials:
            samples = dataclasses.replace(sample_set, seed=seed)
            return Trials(
                output / f"{kind}-{sweep_name(judge, sample_set)}.jsonl",
                timed(lambda decoding: judge.scores(dataclasses.replace(samples, decoding=decoding), "sweeping")),
                ranks,
                stop.wanted,
            )

        with contextlib.suppress(Stopped):
            photographs = open_images(args.data, args.split)
            judge = Judge(model, photographs, network, args.split, len(start.steps), ranks, stop.wanted)
            done = sweep(trials(judge, "trials", args.seed), start, model.config.grids, 60 * args.budget, say)
            if done:
                # Not part of the budget: on the samples that selected it, the front looks better than it is.
                again = scored_again(trials(judge, "front", args.seed + 1), front(done), say)
                written = ranks.on_first(lambda: write_sweep(output, judge, sample_set, done, again))
                print(json.dumps(written.content) if args.json else written.text)
        if any(ranks.any([stop.wanted()])):
            print(f"{output}: saved; rerun the command to resume", file=sys.stderr)
            return STOPPED_BY_SIGNAL + max(ranks.gather(stop.signal_number or 0))
    return 0
