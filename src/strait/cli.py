"""The command line: one verb, one function. Nothing here imports torch before a verb has been understood."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from strait import __version__
from strait.config import Config, config_names, config_path, read_config
from strait.model_config import PARTS, from_dict

_INTERRUPTED = 128


def main(arguments: list[str] | None = None) -> int:
    """Run one verb; returns the exit status. Errors of the user's are one line on standard error."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] == "--version":
        print(f"strait {__version__}")
        return 0
    verb = VERBS.get(words[0])
    if verb is None:
        return _fail(f"there is no verb {words[0]!r}; there are {', '.join(VERBS)}")
    try:
        return verb[0](words[1:])
    except KeyboardInterrupt:
        return _INTERRUPTED + 2
    except BrokenPipeError:
        return 0
    except (ValueError, OSError) as error:
        return _fail(str(error) or type(error).__name__)


def _fail(message: str) -> int:
    print(f"strait: {' '.join(message.split())}", file=sys.stderr)
    return 2


class _Parser(ArgumentParser):
    """The library's parser; settings stand under ``--settings.`` inside, and under their own names outside."""

    def format_help(self, *words: Any, **options: Any) -> str:
        return super().format_help(*words, **options).replace("--settings.", "--")


def _parser(verb: str, usage: str = "[options]") -> ArgumentParser:
    return _Parser(
        prog=f"strait {verb}", usage=f"strait {verb} {usage}", description=VERBS[verb][1], exit_on_error=False
    )


def _parse(parser: ArgumentParser, words: list[str]) -> Namespace:
    """Parse, with the library's errors brought to one line of ours."""
    from jsonargparse import ArgumentError

    try:
        return parser.parse_args(words)
    except ArgumentError as error:
        message = str(error.message if hasattr(error, "message") else error)
        raise ValueError(message.replace("--settings.", "--").replace("settings.", "").strip()) from error


def _device(name: str) -> Any:
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"--device: {name!r} is not auto, cpu, cuda or cuda:N")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device: {name} is not to be had here ({str(error).splitlines()[0]})") from error


def _take_config(words: list[str]) -> tuple[Config | None, list[str]]:
    """The configuration that ``--config`` names, and the remaining words."""
    rest: list[str] = []
    config: Config | None = None
    queue = iter(words)
    for word in queue:
        if word == "--config" or word.startswith("--config="):
            name = word.partition("=")[2] if "=" in word else next(queue, "")
            config = read_config(config_path(name))
        else:
            rest.append(word)
    return config, rest


def _override(config: Config, words: list[str], parser: ArgumentParser) -> tuple[Config, Namespace]:
    """Add every setting to a parser, as ``--top.layers 8``, and parse."""
    parser.add_argument("--settings", type=Config, default=config, help=argparse.SUPPRESS)
    names = {field.name for field in dataclasses.fields(Config)}

    def long_form(word: str) -> str:
        name, dot, _ = word.removeprefix("--").partition("=")[0].partition(".")
        is_setting = word.startswith("--") and name in names and (dot or name in ("image_size", "bottom", "upsampler"))
        return f"--settings.{word[2:]}" if is_setting else word

    parsed = _parse(parser, [long_form(word) for word in words])
    return from_dict(Config, _tree(parsed.settings), "config"), parsed


def _tree(value: Any) -> Any:
    if isinstance(value, Namespace):
        return {name: _tree(item) for name, item in vars(value).items()}
    return value


