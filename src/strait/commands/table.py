"""Regenerate one of the paper's tables at your own scale."""

from __future__ import annotations

import contextlib
import json
import sys
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from strait.commands.arguments import STOPPED_BY_SIGNAL, device_named, new_folder
from strait.commands.parsing import named_config, parse_settings, verb_parser
from strait.config import Config


def parser() -> ArgumentParser:
    usage = "TABLE --data DIR {--config C | --model M} [options] [--SETTING VALUE ...]"
    parser = verb_parser("table", __doc__, usage, has_settings=True)
    parser.add_argument("table", help="its number in the paper, 1 to 10, or equal-cost: the methods side by side")
    parser.add_argument("--data", required=True, help="images, as for train")
    parser.add_argument("--model", help="for a table that changes decoding alone: the model; the shipped by default")
    parser.add_argument("--output", default="tables", help="folder for models, scores, tables and plots")
    parser.add_argument("--budget", type=float, help="minutes of training a row; the configuration's steps by default")
    parser.add_argument("--seeds", type=int, default=1, help="models (or sets of samples) a row")
    parser.add_argument("--samples", type=int, default=10_000, help="images a row is judged by")
    parser.add_argument("--search-samples", type=int, default=1000, help="images a setting is searched by; 0: none")
    parser.add_argument(
        "--search-by",
        default="fid",
        choices=["fid", "fid_to_reconstructions"],
        help="the distance that a search makes least: to photographs, or to their reconstructions",
    )
    parser.add_argument("--features", default="inception", help="inception, or the path of a TorchScript network")
    parser.add_argument("--batch-size", type=int, default=50, help="images generated at once")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    return parser


def run(words: list[str]) -> int:
    settings, args = parse_settings(parser(), named_config(words), words)
    for name, least in (("seeds", 1), ("samples", 4), ("search_samples", 0), ("batch_size", 1)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name.replace('_', '-')}: {getattr(args, name)} must be at least {least}")
    if 0 < args.search_samples < 4:
        raise ValueError(f"--search-samples: {args.search_samples} must be 0 or at least 4")

    from strait.training.distributed import launched

    with launched(device_named(args.device)) as (ranks, device):
        return _measure(args, settings, ranks, device)


def _measure(args: Namespace, settings: Config | None, ranks: Any, device: Any) -> int:
    from strait.evaluation.features import open_features
    from strait.model.strait import StraIT
    from strait.runtime.ranks import Stopped
    from strait.runtime.stop import orderly_stop
    from strait.tables.files import write_table
    from strait.tables.plots import check_plots
    from strait.tables.row_models import Trainer
    from strait.tables.rows import Measuring, TableRun
    from strait.tables.table import at_base_size, find_table

    table = find_table(args.table)
    check_plots()
    if table.trains and settings is None:
        raise ValueError("--config: the rows of this table are trained; say on which configuration")
    if settings is None and args.budget is not None:
        raise ValueError("--budget: without --config nothing is trained")
    if settings is not None and args.model is not None:
        raise ValueError("table: say either --config or --model")
    if table.number == 4 and (settings is None or settings.upsampler is None):
        raise ValueError("--config: table 4 needs a configuration with an upsampler, such as imagenette128-cpu")
    if settings is not None and table.number != 4:
        settings = at_base_size(settings)
    output = new_folder("--output", args.output)
    network = open_features(args.features, device)
    measuring = Measuring(args.seeds, args.samples, args.search_samples, args.batch_size, args.search_by)
    with orderly_stop(None) as stop:
        trainer = Trainer(output / "models", args.data, device, args.budget, stop, ranks)
        model = None if settings is not None else StraIT.from_pretrained(args.model, device)
        if model is not None:
            model.require("tokenizer", "top", "bottom")
        table_run = TableRun(table, output, network, measuring, trainer, settings, model)
        results, written = [], None
        for result in table_run.rows():
            results.append(result)
            written = ranks.on_first(lambda: write_table(table_run, results))
        with contextlib.suppress(Stopped):
            ranks.stop_if(stop.wanted())
            floor = table_run.floor()
            written = ranks.on_first(lambda: write_table(table_run, results, floor))
        if any(ranks.any([stop.wanted()])):
            print(f"{output}: saved; rerun the command to resume", file=sys.stderr)
            return STOPPED_BY_SIGNAL + max(ranks.gather(stop.signal_number or 0))
    assert written is not None
    print(json.dumps(written.content) if args.json else written.text)
    return 0
