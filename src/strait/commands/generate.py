"""Generate images."""

from __future__ import annotations

import sys

from jsonargparse import ArgumentParser, Namespace

from strait.commands.arguments import (
    add_decoding_options,
    add_inference_options,
    chosen_decoding,
    inference_model,
    new_folder,
    new_picture,
    split_labels,
)
from strait.commands.parsing import parse, verb_parser


def parser() -> ArgumentParser:
    parser = verb_parser("generate", __doc__)
    parser.add_argument("--model", help="model folder or hub id; the shipped model by default")
    parser.add_argument("--labels", help="classes by name, WordNet id or index (#1), separated by commas")
    parser.add_argument("--list", action="store_true", help="only list the classes")
    parser.add_argument("--count", type=int, default=1, help="images per label; without labels, in total")
    parser.add_argument("--seed", type=int, default=0, help="image k of a seed is always the same")
    parser.add_argument("--size", help="width and height in pixels, such as 256x128; the model's own if omitted")
    add_decoding_options(parser)
    parser.add_argument("--output", help="folder for the images, one PNG each")
    parser.add_argument("--grid", help="PNG file for a sheet of all images, a row for each label")
    parser.add_argument("--overwrite", action="store_true", help="replace files of the same name")
    parser.add_argument("--batch-size", type=int, help="images decoded at once; by default as many as fit, at most 64")
    add_inference_options(parser)
    return parser


def run(argv: list[str]) -> int:
    args = parse(parser(), argv)
    if args.list:
        return _list_classes(args)
    if args.output is None and args.grid is None:
        raise ValueError("give an output: --output FOLDER, or --grid FILE.png")
    output = None if args.output is None else new_folder("--output", args.output)
    grid = None if args.grid is None else new_picture("--grid", args.grid)
    if not -(2**63) <= args.seed < 2**63:
        raise ValueError(f"--seed: {args.seed} does not fit into 64 bits")
    for name in ("count", "batch_size"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: {getattr(args, name)} must be at least 1")

    size = None if args.size is None else _size(args.size)

    from strait.commands.generated_files import Request, generate_files

    model = inference_model(args)
    decoding = chosen_decoding(model.default_decoding(), model.config.tokenizer.num_levels, args)
    labels = None if args.labels is None else split_labels(args.labels, model.classes)
    levels = model.config.tokenizer.num_levels
    if size is not None and args.steps in (None, "auto"):
        decoding = decoding.first(levels)
    if size is not None and len(decoding.steps) > levels:
        raise ValueError("--size: the upsampler does not draw other sizes; give --steps for the levels before it")
    request = Request(labels, args.count, args.seed, decoding, args.batch_size, size)
    for path in generate_files(model, request, output, grid, args.overwrite):
        print(path)
    return 0


def _size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT -> (height, width)."""
    width, _, height = text.lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and len(text) < 12):
        raise ValueError(f"--size: {text!r} must be width and height in pixels, such as 256x128")
    return int(height), int(width)


def _list_classes(args: Namespace) -> int:
    """Print a line for each class: its index as a label, and its name."""
    if any(value is not None for value in (args.labels, args.output, args.grid)):
        raise ValueError("--list: it generates no images; omit --labels, --output and --grid")

    from strait.model.folder import read_description
    from strait.model.hub import find_folder

    _, names, _ = read_description(find_folder(args.model))
    if not names:
        print("this model has no classes; omit --labels", file=sys.stderr)
    for index, name in enumerate(names):
        print(f"{f'#{index}':<6} {name}")
    return 0
