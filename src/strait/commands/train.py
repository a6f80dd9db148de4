"""Train a model, or one part of it, on your own images."""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import ArgumentParser

from strait.commands.arguments import STOPPED_BY_SIGNAL, device_named
from strait.commands.parsing import named_config, parse_settings, value_of, verb_parser
from strait.config import TRAINED, Config, config_names, read_config


def parser() -> ArgumentParser:
    usage = f"[{'|'.join(TRAINED)}] --config C --data DIR --model M [--SETTING VALUE ...]"
    parser = verb_parser("train", __doc__, usage, has_settings=True)
    parser.add_argument("part", nargs="?", choices=TRAINED, help="the only part to train; all in order by default")
    parser.add_argument("--data", required=True, help="folder of class folders, parquet files, WebDataset or hub id")
    parser.add_argument("--model", required=True, help="model folder; it grows part by part")
    parser.add_argument("--stop-after", type=float, help="minutes after which to save and exit")
    parser.add_argument("--budget", type=float, help="minutes of training for all parts; settles the steps, once")
    parser.add_argument("--init-from", help="a model whose weights to start from; shipped: the package's")
    parser.add_argument("--keep-tokenizer", action="store_true", help="leave its tokenizer as it is; train the others")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    return parser


def run(words: list[str]) -> int:
    settings, args = parse_settings(parser(), named_config(words) or _stored_config(words), words)
    if settings is None:
        raise ValueError(f"--config: say which to begin with; there are {', '.join(config_names())}")

    from strait.data.job import Job
    from strait.runs.training import ModelTraining
    from strait.runtime.stop import orderly_stop
    from strait.training.distributed import launched

    with orderly_stop(args.stop_after) as stop, launched(device_named(args.device)) as (ranks, device):
        job = Job(device, ranks, stop)
        folder, keeps_tokenizer = Path(args.model), args.keep_tokenizer
        training = ModelTraining(folder, settings, args.data, job, args.init_from, args.budget, keeps_tokenizer)
        done = training.run([args.part] if args.part else training.parts())
        print(f"{folder}: {'done' if done else 'saved; rerun the command to resume'}", file=sys.stderr)
        return STOPPED_BY_SIGNAL + stop.signal_number if stop.signal_number is not None else 0


def _stored_config(words: list[str]) -> Config | None:
    """The configuration that the model folder was begun with, if it was."""
    folder = value_of(words, "--model")
    path = None if folder is None else Path(folder) / "runs" / "config.yaml"
    return None if path is None or not path.exists() else read_config(path)
