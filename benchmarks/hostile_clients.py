"""Clients that do harm to a service: they send half, flood it with errors, send bombs, and never read."""

from __future__ import annotations

import base64
import io
import json
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from PIL import Image
from served import EDIT, GENERATE, PORT

HELD = 12
"""Seconds that a client holds its connection, longer than the service grants for a head or a body."""


@contextmanager
def hostile_clients(count: int) -> Iterator[None]:
    """So many clients that do harm meanwhile, a thing at a time each, held until the service drops them."""
    is_over = threading.Event()
    clients = [threading.Thread(target=_harm, args=(number, is_over)) for number in range(count)]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        is_over.set()
        for client in clients:
            client.join()


def _harm(number: int, is_over: threading.Event) -> None:
    noise = Image.frombytes("RGB", (300, 300), random.Random(number).randbytes(300 * 300 * 3))
    large = {"action": "extend", "image": _base64(_encoded(noise, "PNG")), "left": 1, "steps": [1, 1]}
    scans = {"action": "extend", "image": _base64(_scan_bomb()), "left": 1}
    kinds = [
        b"GET /health HTTP/1.1\r\nHost",
        _post(GENERATE, b"{", 2**20),
        _post(EDIT, json.dumps(large).encode()),
        _post(GENERATE, json.dumps({"temperature": [-1] * 10_000}).encode()),
        _post(GENERATE, json.dumps(dict.fromkeys(map(str, range(10_000)))).encode()),
        b"GET /v1/classes HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 300,
        _post(EDIT, json.dumps(scans).encode()),
        _post(GENERATE, b"[" * 100_000),
    ]
    while not is_over.is_set():
        kind = kinds[number % len(kinds)]
        number += 1
        with suppress(OSError), socket.create_connection(("127.0.0.1", PORT), timeout=1) as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(kind)
            is_over.wait(HELD)


def _post(path: str, body: bytes, length: int | None = None) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: "
    return f"{head}{length or len(body)}\r\n\r\n".encode() + body


def _scan_bomb(scans: int = 1500) -> bytes:
    """A progressive JPEG of some kilobytes whose last pass over all pixels is repeated."""
    content = _encoded(Image.new("L", (2000, 2000), 90), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    return content[:last] + content[last:-2] * scans + content[-2:]


def _encoded(picture: Image.Image, kind: str, **options: bool) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind, **options)
    return buffer.getvalue()


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
