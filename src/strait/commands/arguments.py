"""The options that verbs share, and what they mean: a device, a model, labels, numbers joined by a plus."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from strait.runtime.messages import first_line

# Exit statuses above it name the signal that ended a verb, as shells write it.
STOPPED_BY_SIGNAL = 128


def new_folder(option: str, name: str) -> Path:
    """A folder that is written into, refused before any work if it cannot be one.

    Raises:
        ValueError: if a file has this name, or the name is too long.
    """
    path = Path(name)
    _check_length(option, path)
    if path.is_file():
        raise ValueError(f"{option}: {name} is a file; name a folder, such as {path.parent}")
    return path


def new_picture(option: str, name: str) -> Path:
    """A PNG file that is written, refused before any work if it cannot be one.

    Raises:
        ValueError: if a folder has this name, or the name says another format or is too long.
    """
    path = Path(name)
    _check_length(option, path)
    if path.is_dir():
        raise ValueError(f"{option}: {name} is a folder; name a file in it, such as {path / 'images.png'}")
    if path.suffix.lower() != ".png":
        raise ValueError(f"{option}: {name} must end in .png: settings are kept inside, as in no other format")
    return path


def _check_length(option: str, path: Path) -> None:
    if any(len(os.fsencode(name)) > 255 for name in path.parts):
        raise ValueError(f"{option}: {path} has a name of more than 255 bytes")


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
        named = (size for size in range(len(pieces), 1, -1) if classes.named(", ".join(pieces[:size])) is not None)
        length = next(named, 1)
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
