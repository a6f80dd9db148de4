"""Train a model, or one part of it, on your own images."""

from __future__ import annotations

import sys
from pathlib import Path

from strait.commands.arguments import STOPPED_BY_SIGNAL, device_named, override, take_config, verb_parser
from strait.config import TRAINED, Config, config_names, read_config


def run(words: list[str]) -> int:
    config, words = take_config(words)
    part = words.pop(0) if words and not words[0].startswith("-") else None
    if part is not None and part not in TRAINED:
        raise ValueError(f"train: there is no part {part!r}; there are {', '.join(TRAINED)}")
    parser = verb_parser(
        "train", __doc__, f"[{'|'.join(TRAINED)}] --config C --data DIR --model M [--SETTING VALUE ...]"
    )
    parser.add_argument("--data", required=True, help="folder of class folders, parquet files, WebDataset or hub id")
    parser.add_argument("--model", required=True, help="model folder; it grows part by part")
    parser.add_argument("--stop-after", type=float, help="minutes after which to save and exit")
    parser.add_argument("--budget", type=float, help="minutes of training for all parts; settles the steps, once")
    parser.add_argument("--init-from", help="a model whose weights to start from; shipped: the package's")
    parser.add_argument("--keep-tokenizer", action="store_true", help="leave its tokenizer as it is; train the others")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    stored = None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name = following if word == "--model" else word.removeprefix("--model=")
        if (word == "--model" or word.startswith("--model=")) and name:
            path = Path(name) / "runs" / "config.yaml"
            stored = read_config(path) if path.exists() else None
    settings, args = override(config or stored or Config(), words, parser)
    if config is None and stored is None:
        raise ValueError(f"--config: say which to begin with; there are {', '.join(config_names())}")

    from strait.data.job import Job
    from strait.runs.training import ModelTraining
    from strait.runtime.stop import orderly_stop
    from strait.training.distributed import launched

    with orderly_stop(args.stop_after) as stop, launched(device_named(args.device)) as (ranks, device):
        job = Job(device, ranks, stop)
        folder, keeps_tokenizer = Path(args.model), args.keep_tokenizer
        training = ModelTraining(folder, settings, args.data, job, args.init_from, args.budget, keeps_tokenizer)
        done = training.run([part] if part else training.parts())
        draws = all((folder / f"{part}.safetensors").exists() for part in settings.model.parts)
        then = f"done; next: strait generate --model {folder} --count 8 --grid sheet.png" if draws else "done"
        print(f"{folder}: {then if done else 'saved; rerun the command to resume'}", file=sys.stderr)
        return STOPPED_BY_SIGNAL + stop.signal_number if stop.signal_number is not None else 0
