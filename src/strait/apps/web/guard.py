"""A guard for gradio: limits the size of requests, and refuses requests that make the page fetch a URL."""

from __future__ import annotations

import json
import re
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from strait.apps.web.limits import MEGABYTES

_ADDRESS = re.compile(r"^\s*[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_FETCHED = re.compile(r"/(?:file=|file/|proxy=|stream/)\s*[a-z][a-z0-9+.-]*:/", re.IGNORECASE)
_JSON_BYTES = 2**20
_FILE_BYTES = (MEGABYTES + 1) * 2**20


class _TooLarge(Exception):
    """A body exceeds its limit."""


class Guard:
    """ASGI middleware that refuses large bodies, and files given by a URL.

    gradio takes the path of a file from a request, and would download it if it is a URL.

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if _FETCHED.search(scope["path"]):
            await _refuse(400, "this page does not fetch URLs")(scope, receive, send)
            return
        headers = dict(scope["headers"])
        is_file = headers.get(b"content-type", b"").lower().startswith(b"multipart/form-data")
        try:
            if is_file:
                # Streamed: gradio writes it to a file.
                await self.app(scope, _counted(receive, _FILE_BYTES), send)
                return
            body = await _body(receive, _JSON_BYTES)
        except _TooLarge:
            await _refuse(413, f"a file may have {MEGABYTES} megabytes")(scope, receive, send)
            return
        try:
            is_refused = bool(body) and _names_address(json.loads(body))
        except RecursionError:
            is_refused = True
        except ValueError:
            is_refused = False  # not JSON: gradio will refuse it
        if is_refused:
            await _refuse(400, "files must be given by their uploaded path, not by a URL")(scope, receive, send)
            return
        await self.app(scope, _replayed(body, receive), send)


def _names_address(value: Any) -> bool:
    """Whether any ``path`` in a JSON value is a URL."""
    stack = [value]
    while stack:
        entry = stack.pop()
        if isinstance(entry, dict):
            path = entry.get("path")
            if isinstance(path, str) and _ADDRESS.match(path):
                return True
            stack.extend(entry.values())
        elif isinstance(entry, list):
            stack.extend(entry)
    return False


async def _body(receive: Receive, most: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b""
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > most:
            raise _TooLarge
        if not message.get("more_body", False):
            return b"".join(chunks)


def _counted(receive: Receive, most: int) -> Receive:
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > most:
            raise _TooLarge
        return message

    return counted


def _replayed(body: bytes, receive: Receive) -> Receive:
    is_read = False

    async def replayed() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed


def _refuse(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status)
