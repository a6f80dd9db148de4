"""The words of a command line to values: settings under their own names, labels, numbers joined by a plus."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from strait.config import Config, config_path, read_config
from strait.model.config import from_dict
from strait.runtime.messages import first_line

# Exit statuses above it name the signal that ended a verb, as shells write it.
STOPPED_BY_SIGNAL = 128


class Parser(ArgumentParser):
    """The library's parser; settings stand under ``--settings.`` inside, and under their own names outside."""

    def format_help(self, *words: Any, **options: Any) -> str:
        return super().format_help(*words, **options).replace("--settings.", "--")


def verb_parser(verb: str, purpose: str | None, usage: str = "[options]") -> ArgumentParser:
    """The parser of one verb, whose purpose is its file's docstring."""
    return Parser(prog=f"strait {verb}", usage=f"strait {verb} {usage}", description=purpose, exit_on_error=False)


def parse(parser: ArgumentParser, words: list[str]) -> Namespace:
    """Parse, with the library's errors brought to one line of ours.

    Raises:
        ValueError: for what the parser does not know or take.
    """
    try:
        return parser.parse_args(words)
    except ArgumentError as error:
        message = str(error.message if hasattr(error, "message") else error)
        raise ValueError(message.replace("--settings.", "--").replace("settings.", "").strip()) from error


def device_named(name: str) -> Any:
    """The ``torch.device`` of ``--device``: auto, cpu, cuda or cuda:N.

    Raises:
        ValueError: for another name, or a device that is not there.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"--device: {name!r} is not auto, cpu, cuda or cuda:N")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device: {name} is not to be had here ({first_line(error)})") from error


def check_compile(device: Any) -> None:
    """Refuse ``--compile`` before anything is loaded, where nothing can compile for the device.

    Raises:
        ValueError: saying so.
    """
    from strait.runtime.devices import can_compile

    if not can_compile(device):
        raise ValueError(f"--compile: no compiler for {device.type} was found here; leave it out")


def add_inference_options(parser: ArgumentParser) -> None:
    """The options that ``inference_model`` reads beside ``--model``."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--precision", default="float32", help="of the transformers: float32, or bfloat16")
    parser.add_argument("--compile", action="store_true", help="compile first: a minute that many images pay back")


def inference_model(args: Namespace) -> Any:
    """The model that the options name, ready to generate.

    Raises:
        ValueError: for an option that is wrong or cannot be had here, or a model that is not there (``ModelError``).
    """
    if args.precision not in ("float32", "bfloat16"):
        raise ValueError(f"--precision: {args.precision!r} is neither float32 nor bfloat16")
    device = device_named(args.device)
    if args.compile:
        check_compile(device)

    from strait.model.strait import StraIT
    from strait.runtime.devices import DTYPES

    model = StraIT.from_pretrained(args.model, device, DTYPES[args.precision])
    return model.compile_decoding() if args.compile else model


def take_config(words: list[str]) -> tuple[Config | None, list[str]]:
    """The configuration that ``--config`` names, if any does, and the remaining words.

    Raises:
        ValueError: if there is none of that name, or it is wrong.
    """
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


def override(config: Config, words: list[str], parser: ArgumentParser) -> tuple[Config, Namespace]:
    """Add every setting to a parser, as ``--top.layers 8``, and parse; the settings, and the verb's own options.

    Raises:
        ValueError: naming the option or setting that is unknown or wrong.
    """
    parser.add_argument("--settings", type=Config, default=config, help=argparse.SUPPRESS)
    names = {field.name for field in dataclasses.fields(Config)}

    def long_form(word: str) -> str:
        name, dot, _ = word.removeprefix("--").partition("=")[0].partition(".")
        is_setting = word.startswith("--") and name in names and (dot or name in ("image_size", "bottom", "upsampler"))
        return f"--settings.{word[2:]}" if is_setting else word

    parsed = parse(parser, [long_form(word) for word in words])
    return from_dict(Config, _tree(parsed.settings), "config"), parsed


def _tree(value: Any) -> Any:
    if isinstance(value, Namespace):
        return {name: _tree(item) for name, item in vars(value).items()}
    return value


def split_labels(text: str, classes: Any) -> list[str]:
    """Labels between commas; names that hold commas themselves are found too.

    Args:
        text: as typed.
        classes: the model's (``ClassNames``).

    Raises:
        ValueError: if it holds no label.
    """
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


def add_decoding_options(parser: ArgumentParser) -> None:
    """The options that ``chosen_decoding`` reads."""
    parser.add_argument("--steps", help="of each level, as 18+6; the model's own by default")
    parser.add_argument("--temperature", help="one for all levels, or one each, as 4.5+2")
    parser.add_argument("--guidance", type=float, help="scale of classifier-free guidance")
    parser.add_argument("--schedule", help="mask schedule, such as cosine")


def chosen_decoding(decoding: Any, base_levels: int, args: Namespace) -> Any:
    """A model's own settings with those of the command line in their place.

    Args:
        decoding: the model's.
        base_levels: how many levels there are before an upsampler; ``--steps`` for so many stops there.
        args: with the options of ``add_decoding_options``.

    Raises:
        ValueError: naming what is wrong.
    """
    steps = None if args.steps is None else _numbers("--steps", args.steps, int)
    temperature = None if args.temperature is None else _numbers("--temperature", args.temperature, float)
    if temperature is not None and len(temperature) == 1:
        temperature = temperature[0]
    return decoding.chosen(base_levels, steps, temperature, args.guidance, args.schedule, called="--steps")


def _numbers(option: str, text: str, kind: type) -> list[Any]:
    try:
        return [kind(part) for part in str(text).split("+")]
    except ValueError as error:
        raise ValueError(f"{option}: {text!r} is not a number, or numbers joined by +, as 18+6") from error
