"""Train a model, or one of its parts, on your own images."""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import ArgumentParser

from strait.commands.arguments import STOPPED_BY_SIGNAL, device_named, new_folder
from strait.commands.parsing import named_config, parse_settings, value_of, verb_parser
from strait.config import TRAINED, Config, config_names, config_path, read_config


def parser() -> ArgumentParser:
    usage = f"[{'|'.join(TRAINED)}] --config C --data DIR --model M [--SETTING VALUE ...]"
    parser = verb_parser("train", __doc__, usage, has_settings=True)
    parser.add_argument("part", nargs="?", choices=TRAINED, help="the only part to train; all in order by default")
    parser.add_argument(
        "--data",
        required=True,
        help="folder of class folders or of pictures, parquet files, WebDataset tars, or hub id",
    )
    parser.add_argument("--model", required=True, help="model folder; it grows part by part")
    parser.add_argument("--stop-after", type=float, help="minutes after which to save and exit")
    parser.add_argument("--budget", type=float, help="minutes of training for all parts; sets their steps, once")
    parser.add_argument("--init-from", help="a model whose weights to start from; shipped: the package's model")
    parser.add_argument("--keep-tokenizer", action="store_true", help="keep its tokenizer; train the other parts")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    return parser


def run(argv: list[str]) -> int:
    config = named_config(argv) or _stored_config(argv) or _config_of_source(argv)
    settings, args = parse_settings(parser(), config, argv)
    if settings is None:
        raise ValueError(f"--config: give a configuration to begin with: {', '.join(config_names())}")
    folder = new_folder("--model", args.model)

    from strait.data.job import Job
    from strait.runs.training import ModelTraining
    from strait.runtime.devices import keep_freed_memory
    from strait.runtime.stop import orderly_stop
    from strait.training.distributed import launched

    keep_freed_memory()
    with orderly_stop(args.stop_after) as stop, launched(device_named(args.device)) as (ranks, device):
        job = Job(device, ranks, stop)
        training = ModelTraining(folder, settings, args.data, job, args.init_from, args.budget, args.keep_tokenizer)
        done = training.run([args.part] if args.part else training.parts())
        draws = all((folder / f"{part}.safetensors").exists() for part in settings.model.parts)
        then = f"done; next: strait generate --model {folder} --count 8 --grid sheet.png" if draws else "done"
        print(f"{folder}: {then if done else 'saved; rerun the command to resume'}", file=sys.stderr)
        return STOPPED_BY_SIGNAL + stop.signal_number if stop.signal_number is not None else 0


def _stored_config(argv: list[str]) -> Config | None:
    """The configuration that the model folder was created with, if it exists."""
    folder = value_of(argv, "--model")
    path = None if folder is None else Path(folder) / "runs" / "config.yaml"
    return None if path is None or not path.exists() else read_config(path)


def _config_of_source(argv: list[str]) -> Config | None:
    """The configuration of the model to start from, if exactly one has its shape."""
    source = value_of(argv, "--init-from")
    if source is None:
        return None

    from strait.model.hub import find_folder
    from strait.runs.starting_weights import fitting_configs

    names = fitting_configs(find_folder(source))
    if len(names) != 1:
        return None
    print(f"--config: {names[0]}, which has the shape of {source}", file=sys.stderr)
    return read_config(config_path(names[0]))