def train(words: list[str]) -> int:
    config, words = _take_config(words)
    part = words.pop(0) if words and not words[0].startswith("-") else None
    if part is not None and part not in PARTS:
        raise ValueError(f"train: there is no part {part!r}; there are {', '.join(PARTS)}")
    parser = _parser("train", "[tokenizer|top|bottom|upsampler] --config C --data DIR --model M [--SETTING VALUE ...]")
    parser.add_argument("--data", required=True, help="folder of class folders, parquet files, WebDataset or hub id")
    parser.add_argument("--model", required=True, help="model folder; it grows part by part")
    parser.add_argument("--stop-after", type=float, help="minutes after which to save and exit")
    parser.add_argument("--init-from", help="a model whose weights to start from")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    stored = None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name = following if word == "--model" else word.removeprefix("--model=")
        if (word == "--model" or word.startswith("--model=")) and name:
            path = Path(name) / "runs" / "config.yaml"
            stored = read_config(path) if path.exists() else None
    settings, args = _override(config or stored or Config(), words, parser)
    if config is None and stored is None:
        raise ValueError(f"--config: say which to begin with; there are {', '.join(config_names())}")

    from strait.experiments.parts import PartTraining
    from strait.training.loop import orderly_stop

    with orderly_stop(args.stop_after) as stop:
        training = PartTraining(Path(args.model), settings, args.data, _device(args.device), stop, args.init_from)
        done = training.run([part] if part else training.parts())
        if done:
            print(f"{args.model}: done", file=sys.stderr)
        else:
            print(f"{args.model}: saved; the same command goes on", file=sys.stderr)
        return _INTERRUPTED + stop.signal_number if stop.signal_number is not None else 0


def encode(words: list[str]) -> int:
    parser = _parser("encode")
    parser.add_argument("--model", required=True, help="model folder with a trained tokenizer")
    parser.add_argument("--data", required=True, help="images, as for train")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    args = _parse(parser, words)

    from strait.experiments.parts import PartTraining
    from strait.training.loop import Stop

    training = PartTraining(Path(args.model), None, args.data, _device(args.device), Stop())
    cache = training.encode()
    training.bad_files.summary()
    print(f"{len(cache)} images, {cache.variants} variants, in {args.model}/runs/tokens/train", file=sys.stderr)
    return 0


def generate(words: list[str]) -> int:
    parser = _parser("generate")
    parser.add_argument("--model", help="model folder or hub id; the shipped model by default")
    parser.add_argument("--labels", help="classes by name, WordNet id or index, separated by commas")
    parser.add_argument("--count", type=int, default=1, help="images a label; without labels, in all")
    parser.add_argument("--seed", type=int, default=0, help="image k of a seed is always the same")
    parser.add_argument("--steps", help="of each level, as 18+6; the model's own by default")
    parser.add_argument("--temperature", help="one for all levels, or one each, as 4.5+2")
    parser.add_argument("--guidance", type=float, help="scale of classifier-free guidance")
    parser.add_argument("--schedule", help="mask schedule, such as cosine")
    parser.add_argument("--output", help="folder for the images, one PNG each")
    parser.add_argument("--grid", help="one PNG with all images, a row a label")
    parser.add_argument("--overwrite", action="store_true", help="replace files of the same name")
    parser.add_argument("--batch-size", type=int, default=64, help="images decoded at once")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    args = _parse(parser, words)
    if args.output is None and args.grid is None:
        raise ValueError("say where the images go: --output FOLDER, or --grid FILE.png")
    if not -(2**63) <= args.seed < 2**63:
        raise ValueError(f"--seed: {args.seed} does not fit into 64 bits")
    for name in ("count", "batch_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: {getattr(args, name)} must be at least 1")

    from strait.experiments.generation import Request, generate_files
    from strait.model import StraIT

    model = StraIT.from_pretrained(args.model, _device(args.device))
    decoding = _decoding(model.default_decoding(), model.config.tokenizer.num_levels, args)
    labels = None if args.labels is None else _split_labels(args.labels, model.classes)
    request = Request(labels, args.count, args.seed, decoding, args.batch_size)
    for path in generate_files(
        model,
        request,
        None if args.output is None else Path(args.output),
        None if args.grid is None else Path(args.grid),
        args.overwrite,
    ):
        print(path)
    return 0


def _split_labels(text: str, classes: Any) -> list[str]:
    """Labels between commas; names that hold commas themselves are found too."""
    pieces = [piece.strip() for piece in text.split(",")]
    labels: list[str] = []
    while pieces:
        length = next((size for size in range(len(pieces), 1, -1) if ", ".join(pieces[:size]) in classes), 1)
        labels.append(", ".join(pieces[:length]))
        del pieces[:length]
    labels = [label for label in labels if label]
    if not labels:
        raise ValueError(f"--labels: {text!r} names no class")
    return labels


