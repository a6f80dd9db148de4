"""Ask people which of several methods generates better images."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from strait.commands.arguments import new_picture
from strait.commands.parsing import parse, verb_parser
from strait.runtime.messages import library_needed

if TYPE_CHECKING:
    from strait.apps.study.pictures import Method

_HEAD_SECONDS = 10
_OPTIONS = {
    "create": ("title", "quality", "diversity", "raters", "sheet", "checks", "set_size", "seed"),
    "links": ("url", "json"),
    "serve": ("host", "port", "allowed_host"),
    "results": ("allowed_failures", "include_unfinished", "chart", "page", "overwrite", "json"),
}


def parser() -> ArgumentParser:
    parser = verb_parser("study", __doc__, "{create|links|serve|results} STUDY [NAME=IMAGES ...] [options]")
    parser.add_argument(
        "what", choices=list(_OPTIONS), help="create a study, list its invitations, serve its pages, show its results"
    )
    parser.add_argument("study", help="the study's folder")
    parser.add_argument(
        "methods", nargs="*", help="create: NAME=FOLDER of images for each method, the judged one first"
    )
    parser.add_argument("--title", default="Which images are better?", help="create: title of the pages")
    parser.add_argument("--quality", type=int, default=40, help="create: pairs of images for each other method")
    parser.add_argument("--diversity", type=int, default=20, help="create: pairs of sets for each other method")
    parser.add_argument("--raters", type=int, default=15, help="create: answers to each comparison")
    parser.add_argument("--sheet", type=int, default=20, help="create: questions per invitation")
    parser.add_argument("--checks", type=int, default=2, help="create: additional attention checks per invitation")
    parser.add_argument(
        "--set-size", type=int, default=16, help="create: images in a set, half of each of two classes"
    )
    parser.add_argument("--seed", type=int, default=0, help="create: for the choice of images, order and sides")
    parser.add_argument("--url", default="http://127.0.0.1:8090", help="links: where raters reach the pages")
    parser.add_argument("--host", default="127.0.0.1", help="serve: 0.0.0.0 for raters on other machines")
    parser.add_argument("--port", type=int, default=8090, help="serve: 0 for any free port")
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="serve: its host name behind a proxy; may be repeated",
    )
    parser.add_argument("--allowed-failures", type=int, default=0, help="results: attention checks a rater may fail")
    parser.add_argument(
        "--include-unfinished", action="store_true", help="results: include raters with unanswered checks"
    )
    parser.add_argument("--chart", help="results: PNG file for a chart like the paper's Figure 4")
    parser.add_argument("--page", help="results: HTML file for the table and its bars")
    parser.add_argument("--overwrite", action="store_true", help="results: replace the chart and the page")
    parser.add_argument("--json", action="store_true", help="links, results: JSON on standard output")
    return parser


def run(argv: list[str]) -> int:
    options = parser()
    args = parse(options, argv)
    if args.chart is not None:
        new_picture("--chart", args.chart)
    if args.page is not None and not args.page.endswith(".html"):
        raise ValueError(f"--page: {args.page} must end in .html")
    if args.methods and args.what != "create":
        raise ValueError(f"{args.methods[0]}: methods are given only to strait study create")
    _check_options(args, options)
    return {"create": _create, "links": _links, "serve": _serve, "results": _results}[args.what](args)


def _check_options(args: Namespace, parser: ArgumentParser) -> None:
    """Refuse options of other actions, which would have no effect."""
    for name in {name for names in _OPTIONS.values() for name in names} - set(_OPTIONS[args.what]):
        if getattr(args, name) != parser.get_default(name):
            option = name.replace("_", "-")
            raise ValueError(f"--{option}: study {args.what} has no such option; see strait study --help")


def _create(args: Namespace) -> int:
    from strait.apps.study.design import Design, create_study

    names = [field.name for field in dataclasses.fields(Design)]
    design = Design(**{name: getattr(args, name) for name in names})
    study = create_study(Path(args.study), _methods(args.methods), design, args.title)
    invitations = study.invitations()
    questions = sum(entry["questions"] for entry in invitations)
    print(f"{len(invitations)} invitations with {questions} questions in total; see: strait study links {args.study}")
    return 0


def _methods(argv: list[str]) -> list[Method]:
    from strait.apps.study.pictures import read_method

    pairs = [word.partition("=")[::2] for word in argv]
    for word, (name, folder) in zip(argv, pairs, strict=True):
        if not name or not folder:
            raise ValueError(f"{word}: methods are given as NAME=FOLDER")
    if len(pairs) < 2 or len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("methods: give two or more, each once, as NAME=FOLDER; the first is compared with the others")
    return [read_method(name, Path(folder)) for name, folder in pairs]


def _links(args: Namespace) -> int:
    from strait.apps.study.storage import Study

    invitations = Study(Path(args.study)).invitations()
    for entry in invitations:
        entry["link"] = f"{args.url.rstrip('/')}/r/{entry.pop('token')}"
    if args.json:
        print(json.dumps(invitations))
        return 0
    for entry in invitations:
        state = "submitted" if entry["submitted"] else f"{entry['answered']} of {entry['questions']} answered"
        print(f"{entry['link']}  {entry['kind']} sheet {entry['sheet'] + 1}, {state}")
    return 0


def _serve(args: Namespace) -> int:
    from strait.apps.study.storage import Study

    study = Study(Path(args.study))
    try:
        import uvicorn

        from strait.apps.connection import check_address, impatient_protocol, served_hosts
        from strait.apps.study.server import study_app
    except ImportError as error:
        raise ValueError(f"study: its server needs {library_needed(error, 'app')}") from error
    port = check_address(args.host, args.port)
    print(f"invitations: strait study links {args.study} --url http://HOST:{port}", file=sys.stderr)
    # No access log: it would contain the links, which are the raters' keys.
    uvicorn.run(
        study_app(study, served_hosts(args.host, args.allowed_host)),
        host=args.host,
        port=port,
        log_level="info",
        access_log=False,
        http=impatient_protocol(_HEAD_SECONDS),
    )
    return 0


def _results(args: Namespace) -> int:
    from strait.apps.study.results import read_results, results_chart, results_table
    from strait.apps.study.storage import Study
    from strait.runtime.files import write_new

    study = Study(Path(args.study))
    results = read_results(study, args.allowed_failures, args.include_unfinished)
    if args.page is not None:
        from strait.apps.study.results_page import results_page

        write_new(Path(args.page), results_page(results, study.settings["title"]), args.overwrite)
    if args.chart is not None:
        write_new(Path(args.chart), results_chart(results), args.overwrite)
    print(json.dumps(results.as_json()) if args.json else results_table(results))
    return 0
