"""Open a page in the browser to generate and edit images."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path

from jsonargparse import ArgumentParser

from strait.commands.arguments import device_named
from strait.commands.parsing import parse, verb_parser
from strait.runtime.messages import library_needed


def parser() -> ArgumentParser:
    parser = verb_parser("web", __doc__)
    parser.add_argument("--model", help="model folder or hub id; the shipped model by default")
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for other machines; there is no password")
    parser.add_argument("--port", type=int, help="7860 or the next free port by default")
    parser.add_argument(
        "--allowed-host",
        action="append",
        default=[],
        metavar="NAME",
        help="host name of this page behind a proxy; may be repeated",
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--open", action="store_true", help="open a browser")
    return parser


def run(argv: list[str]) -> int:
    args = parse(parser(), argv)
    if args.port is not None and not 0 < args.port < 65536:
        raise ValueError(f"--port: {args.port} must be between 1 and 65535")
    device = device_named(args.device)
    if args.port is not None:
        _check_port(args.host, args.port)
    # Read when gradio is imported: no telemetry, and uploaded pictures go to a folder that is removed at the end.
    os.environ.update(GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")
    # Signals end the process in order, so that the folder is removed.
    is_stopped = threading.Event()
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: is_stopped.set())
    with tempfile.TemporaryDirectory(prefix="strait-web-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            from strait.apps.web.page import build_page, launch
        except ImportError as error:
            raise ValueError(f"web needs {library_needed(error, 'app')}") from error
        from strait.apps.web.studio import Studio
        from strait.model.strait import StraIT

        model = StraIT.from_pretrained(args.model, device)
        model.require(*model.config.parts[:3])
        page = build_page(Studio(model, Path(folder)))
        try:
            launch(page, args.host, args.port, args.open, args.allowed_host)
        except OSError as error:
            reason = "no port from 7860 on is free" if args.port is None else f"{args.port} is not available"
            raise ValueError(f"--port: {reason}; choose another") from error
        print(f"the page is at {str(page.local_url).rstrip('/')} ; press Ctrl-C to stop", file=sys.stderr, flush=True)
        try:
            is_stopped.wait()
        finally:
            page.close(verbose=False)
    return 0


def _check_port(host: str, port: int) -> None:
    """Check that a port is free, before the model is loaded."""
    try:
        with socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET):
            pass
    except OSError as error:
        raise ValueError(
            f"--port: {host}:{port} is not available ({error.strerror}); choose another, or omit --port"
        ) from error