def _decoding(decoding: Any, base_levels: int, args: Namespace) -> Any:
    """A model's own settings with those of the command line in their place."""
    changes: dict[str, Any] = {}
    levels = len(decoding.steps)
    if args.steps is not None:
        changes["steps"] = tuple(_numbers("--steps", args.steps, int))
        # 18+6 of a model that goes on to upsample: it then stops at the base size.
        allowed = sorted({base_levels, levels})
        if len(changes["steps"]) not in allowed:
            wanted = " or ".join(map(str, allowed))
            raise ValueError(f"--steps: {args.steps} must give {wanted} number(s), one a level, as 18+6")
        levels = len(changes["steps"])
        decoding = decoding.first(levels)
    if args.temperature is not None:
        values = _numbers("--temperature", args.temperature, float)
        changes["temperature"] = tuple(values * levels if len(values) == 1 else values)
    for name in ("guidance", "schedule"):
        if getattr(args, name) is not None:
            changes[name] = getattr(args, name)
    return dataclasses.replace(decoding, **changes)


def _numbers(option: str, text: str, kind: type) -> list[Any]:
    try:
        return [kind(part) for part in str(text).split("+")]
    except ValueError as error:
        raise ValueError(f"{option}: {text!r} is not a number, or numbers joined by +, as 18+6") from error


def evaluate(words: list[str]) -> int:
    parser = _parser("evaluate")
    parser.add_argument("what", choices=["reconstruction"], help="what to judge")
    parser.add_argument("--model", help="model folder or hub id; the shipped model by default")
    parser.add_argument("--data", required=True, help="images, as for train")
    parser.add_argument("--split", default="validation", choices=["train", "validation"], help="which images")
    parser.add_argument("--samples", type=int, help="take only this many, evenly spread")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    args = _parse(parser, words)
    if args.samples is not None and args.samples < 2:
        raise ValueError(f"--samples: {args.samples} must be at least 2")

    from strait.data.sources import has_split, open_images
    from strait.evaluation.reconstruction import evaluate_reconstruction, report_table
    from strait.model import StraIT

    model = StraIT.from_pretrained(args.model, _device(args.device))
    if args.split == "validation" and not has_split(args.data, "validation"):
        print(f"--split: {args.data} keeps no validation images apart; all of them are taken", file=sys.stderr)
    report = evaluate_reconstruction(model, open_images(args.data, args.split), args.samples)
    print(json.dumps(report) if args.json else report_table(report))
    return 0


def describe(words: list[str]) -> int:
    config, words = _take_config(words)
    parser = _parser("describe")
    parser.add_argument("--model", help="model folder or hub id; the shipped model by default")
    parser.add_argument("--classes", type=int, help="of a configuration; 1000 by default")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    args = _parse(parser, words)

    from strait.evaluation.cost import describe as describe_model

    if config is not None and args.model is not None:
        raise ValueError("describe: say either --config or --model")
    if config is None and args.classes is not None:
        raise ValueError("--classes: a model has its own; this is for --config")

    from strait.evaluation.cost import describe_table

    if config is not None:
        description = describe_model(config.model, 1000 if args.classes is None else args.classes)
    else:
        from strait.model import StraIT

        model = StraIT.from_pretrained(args.model)
        description = describe_model(model.config, len(model.classes))
        description["hash"] = model.weights_hash()
        description["trained"] = sorted(model.trained)
    print(json.dumps(description) if args.json else describe_table(description))
    return 0


VERBS = {
    "train": (train, "train a model, or one part of it, on your own images"),
    "encode": (encode, "turn images into the token cache (train does it by itself)"),
    "generate": (generate, "generate images"),
    "evaluate": (evaluate, "judge a tokenizer on images it has not seen"),
    "describe": (describe, "parts, shapes, parameters and multiply-adds"),
}


def _help() -> str:
    verbs = "\n".join(f"  {name:<10} {purpose}" for name, (_, purpose) in VERBS.items())
    return (
        "strait: stratified image transformer\n\n"
        f"usage: strait VERB [options]      strait VERB --help      strait --version\n\n{verbs}"
    )


if __name__ == "__main__":
    sys.exit(main())
