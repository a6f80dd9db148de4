"""Show parts, shapes, parameters and multiply-adds."""

from __future__ import annotations

import json

from jsonargparse import ArgumentParser

from strait import __version__
from strait.commands.parsing import parse, verb_parser
from strait.config import config_path, read_config


def parser() -> ArgumentParser:
    parser = verb_parser("describe", __doc__, "[--config C | --model M] [options]")
    parser.add_argument("--config", help="name or path of a configuration")
    parser.add_argument("--model", help="model folder or hub id; the shipped model by default")
    parser.add_argument("--classes", type=int, help="number of classes for --config; 1000 by default")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser


def run(argv: list[str]) -> int:
    args = parse(parser(), argv)
    config = None if args.config is None else read_config(config_path(args.config))
    if config is not None and args.model is not None:
        raise ValueError("describe: pass either --config or --model")
    if config is None and args.classes is not None:
        raise ValueError("--classes: only for --config; a model has its own classes")
    if args.classes is not None and args.classes < 0:
        raise ValueError(f"--classes: {args.classes} must not be negative")

    from strait.evaluation.cost import describe as describe_model
    from strait.evaluation.cost import describe_table

    if config is not None:
        description = describe_model(config.model, 1000 if args.classes is None else args.classes)
    else:
        from strait.model.strait import StraIT

        model = StraIT.from_pretrained(args.model)
        description = describe_model(model.config, len(model.classes))
        description["hash"] = model.weights_hash()
        description["trained"] = sorted(model.trained)
    description["version"] = __version__
    print(json.dumps(description) if args.json else describe_table(description))
    return 0
