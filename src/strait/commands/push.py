"""Share a model on a hub."""

from __future__ import annotations

import sys

from jsonargparse import ArgumentParser

from strait.commands.parsing import parse, verb_parser


def parser() -> ArgumentParser:
    parser = verb_parser("push", __doc__, "USER/NAME --model M [options]")
    parser.add_argument("name", help="of the repository: USER/NAME; made if there is none")
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--message", default="Upload model", help="of the commit")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", help="branch to commit to, made if there is none; main by default")
    parser.add_argument("--pull-request", action="store_true", help="open a pull request instead of a commit")
    parser.add_argument("--precision", help="of the stored weights: float32 or bfloat16; unchanged by default")
    return parser


def run(words: list[str]) -> int:
    args = parse(parser(), words)
    if args.name.count("/") != 1 or not all(args.name.split("/")):
        raise ValueError(f"push: {args.name!r} is not the name of a repository, which is USER/NAME")
    if args.precision not in (None, "float32", "bfloat16"):
        raise ValueError(f"--precision: {args.precision!r} is neither float32 nor bfloat16")

    from strait.model.strait import StraIT
    from strait.runtime.devices import DTYPES

    model = StraIT.from_pretrained(args.model, pack=False)
    missing = [part for part in model.config.parts if part not in model.trained]
    if missing:
        print(f"{args.model} has no {', '.join(missing)} yet; the other parts are uploaded", file=sys.stderr)
    address = model.push_to_hub(
        args.name,
        commit_message=args.message,
        private=args.private or None,
        revision=args.revision,
        create_pr=args.pull_request,
        dtype=None if args.precision is None else DTYPES[args.precision],
    )
    print(address)
    return 0
