"""Evaluate reconstructions or generated images."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from strait.commands.arguments import add_decoding_options, chosen_decoding, device_named, new_picture
from strait.commands.parsing import parse, verb_parser

if TYPE_CHECKING:
    from strait.data.sources import ImageSource
    from strait.model.strait import StraIT

_SHOWN = 8

KINDS = {
    "reconstruction": "Evaluate a tokenizer by its reconstructions of photographs.",
    "generation": "Evaluate generated images; if they are guided, also without guidance.",
}


def run(argv: list[str]) -> int:
    what = argv[0] if argv else ""
    if what in ("-h", "--help"):
        print(
            "usage: strait evaluate {reconstruction|generation} --data DIR [options]; --help after either lists them"
        )
        return 0
    if what not in KINDS:
        rest = f", not {what!r}" if what else ""
        raise ValueError(f"evaluate: say what to evaluate: {' or '.join(KINDS)}{rest}")
    args = parse(_parser(what), argv[1:])
    least = 2 if what == "reconstruction" else 4
    if args.samples is not None and args.samples < least:
        raise ValueError(f"--samples: {args.samples} must be at least {least}")
    if what == "generation" and args.batch_size < 1:
        raise ValueError(f"--batch-size: {args.batch_size} must be at least 1")
    if what == "reconstruction":
        return _evaluate_reconstruction(args)

    from strait.training.distributed import launched

    with launched(device_named(args.device)) as (ranks, device):
        return _evaluate_generation(args, ranks, device)


def parsers() -> dict[str, ArgumentParser]:
    """The parser of each kind of evaluation."""
    return {what: _parser(what) for what in KINDS}


def _parser(what: str) -> ArgumentParser:
    parser = verb_parser(f"evaluate {what}", KINDS[what], "--data DIR [options]")
    parser.add_argument("--model", help="model folder or hub id; the shipped model by default")
    parser.add_argument("--data", required=True, help="images, as for train")
    parser.add_argument("--split", default="validation", choices=["train", "validation"], help="which images")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    if what == "reconstruction":
        parser.add_argument("--features", help="inception (the default), efficientnet, a TorchScript file, or none")
        parser.add_argument("--samples", type=int, help="take only this many images, evenly spaced")
        parser.add_argument("--against", help="further models, separated by commas, to compare side by side")
        parser.add_argument("--grid", help="PNG file for photographs and their reconstructions by each tokenizer")
        parser.add_argument("--overwrite", action="store_true", help="replace a file of the same name")
    else:
        parser.add_argument("--features", help="inception (the default), efficientnet, or a TorchScript file")
        parser.add_argument("--samples", type=int, help="images to generate; by default as many as photographs")
        parser.add_argument("--seed", type=int, default=0, help="of the generated images")
        parser.add_argument("--batch-size", type=int, default=50, help="images generated at once")
        add_decoding_options(parser)
    return parser


def _evaluate_reconstruction(args: Namespace) -> int:
    from strait.data.sources import has_split, open_images
    from strait.evaluation.features import FeatureError, open_features
    from strait.evaluation.reconstruction import evaluate_reconstruction, report_table
    from strait.model.strait import StraIT

    grid = None if args.grid is None else new_picture("--grid", args.grid)
    device = device_named(args.device)
    folders = [args.model, *(name for name in (args.against or "").split(",") if name)]
    models = {folder or "shipped": StraIT.from_pretrained(folder, device) for folder in folders}
    if len({model.config.image_size for model in models.values()}) > 1:
        raise ValueError("--against: the models have different image sizes")
    network = None
    if args.features != "none":
        try:
            network = open_features(args.features or "inception", device)
        except FeatureError as error:
            if args.features is not None:
                raise
            print(f"no Fréchet distance ({error})", file=sys.stderr)
    if args.split == "validation" and not has_split(args.data, "validation"):
        print(f"--split: {args.data} has no separate validation images; all images are used", file=sys.stderr)
    source = open_images(args.data, args.split)
    if args.split == "validation" and has_split(args.data, "validation"):
        _warn_of_overlap(args.data, source, open_images(args.data, "train"))
    if grid is not None:
        _write_side_by_side(grid, args.overwrite, models, source)
    reports = {
        name: evaluate_reconstruction(model, source, args.samples, network=network, split=args.split)
        for name, model in models.items()
    }
    if args.json:
        print(json.dumps(next(iter(reports.values())) if len(reports) == 1 else reports))
    else:
        print(report_table(reports))
    return 0


def _warn_of_overlap(data: str, validation: ImageSource, train: ImageSource) -> None:
    from strait.data.overlap import in_both

    count = in_both(validation, train)
    if count:
        print(
            f"--data: {count} of the {len(validation)} validation images of {data} are also training images: "
            "scores will be too good",
            file=sys.stderr,
        )


def _write_side_by_side(grid: Path, overwrite: bool, models: dict[str, StraIT], source: ImageSource) -> None:
    from strait.data.images import in_order
    from strait.evaluation.reconstruction import row_titles, side_by_side
    from strait.pictures.recipe import png_bytes
    from strait.pictures.sheets import contact_sheet
    from strait.runtime.files import write_new

    size = next(iter(models.values())).config.image_size
    count = min(_SHOWN, len(source))
    batch = next(in_order(source, size, count, [index * len(source) // count for index in range(count)]), None)
    if batch is None or not len(batch.indices):
        raise ValueError(f"--data: none of {count} images can be read")
    images = batch.images(next(iter(models.values())).device).cpu()
    sheet = contact_sheet(side_by_side(list(models.values()), images), len(images), row_titles(models))
    settings = {"models": {name: model.weights_hash() for name, model in models.items()}}
    write_new(grid, png_bytes(sheet, settings), overwrite)


def _evaluate_generation(args: Namespace, ranks: Any, device: Any) -> int:
    from strait.data.sources import has_split, open_images
    from strait.evaluation.features import open_features
    from strait.evaluation.generation import SampleSet, evaluate_generation, generation_table
    from strait.model.strait import StraIT

    model = StraIT.from_pretrained(args.model, device)
    model.require("tokenizer", "top", "bottom")
    decoding = chosen_decoding(model.default_decoding(), model.config.tokenizer.num_levels, args)
    apart = has_split(args.data, "validation")
    if not apart:
        print(
            f"--data: {args.data} has no separate validation images; all images are the reference, and there is no "
            "floor",
            file=sys.stderr,
        )
    reference = open_images(args.data, args.split)
    train = open_images(args.data, "train") if apart and args.split == "validation" else None
    if train is not None and ranks.first:
        _warn_of_overlap(args.data, reference, train)
    sample_set = SampleSet(args.samples or len(reference), args.seed, decoding, args.batch_size)
    network = open_features(args.features or "inception", device)
    report = evaluate_generation(model, reference, train, network, sample_set, args.split, ranks)
    print(json.dumps(report) if args.json else generation_table(report))
    return 0
