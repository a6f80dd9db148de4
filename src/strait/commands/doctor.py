"""Say in plain words whether a training is healthy."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

from jsonargparse import ArgumentParser

from strait.commands.arguments import device_named, new_picture
from strait.commands.parsing import parse, verb_parser


def parser() -> ArgumentParser:
    parser = verb_parser("doctor", __doc__, "MODEL [options]")
    parser.add_argument("folder", help="a model folder that strait train has written")
    parser.add_argument("--output", help="draw the curves into this PNG file")
    parser.add_argument("--overwrite", action="store_true", help="replace a file of the same name")
    parser.add_argument("--speed", action="store_true", help="also measure a training step of each part here")
    parser.add_argument("--device", default="auto", help="of --speed: auto, cpu, cuda")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    return parser


def run(argv: list[str]) -> int:
    """The exit status is 1 if a check finds something, otherwise 0."""
    args = parse(parser(), argv)
    picture = None if args.output is None else new_picture("--output", args.output)

    from strait.runs.doctor import examine
    from strait.runtime.files import write_new
    from strait.training.curves import draw_curves

    findings, curves = examine(Path(args.folder))
    if args.speed:
        from strait.runs.doctor_speed import examine_speed

        findings += examine_speed(Path(args.folder), device_named(args.device))
    if picture is not None:
        named = {f"{part} {name}": c for part, of in curves.items() for name, c in of.items() if len(c) > 1}
        if not named:
            raise ValueError(f"--output: the logs of {args.folder} are too short to draw")
        buffer = io.BytesIO()
        draw_curves(named).save(buffer, format="PNG")
        write_new(picture, buffer.getvalue(), args.overwrite)
    healthy = all(finding.healthy for finding in findings)
    if args.json:
        print(json.dumps({"healthy": healthy, "findings": [dataclasses.asdict(finding) for finding in findings]}))
    else:
        for finding in findings:
            advice = f"; {finding.suggestion}" if finding.suggestion else ""
            print(f"{'ok ' if finding.healthy else 'BAD'} {finding.part}, {finding.check}: {finding.message}{advice}")
    return 0 if healthy else 1
