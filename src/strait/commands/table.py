"""Regenerate one of the paper's tables at your own scale."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from strait.commands.arguments import STOPPED_BY_SIGNAL, device_named, new_folder
from strait.commands.parsing import named_config, parse_settings, value_of, verb_parser
from strait.config import Config


def parser() -> ArgumentParser:
    usage = "TABLE --data DIR {--config C | --model M} [options] [--SETTING VALUE ...]"
    parser = verb_parser("table", __doc__, usage, has_settings=True)
    parser.add_argument("table", help="its number in the paper, 1 to 10, or equal-cost: the methods at equal cost")
    parser.add_argument("--data", help="images, as for train; not needed with --rows or --random-weights")
    parser.add_argument("--model", help="the model of a table that only changes decoding; the shipped one by default")
    parser.add_argument("--rows", action="store_true", help="only list the rows: models, costs, decoding settings")
    parser.add_argument(
        "--random-weights", action="store_true", help="table 7 only: measure its speed, without data or training"
    )
    parser.add_argument("--output", default="tables", help="folder for models, scores, tables and plots")
    parser.add_argument("--budget", type=float, help="minutes of training per row; by default the steps of --config")
    parser.add_argument(
        "--tokenizer-budget",
        type=float,
        help="minutes of training per tokenizer, each trained once for all seeds; --budget is then the transformers'",
    )
    parser.add_argument(
        "--init-from",
        help="a model with whose weights every row's tokenizer starts, where they fit; shipped: the package's model",
    )
    parser.add_argument("--seeds", type=int, default=1, help="models (or sets of samples) per row")
    parser.add_argument("--samples", type=int, default=10_000, help="images to score a row; the paper uses 50000")
    parser.add_argument("--search-samples", type=int, default=1000, help="images to score a setting; 0: no search")
    parser.add_argument(
        "--search-by",
        default="fid",
        choices=["fid", "fid_to_reconstructions"],
        help="the distance that a search minimises: to photographs, or to their reconstructions",
    )
    parser.add_argument(
        "--search-steps",
        action="store_true",
        help="where a table does not compare steps: search how to divide the configuration's steps among the levels, "
        "instead of taking the paper's (18+6, and 12 for a single level)",
    )
    parser.add_argument(
        "--features", default="inception", help="inception, efficientnet, or the path of a TorchScript network"
    )
    parser.add_argument("--batch-size", type=int, help="images generated at once; 50, or 1 with --random-weights")
    parser.add_argument("--dtype", help="of the transformers, with --random-weights: float32 or bfloat16")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    return parser


def run(argv: list[str]) -> int:
    settings, args = parse_settings(parser(), named_config(argv), argv)
    if args.batch_size is None:
        args.batch_size = 1 if args.random_weights else 50
    for name, least in (("seeds", 1), ("samples", 4), ("search_samples", 0), ("batch_size", 1)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name.replace('_', '-')}: {getattr(args, name)} must be at least {least}")
    if 0 < args.search_samples < 4:
        raise ValueError(f"--search-samples: {args.search_samples} must be 0 or at least 4")
    if settings is not None and args.model is not None:
        raise ValueError("table: pass either --config or --model")
    if args.rows and args.random_weights:
        raise ValueError("table: pass either --rows or --random-weights")
    if args.dtype is not None and not args.random_weights:
        raise ValueError("--dtype: only for --random-weights")
    if args.rows:
        return _rows(args, settings, value_of(argv, "--config") or "")
    if args.random_weights:
        return _speed(args, settings)
    if args.data is None:
        raise ValueError("--data: give the images; without any, --rows lists the rows")

    from strait.training.distributed import launched

    with launched(device_named(args.device)) as (ranks, device):
        return _measure(args, settings, ranks, device)


def _base(args: Namespace, settings: Config | None) -> tuple[Any, Config | None]:
    """The table, and the configuration that its rows start from."""
    from strait.tables.methods import at_base_size
    from strait.tables.requirements import able, check_start
    from strait.tables.table import find_table

    table = find_table(args.table)
    if settings is None and (table.trains or table.needs == "upsampler"):
        names = ", ".join(able(table.needs))
        raise ValueError(f"--config: the rows of this table are trained; give a configuration: {names}")
    if settings is None:
        return table, None
    check_start(table, settings)
    return table, settings if table.needs == "upsampler" else at_base_size(settings)


def _rows(args: Namespace, settings: Config | None, source: str) -> int:
    from strait.tables.summary import summaries, summary_table

    table, base = _base(args, settings)
    model_settings, classes = None, 1000
    if base is None:
        from strait.model.strait import StraIT
        from strait.tables.requirements import check_start

        model = StraIT.from_pretrained(args.model)
        check_start(table, model.config, "--model")
        model_settings, classes = (model.config, model.default_decoding()), len(model.classes)
        source = args.model or "shipped"
    if args.data is not None:
        from strait.data.sources import open_images

        classes = len(open_images(args.data, "train").classes)
    rows = summaries(table, base, model_settings, source, classes, args.samples, args.search_steps)
    print(json.dumps({"table": table.number or table.slug, "rows": rows}) if args.json else summary_table(table, rows))
    return 0


def _speed(args: Namespace, settings: Config | None) -> int:
    from strait.runs.bench import Machine
    from strait.runtime.devices import DTYPES
    from strait.tables.speed import speed_rows, speed_table

    table, base = _base(args, settings)
    if table.number != 7:
        raise ValueError("--random-weights: only table 7 has a column that needs no trained model, its speed")
    if base is None:
        raise ValueError("--config: --random-weights measures a configuration; give one, such as imagenet256")
    dtype = args.dtype or "float32"
    if dtype not in DTYPES:
        raise ValueError(f"--dtype: {dtype!r} is not one of {', '.join(DTYPES)}")
    report = speed_rows(table, base, Machine(device_named(args.device), DTYPES[dtype]), args.batch_size)
    print(json.dumps(report) if args.json else speed_table(report))
    return 0


def _measure(args: Namespace, settings: Config | None, ranks: Any, device: Any) -> int:
    from strait.evaluation.features import open_features
    from strait.model.hub import find_folder
    from strait.model.strait import StraIT
    from strait.runtime.ranks import Stopped
    from strait.runtime.stop import orderly_stop
    from strait.tables.files import write_table
    from strait.tables.plots import check_plots
    from strait.tables.requirements import check_start
    from strait.tables.row_models import Trainer
    from strait.tables.rows import Measuring, TableRun

    table, settings = _base(args, settings)
    check_plots()
    if settings is None and args.budget is not None:
        raise ValueError("--budget: nothing is trained without --config")
    if args.tokenizer_budget is not None:
        if settings is None or table.tokenizer_alone:
            raise ValueError("--tokenizer-budget: only for a table that trains tokenizers and transformers (--config)")
        if args.budget is None:
            raise ValueError("--tokenizer-budget: also give --budget, the minutes for the transformers")
        if not 0 < args.tokenizer_budget < math.inf:
            raise ValueError(f"--tokenizer-budget: {args.tokenizer_budget} must be above 0 minutes, and finite")
    init_from = None
    if args.init_from is not None:
        if settings is None:
            raise ValueError("--init-from: nothing is trained without --config")
        init_from = find_folder(args.init_from)
        if not (init_from / "tokenizer.safetensors").exists():
            raise ValueError(f"--init-from: {args.init_from} has no tokenizer")
    output = new_folder("--output", args.output)
    network = open_features(args.features, device)
    measuring = Measuring(
        args.seeds, args.samples, args.search_samples, args.batch_size, args.search_by, args.search_steps
    )
    with orderly_stop(None) as stop:
        seed = 0 if settings is None else settings.run.seed
        trainer = Trainer(
            output / "models",
            args.data,
            device,
            args.budget,
            stop,
            ranks,
            args.tokenizer_budget,
            tokenizer_seed=seed,
            init_from=init_from,
        )
        model = None if settings is not None else StraIT.from_pretrained(args.model, device)
        if model is not None:
            check_start(table, model.config, "--model")
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
