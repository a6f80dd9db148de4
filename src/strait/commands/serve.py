"""Serve generation and editing over HTTP."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

from jsonargparse import ArgumentParser, Namespace

from strait.commands.arguments import device_named
from strait.commands.parsing import parse, verb_parser
from strait.runtime.messages import library_needed

KEY_VARIABLE = "STRAIT_API_KEY"


def parser() -> ArgumentParser:
    parser = verb_parser("serve", __doc__)
    parser.add_argument("--model", help="model folder or hub id; the shipped model by default")
    parser.add_argument("--host", default="127.0.0.1", choices=["127.0.0.1", "0.0.0.0", "::"], help="where to listen")
    parser.add_argument("--port", type=int, default=8000, help="0 for any free port")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--devices", type=int, default=1, help="GPUs to use")
    parser.add_argument("--workers", type=int, default=1, help="processes for each device, each with the model")
    parser.add_argument("--batch-size", type=int, default=32, help="images decoded at once")
    parser.add_argument("--delay", type=float, default=0.02, help="seconds to wait for a batch to fill")
    parser.add_argument(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="origin of pages that may call it, or *; may be repeated",
    )
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="host name of this service behind a proxy; may be repeated",
    )
    parser.add_argument("--key-file", help=f"file with the API key; or set the environment variable {KEY_VARIABLE}")
    parser.add_argument("--max-images", type=int, default=16, help="images per request")
    parser.add_argument("--max-steps", type=int, default=64, help="steps per image, all levels together")
    parser.add_argument("--max-passes", type=int, default=512, help="forward passes per request, all images together")
    parser.add_argument("--max-megabytes", type=float, default=8, help="size of a request's body")
    parser.add_argument("--max-megapixels", type=float, default=4, help="size of a picture")
    parser.add_argument("--max-queue", type=int, default=64, help="requests accepted and not yet answered")
    parser.add_argument("--max-upload-seconds", type=float, default=10, help="time for a head or a body to arrive")
    parser.add_argument("--max-seconds", type=float, default=60, help="time that a request may wait for its turn")
    parser.add_argument("--max-work-seconds", type=float, default=120, help="time that the work on a request may take")
    parser.add_argument("--max-reply-seconds", type=float, default=60, help="time for a client to read a reply")
    return parser


def run(argv: list[str]) -> int:
    args = parse(parser(), argv)
    _check(args)
    device = device_named(args.device)
    try:
        from strait.apps.connection import check_address, served_hosts
        from strait.apps.service.limits import Limits
        from strait.apps.service.server import ServiceConfig, build_service, serve
    except ImportError as error:
        raise ValueError(f"serve needs {library_needed(error, 'serve')}") from error

    port = check_address(args.host, args.port)
    limits = Limits(**{field.name: getattr(args, f"max_{field.name}") for field in dataclasses.fields(Limits)})
    service = build_service(
        args.model,
        ServiceConfig(
            batch=args.batch_size,
            delay=args.delay,
            devices=_devices(args.device, device.type, args.devices) * args.workers,
            key=_key(args.key_file),
            hosts=served_hosts(args.host, args.allowed_host),
            origins=_origins(args.cors),
        ),
        limits,
    )
    print(
        f"serving on http://{args.host}:{port} (documentation: /docs); press Ctrl-C to stop",
        file=sys.stderr,
        flush=True,
    )
    status = serve(service, args.host, port)
    if status:
        print("a process of the service has died; the service has stopped", file=sys.stderr, flush=True)
    return status


def _check(args: Namespace) -> None:
    if args.port and not 1024 <= args.port < 65536:
        raise ValueError(f"--port: {args.port} must be 0 or between 1024 and 65535")
    for name in ("devices", "workers", "batch_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: {getattr(args, name)} must be at least 1")
    if not 0 <= args.delay <= 10:
        raise ValueError(f"--delay: {args.delay} must lie between 0 and 10 seconds")


def _key(path: str | None) -> str | None:
    """The API key; never an option itself, since every user of the machine can read the command line."""
    if path is None:
        key = os.environ.get(KEY_VARIABLE)
        if key is not None and not key.strip():
            raise ValueError(f"{KEY_VARIABLE}: it is empty; unset it to serve without a key")
        return key and key.strip()
    try:
        key = Path(path).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"--key-file: {path} is not text") from error
    if not key:
        raise ValueError(f"--key-file: {path} is empty")
    return key


def _origins(origins: list[str]) -> list[str]:
    """Check that origins are written as browsers send them."""
    for origin in origins:
        parts = urlsplit(origin)
        if origin != "*" and (parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}"):
            raise ValueError(f"--cors: {origin!r} must be an origin, such as https://example.org:8443, or *")
    return origins


def _devices(name: str, kind: str, count: int) -> list[str]:
    """The first ``count`` GPUs, a single named device, or the CPU."""
    if count > 1 and kind != "cuda":
        raise ValueError(f"--devices: {count} is a number of GPUs; for a CPU use --workers {count}")
    if ":" in name:
        if count > 1:
            raise ValueError(f"--devices: {count} GPUs, but --device {name} is one GPU; use --device cuda")
        return [name]
    return [f"cuda:{number}" for number in range(count)] if kind == "cuda" else ["cpu"]
