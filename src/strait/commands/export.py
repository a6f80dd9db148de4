"""Export a model as ONNX files, which generate images without torch."""

from __future__ import annotations

import sys
from pathlib import Path

from jsonargparse import ArgumentParser

from strait.commands.arguments import new_folder
from strait.commands.parsing import parse, verb_parser
from strait.model.config import level_names


def parser() -> ArgumentParser:
    parser = verb_parser("export", __doc__, "--output DIR [options]")
    parser.add_argument("--model", help="model folder or hub id; the shipped model by default")
    parser.add_argument("--output", required=True, help="folder for the files")
    parser.add_argument("--overwrite", action="store_true", help="replace files of the same name")
    return parser


def run(argv: list[str]) -> int:
    args = parse(parser(), argv)
    output = new_folder("--output", args.output)
    if not args.overwrite:
        _check_free(output)

    from strait.export.onnx_files import export_onnx, largest_difference
    from strait.model.strait import StraIT

    model = StraIT.from_pretrained(args.model, pack=False)
    for path in export_onnx(model, output):
        print(path)
    difference = largest_difference(model, output)
    print(f"checked in onnxruntime: logits and pixels differ by at most {difference:.1e}", file=sys.stderr)
    return 0


def _check_free(output: Path) -> None:
    """Check early that no existing export or other file of the user would be replaced."""
    if (output / "export.json").exists():
        raise FileExistsError(f"{output} holds an export; choose another --output, or pass --overwrite")
    for name in ("generate.py", *(f"{graph}.onnx" for graph in (*level_names(4), "pixels"))):
        if (output / name).exists():
            raise FileExistsError(f"{output / name} exists; choose another --output, or pass --overwrite")
