"""Edit a picture: infill, extend, relabel, transfer, upsample; or show the decoding process."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from strait.commands.arguments import (
    add_decoding_options,
    add_inference_options,
    chosen_decoding,
    inference_model,
    new_folder,
    split_labels,
)
from strait.commands.parsing import parse, verb_parser

if TYPE_CHECKING:
    import numpy as np

    from strait.editing.config import EditConfig
    from strait.editing.edits import Edit

ACTIONS = {
    "infill": "Redraw the masked part of a picture.",
    "relabel": "Redraw the masked part of a picture under another class.",
    "extend": "Extend a picture past its edges.",
    "transfer": "Transfer a picture to another class: keep some top tokens, predict the others and the whole bottom.",
    "upsample": "Resize a picture to the model's size and draw it at twice that size.",
    "process": "Show each step of an infilling, or without a picture of generating an image.",
}

_LABEL = (
    "class by name, WordNet id or index; no class by default",
    "class by name, WordNet id or index; several, separated by commas, also give a sheet",
)
_ON_SHEETS = ("infill", "relabel", "transfer")
_NEED_A_CLASS = ("relabel", "transfer")


def run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: strait edit {{{'|'.join(ACTIONS)}}} IMAGE [options]; --help after one lists them\n")
        print("\n".join(f"  {action:<10} {purpose}" for action, purpose in ACTIONS.items()))
        return 0
    action = argv[0]
    if action not in ACTIONS:
        raise ValueError(f"edit: there is no action {action!r}; there are {', '.join(ACTIONS)}")
    args = parse(_parser(action), argv[1:])
    if not -(2**63) <= args.seed < 2**63:
        raise ValueError(f"--seed: {args.seed} does not fit into 64 bits")
    if action in _NEED_A_CLASS and args.label is None:
        raise ValueError(f"--label: {action} needs the new class")

    _check_options(args)
    new_folder("--output", args.output)

    from strait.editing.edits import Edit
    from strait.types import NULL_LABEL

    model = inference_model(args)
    model.require("tokenizer", "top", "bottom")
    labels = [] if args.label is None else _labels(action, args.label, model)
    label = labels[0] if labels else NULL_LABEL
    decoding = model.default_decoding()
    if action != "upsample":
        decoding = decoding.first(model.config.tokenizer.num_levels)
    edit = Edit(model, label, args.count, args.seed, chosen_decoding(decoding, len(decoding.steps), args))
    if action == "process":
        _process(edit, args)
    else:
        _edit(action, edit, args, labels)
    return 0


def _labels(action: str, text: str, model: Any) -> list[int]:
    """The classes that ``--label`` names: one, or several for actions that have a sheet."""
    names = split_labels(text, model.classes) if action in _ON_SHEETS else [text]
    return [model.classes.find(name) for name in names]


def parsers() -> dict[str, ArgumentParser]:
    """The parser of each action."""
    return {action: _parser(action) for action in ACTIONS}


def _parser(action: str) -> ArgumentParser:
    image = "[IMAGE]" if action == "process" else "IMAGE"
    needed = f"{image} --label L" if action in _NEED_A_CLASS else image
    parser = verb_parser(f"edit {action}", ACTIONS[action], f"{needed} --output DIR [options]")
    parser.add_argument("image", nargs="?" if action == "process" else None, help="a picture of any size and mode")
    parser.add_argument("--model", help="model folder or hub id; the shipped model by default")
    parser.add_argument("--label", help=_LABEL[action in _ON_SHEETS])
    parser.add_argument("--count", type=int, default=1, help="number of results")
    parser.add_argument("--seed", type=int, default=0, help="result k of a seed is always the same")
    add_decoding_options(parser)
    parser.add_argument("--output", required=True, help="folder for the results")
    parser.add_argument("--overwrite", action="store_true", help="replace files of the same name")
    add_inference_options(parser)
    if action in ("infill", "relabel", "process", "transfer"):
        parser.add_argument("--mask", help="image of the picture's size, white where to fill")
        parser.add_argument("--box", help="instead of a mask: left,top,right,bottom in pixels")
    if action in ("infill", "relabel", "process"):
        parser.add_argument("--strength", type=float, default=1.0, help="share of the masked tokens to redraw")
        parser.add_argument("--margin", type=int, default=0, help="pixels, at the model's size, to grow the mask by")
        parser.add_argument("--context", type=float, default=2.0, help="what the model sees, in extents of the mask")
        parser.add_argument(
            "--cover", type=float, default=0.25, help="share of a top token above which the mask makes it unknown"
        )
    if action in ("infill", "relabel"):
        parser.add_argument("--seam", type=int, default=0, help="pixels outside the mask where the edit fades out")
    if action in ("infill", "relabel", "extend"):
        parser.add_argument("--feather", type=int, default=2, help="pixels over which the new content fades in")
        parser.add_argument("--no-composite", action="store_true", help="replace the kept pixels by decoded ones, too")
    if action == "extend":
        for side in ("left", "right", "up", "down"):
            parser.add_argument(f"--{side}", type=int, default=0, help="top tokens to extend by")
    if action == "transfer":
        parser.add_argument("--keep", type=float, help="share of the top tokens to keep; 0.5 without a mask")
        parser.add_argument("--choose", choices=["random", "confidence"], default="random", help="which ones to keep")
        parser.add_argument("--keep-bottom", action="store_true", help="no bottom-level re-prediction")
    if action == "process":
        parser.add_argument("--format", choices=["gif", "webp"], default="gif", help="of the animation")
        parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser


def _check_options(args: Namespace) -> None:
    """Check options that exclude or require each other."""
    masks = [name for name in ("mask", "box") if getattr(args, name, None) is not None]
    if len(masks) > 1:
        raise ValueError("--box: pass either --mask or --box")
    if "keep" in args and masks:
        for name, is_set in (("keep", args.keep is not None), ("choose", args.choose != "random")):
            if is_set:
                raise ValueError(f"--{name}: --{masks[0]} already gives the region; pass only one of the two")
    if "format" in args:
        if args.image is None and masks:
            raise ValueError(f"--{masks[0]}: there is no picture to infill")
        if args.image is not None and not masks:
            raise ValueError("--mask: give the part to infill, by --mask or --box")
        if args.image is None and (args.strength, args.margin, args.context, args.cover) != (
            1.0,
            0,
            2.0,
            0.25,
        ):
            raise ValueError("--strength, --margin, --context and --cover need a picture to infill")
    elif "strength" in args and not masks:
        raise ValueError("--mask: give the part to fill, by --mask or --box")


def _picture(args: Namespace) -> Any:
    from strait.pictures.reading import read_picture

    picture = read_picture(args.image)
    _warn_of_pages(args.image, picture.pages)
    return picture


def _mask(args: Namespace, size: tuple[int, int]) -> Any:
    from strait.editing.masks import box_mask
    from strait.pictures.reading import read_mask

    if args.box is not None:
        return box_mask(args.box, size)
    mask = read_mask(args.mask, size)
    _warn_of_pages(args.mask, mask.pages)
    if not mask.fill.any():
        effect = "nothing is filled and the picture is returned unchanged"
        if "keep_bottom" in args:
            effect = "all top tokens are kept and the bottom tokens are redrawn"
            if args.keep_bottom:
                effect = "nothing is redrawn and the reconstruction is returned"
        print(f"--mask: no pixel is white, so {effect}", file=sys.stderr)
    return mask.fill


def _warn_of_pages(path: str, pages: int) -> None:
    if pages > 1:
        print(f"{path} has {pages} pictures; only the first is used", file=sys.stderr)


def _print_note(edit: Edit, mask: np.ndarray, config: EditConfig) -> None:
    from strait.editing.edits import infilling_note

    note = infilling_note(edit.model, mask, config)
    if note is not None:
        print(note, file=sys.stderr)


def _edit(action: str, edit: Edit, args: Namespace, labels: list[int]) -> None:
    from strait.commands.edit_sheets import EditSheet, write_infillings, write_transfers
    from strait.commands.edited_files import settings_of, write_results
    from strait.editing.config import EditConfig
    from strait.editing.edits import extend_picture, infill_picture, transfer_picture, upsample_picture
    from strait.editing.extension import Sides

    options: dict[str, Any] = {}
    write_sheet: Callable[[EditSheet], Iterator[Path]] | None = None
    if action in ("infill", "relabel"):
        composite = not args.no_composite
        config = EditConfig(args.strength, args.margin, args.context, args.feather, composite, args.cover, args.seam)
        picture = _picture(args)
        fill, options = _mask(args, picture.size), asdict(config)
        _print_note(edit, fill, config)
        infill = partial(infill_picture, picture=picture, mask=fill, config=config)
        results = infill(edit)
        write_sheet = partial(write_infillings, picture=picture, fill=fill, infill=infill)
    elif action == "extend":
        sides = Sides(args.left, args.right, args.up, args.down)
        results = extend_picture(edit, _picture(args), sides, args.feather, not args.no_composite)
        options = {**asdict(sides), "feather": args.feather, "composite": not args.no_composite}
    elif action == "transfer":
        picture = _picture(args)
        region = None if args.mask is None and args.box is None else _mask(args, picture.size)
        keep = 0.5 if args.keep is None else args.keep
        options = {"keep": keep if region is None else "region", "choose": args.choose}
        options["keep_bottom"] = args.keep_bottom
        transfer = partial(transfer_picture, keep=keep, choose=args.choose, region=region)
        results = transfer(edit, picture, keep_bottom=args.keep_bottom)
        write_sheet = partial(write_transfers, picture=picture, transfer=transfer)
    else:
        results = upsample_picture(edit, _picture(args))
    output, stem = Path(args.output), Path(args.image).stem
    if write_sheet is not None and len(labels) > 1:
        paths = write_sheet(EditSheet(edit, labels, action, options, output, stem, args.overwrite))
    else:
        paths = write_results(results, output, stem, settings_of(edit, action, options), args.overwrite)
    for path in paths:
        print(path)


def _process(edit: Edit, args: Namespace) -> None:
    from strait.commands.edited_files import process_of, settings_of, write_process
    from strait.editing.config import EditConfig
    from strait.editing.process import redrawing_table

    source, options, stem = None, {}, "image"
    if args.image is not None:
        config = EditConfig(args.strength, args.margin, args.context, cover=args.cover)
        picture = _picture(args)
        mask = _mask(args, picture.size)
        _print_note(edit, mask, config)
        source, options = (picture, mask, config), asdict(config)
        stem = Path(args.image).stem
    settings = settings_of(edit, "process", options)
    codes = edit.model.config.level_codebook_sizes[0]
    paths: list[str] = []
    rows: list[dict[str, Any]] = []
    for index in range(edit.count):
        process = process_of(edit, index, source)
        recipe = {**settings, "index": index}
        for path in write_process(process, codes, Path(args.output), stem, recipe, args.format, args.overwrite):
            paths.append(str(path))
        rows += [{"index": index, **row} for row in redrawing_table(process[1])]
    if args.json:
        print(json.dumps({"files": paths, "redrawing": rows}))
        return
    print("\n".join(paths))
    print("\nresult  level   kept at step  tokens  probability when kept  changed if drawn again  expected")
    for row in rows:
        step = "known" if row["step"] < 0 else row["step"] + 1
        print(
            f"{row['index']:>6}  {row['level']:<6}  {step:>12}  {row['tokens']:>6}  "
            f"{row['confidence']:>21.3f}  {row['change']:>22.3f}  {row['expected']:>8.3f}"
        )
