"""Options that several verbs share: output paths, devices, models, labels and decoding settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from strait.decoding.config import AUTO_QUALITY
from strait.runtime.messages import first_line

# Added to the number of the signal that ended a verb, as in shells.
STOPPED_BY_SIGNAL = 128


def new_folder(option: str, name: str) -> Path:
    """An output folder, checked before any work begins.

    Raises:
        ValueError: if a file has this name, or the name is too long.
    """
    path = Path(name)
    _check_length(option, path)
    if path.is_file():
        raise ValueError(f"{option}: {name} is a file; give a folder, such as {path.parent}")
    return path


def new_picture(option: str, name: str) -> Path:
    """An output PNG file, checked before any work begins.

    Raises:
        ValueError: if a folder has this name, or the name is too long or has another suffix.
    """
    path = Path(name)
    _check_length(option, path)
    if path.is_dir():
        raise ValueError(f"{option}: {name} is a folder; give a file in it, such as {path / 'images.png'}")
    if path.suffix.lower() != ".png":
        raise ValueError(f"{option}: {name} must end in .png, the only format that stores the settings")
    return path


def _check_length(option: str, path: Path) -> None:
    if any(len(os.fsencode(name)) > 255 for name in path.parts):
        raise ValueError(f"{option}: {path} has a name of more than 255 bytes")


def device_named(name: str) -> Any:
    """The ``torch.device`` named by ``--device``: auto, cpu, cuda or cuda:N.

    Raises:
        ValueError: for another name, or a device that is not available.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"--device: {name!r} is not auto, cpu, cuda or cuda:N")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device: {name} is not available here ({first_line(error)})") from error


def check_compile(device: Any) -> None:
    """Check, before anything is loaded, that code can be compiled for the device.

    Raises:
        ValueError: if not.
    """
    from strait.runtime.devices import can_compile

    if not can_compile(device):
        raise ValueError(f"--compile: there is no compiler for {device.type} here; omit --compile")


def add_inference_options(parser: ArgumentParser) -> None:
    """The options of ``inference_model`` besides ``--model``."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--precision", default="float32", help="of the transformers: float32, or bfloat16")
    parser.add_argument("--compile", action="store_true", help="compile first, which takes a minute")


def inference_model(args: Namespace) -> Any:
    """Load the model that the options name.

    Raises:
        ValueError: for an invalid or unavailable option, or a model that is missing (``ModelError``).
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
    """Split labels at commas; class names that contain commas are recognised.

    Args:
        text: as typed.
        classes: the model's ``ClassNames``.

    Raises:
        ValueError: if there is no label.
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
    """The options of ``chosen_decoding``."""
    parser.add_argument("--steps", help="steps of each level, such as 18+6, or auto; the model's defaults if omitted")
    parser.add_argument("--temperature", help="one for all levels, or one for each, such as 4.5+2")
    parser.add_argument("--guidance", type=float, help="scale of classifier-free guidance")
    parser.add_argument("--schedule", help="mask schedule, such as cosine")
    parser.add_argument(
        "--quality",
        type=float,
        help="from 0 to 1: below 1, images take fewer steps where the model is sure (--steps auto: 0.9)",
    )
    parser.add_argument("--guidance-ramp", help="guidance over the steps: constant, linear, power_cosine")
    parser.add_argument("--guidance-start", type=float, help="share of the steps before guidance begins, from 0 to 1")
    parser.add_argument("--revise", help="take tokens back: none, remask, confidence, redraw")
    parser.add_argument(
        "--revise-share", type=float, help="remask, confidence: share of the kept tokens, at each step"
    )
    parser.add_argument("--revise-passes", type=int, help="redraw: additional passes of each level, at least 2")


def chosen_decoding(decoding: Any, base_levels: int, args: Namespace) -> Any:
    """A model's decoding settings, overridden by options.

    Args:
        decoding: the model's settings.
        base_levels: number of levels before an upsampler; ``--steps`` of that length stop there.
        args: with the options of ``add_decoding_options``.

    Raises:
        ValueError: naming the invalid option.
    """
    is_auto = args.steps == "auto"
    steps = None if args.steps is None or is_auto else _numbers("--steps", args.steps, int)
    temperature = None if args.temperature is None else _numbers("--temperature", args.temperature, float)
    if temperature is not None and len(temperature) == 1:
        temperature = temperature[0]
    return decoding.chosen(
        base_levels,
        steps,
        temperature,
        args.guidance,
        args.schedule,
        called="--steps",
        quality=AUTO_QUALITY if is_auto and args.quality is None else args.quality,
        guidance_ramp=args.guidance_ramp,
        guidance_start=args.guidance_start,
        revise=args.revise,
        revise_share=args.revise_share,
        revise_passes=args.revise_passes,
    )


def _numbers(option: str, text: str, kind: type) -> list[Any]:
    try:
        return [kind(part) for part in str(text).split("+")]
    except ValueError as error:
        raise ValueError(f"{option}: {text!r} is not a number, or numbers joined by +, such as 18+6") from error
