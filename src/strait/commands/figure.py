"""Draw Figure 1 of the paper from scores of your own."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from jsonargparse import ArgumentParser

from strait.commands.arguments import new_picture
from strait.commands.parsing import parse, verb_parser

_ELSEWHERE = {
    "2": "python docs/figures.py",
    "3": "python docs/figures.py",
    "4": "strait study",
    "5": "strait edit process",
    "6": "strait edit transfer --label A,B,C",
    "7": "strait evaluate reconstruction --against OTHER --grid FILE.png",
    "8": "strait generate --grid FILE.png",
    "9": "strait generate --grid FILE.png",
    "10": "strait edit infill --label A,B --count 4",
    "11": "strait study",
    "12": "strait study",
}
"""Figures that another command draws."""


def parser() -> ArgumentParser:
    parser = verb_parser("figure", __doc__, "1 RESULTS.json [RESULTS.json ...] [options]")
    parser.add_argument("figure", help="its number in the paper: 1, score against steps and against seconds an image")
    parser.add_argument(
        "results", nargs="+", help="what strait table, sweep or evaluate generation --json has written"
    )
    parser.add_argument("--output", default="figure-1.png", help="the picture")
    parser.add_argument("--overwrite", action="store_true", help="replace a file of the same name")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser


def run(words: list[str]) -> int:
    if words and words[0] in _ELSEWHERE:
        raise ValueError(f"figure: {words[0]} is drawn by {_ELSEWHERE[words[0]]}")
    args = parse(parser(), words)
    if args.figure != "1":
        raise ValueError(f"figure: {args.figure} is not one of 1, {', '.join(_ELSEWHERE)}")
    picture = new_picture("--output", args.output)

    from strait.runtime.files import write_new
    from strait.tables.figure_1 import figure_1_table, measured, one_network, published
    from strait.tables.plots import check_plots, figure_1_plot

    check_plots()
    points = [point for path in args.results for point in measured(Path(path))]
    network = one_network(points)
    write_new(picture, figure_1_plot(points, published(), network), args.overwrite)
    content = {
        "measured": [dataclasses.asdict(point) for point in points],
        "published": [dataclasses.asdict(entry) for entry in published()],
    }
    print(json.dumps(content) if args.json else figure_1_table(points, network))
    return 0
