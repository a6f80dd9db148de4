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
    parser.add_argument("--port", type=int, default=8000, help="0 for any that is free")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--devices", type=int, default=1, help="GPUs to use")
    parser.add_argument("--workers", type=int, default=1, help="processes for each device, each with the model")
    parser.add_argument("--batch-size", type=int, default=32, help="images decoded at once")
    parser.add_argument("--delay", type=float, default=0.02, help="seconds to wait for a batch to fill")
    parser.add_argument(
        "--cors", action="append", default=[], metavar="ORIGIN", help="whose pages may ask: https://example.org, or *"
    )
    parser.add_argument(
        "--allowed-host", action="append", default=[], metavar="NAME", help="of this service, as a proxy passes it on"
    )
    parser.add_argument("--key-file", help=f"file with the API key; or the environment variable {KEY_VARIABLE}")
    parser.add_argument("--max-images", type=int, default=16, help="of one request")
    parser.add_argument("--max-steps", type=int, default=64, help="of one image, all levels together")
    parser.add_argument("--max-passes", type=int, default=512, help="through the model of one request, all images")
    parser.add_argument("--max-megabytes", type=float, default=8, help="of a request's body")
    parser.add_argument("--max-megapixels", type=float, default=4, help="of a picture")
    parser.add_argument("--max-queue", type=int, default=64, help="requests accepted and not yet answered")
    parser.add_argument("--max-upload-seconds", type=float, default=10, help="for a head to arrive, and for a body")
    parser.add_argument("--max-seconds", type=float, default=60, help="that a request may wait for its turn")
    parser.add_argument("--max-work-seconds", type=float, default=120, help="that the work on a request may take")
    parser.add_argument("--max-reply-seconds", type=float, default=60, help="for a reply to be read")
    return parser


def run(words: list[str]) -> int:
    args = parse(parser(), words)
    _check(args)
    device = device_named(args.device)
    try:
        from strait.apps.connection import check_address, served_hosts
        from strait.apps.service.limits import Limits
        from strait.apps.service.server import ServiceConfig, build_service, serve
    except ImportError as error:
        raise ValueError(f"serve: it needs {library_needed(error, 'serve')}") from error

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
        f"serving on http://{args.host}:{port} (its description: /docs); Ctrl-C stops it", file=sys.stderr, flush=True
    )
    status = serve(service, args.host, port)
    if status:
        print("a process of the service was lost; it has ended", file=sys.stderr, flush=True)
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
    """The key, never from the command line itself, where every user of the machine can read it."""
    if path is None:
        key = os.environ.get(KEY_VARIABLE)
        if key is not None and not key.strip():
            raise ValueError(f"{KEY_VARIABLE}: it is empty, which is no key; unset it to serve without one")
        return key and key.strip()
    try:
        key = Path(path).read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise ValueError(f"--key-file: {path} is not text") from error
    if not key:
        raise ValueError(f"--key-file: {path} is empty")
    return key


def _origins(named: list[str]) -> list[str]:
    """Origins as browsers name them."""
    for origin in named:
        parts = urlsplit(origin)
        if origin != "*" and (parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}"):
            raise ValueError(f"--cors: {origin!r} must be an origin, as https://example.org:8443, or *")
    return named


def _devices(named: str, kind: str, count: int) -> list[str]:
    """The GPUs, or the one that was named, or the CPU."""
    if count > 1 and kind != "cuda":
        raise ValueError(f"--devices: {count} is a number of GPUs; on a CPU say --workers {count}")
    if ":" in named:
        if count > 1:
            raise ValueError(f"--devices: {count} GPUs, and --device {named} is one; say --device cuda")
        return [named]
    return [f"cuda:{number}" for number in range(count)] if kind == "cuda" else ["cpu"]
