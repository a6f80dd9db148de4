"""The gate of the service: API keys, limits on uploads, a bounded queue and accounting of replies."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from strait.apps.service.limits import BODIES, Limits
from strait.apps.service.metrics import Metrics

_OPEN = ("/", "/health", "/docs", "/openapi.json")
"""Paths that need no key: monitoring has none, and the documentation is no secret."""

_SMOOTHING = 0.1
_UPLOADS_PER_PLACE = 4
_PIECE = 2**16
"""Bytes of a reply that are written at once; between two writes the client's reading speed is checked."""


@dataclass
class Refusal(Exception):
    """A request that is refused."""

    status: int
    detail: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Held:
    """Bytes held in memory for clients: bodies, and unread replies."""

    bodies: int = 0
    replies: int = 0


class Gate:
    """ASGI middleware.

    Args:
        app: the application.
        limits: of size, time and queue.
        key: required in requests, as ``X-API-Key`` or ``Authorization: Bearer``; None for no key.
        metrics: to update.
        refuse: builds a reply from status, detail and headers.
        work: paths whose requests are queued.
        held: counts bytes in memory.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        key: str | None,
        metrics: Metrics,
        refuse: Callable[[int, str, dict[str, str]], Response],
        work: tuple[str, ...],
        held: Held,
    ) -> None:
        self.app, self.limits, self.key, self.metrics, self.refuse, self.work = app, limits, key, metrics, refuse, work
        self.held, self.uploading, self.accepted = held, 0, 0
        self._seconds_each, self._last_end = 0.1, 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, path, has_begun = time.monotonic(), scope["path"], False

        async def counted(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                self.metrics.reply(path, message["status"], time.monotonic() - start, MutableHeaders(scope=message))
            await self._send(message, send)

        try:
            self._check_key(scope)
            if path in self.work and scope["method"] == "POST":
                await self._work(scope, receive, counted)
            else:
                await self.app(scope, self._bounded(receive), counted)
        except Refusal as refusal:
            await self.refuse(refusal.status, refusal.detail, refusal.headers)(scope, receive, counted)
        except Exception:
            if has_begun:
                raise
            logging.getLogger(__name__).exception("a request could not be answered")
            await self.refuse(500, "internal error; see the service's log", {})(scope, receive, counted)

    async def _send(self, message: Message, send: Send) -> None:
        """Pass a message on in pieces, counting its bytes until the last piece is sent."""
        body = message.get("body", b"")
        if len(body) <= _PIECE:
            await send(message)
            return
        self.held.replies += len(body)
        try:
            for start in range(0, len(body), _PIECE):
                more = start + _PIECE < len(body) or message.get("more_body", False)
                await send({**message, "body": body[start : start + _PIECE], "more_body": more})
        finally:
            self.held.replies -= len(body)

    def _check_key(self, scope: Scope) -> None:
        if self.key is None or scope["path"] in _OPEN:
            return
        headers = Headers(scope=scope)
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        given = headers.get("x-api-key") or (bearer.strip() if kind.lower() == "bearer" else "")
        # Headers are bytes; a non-ASCII key is compared as it was typed.
        if not hmac.compare_digest(given.encode("latin-1"), self.key.encode()):
            raise Refusal(401, "the API key is missing or wrong", {"WWW-Authenticate": "Bearer"})

    async def _work(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()
        try:
            if await self._upload(scope, receive, body):
                await self._answered(scope, receive, send, bytes(body))
        finally:
            self.held.bodies -= len(body)

    async def _answered(self, scope: Scope, receive: Receive, send: Send, body: bytes) -> None:
        """Pass on a request with its whole body; its place in the queue is free when the reply is complete.

        If the client disconnects, the work is cancelled.
        """
        if self.accepted >= self.limits.queue:
            self._busy()
        self._count(1)
        place, left = 1, asyncio.ensure_future(_departure(receive))
        pieces = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Message:
            return next(pieces, None) or await asyncio.shield(left)

        async def noted(message: Message) -> None:
            nonlocal place
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                self._count(-place)
                place = 0
            await send(message)

        work = asyncio.ensure_future(self.app(scope, replay, noted))
        try:
            await asyncio.wait((work, left), return_when=asyncio.FIRST_COMPLETED)
            if work.done():
                await work
        finally:
            left.cancel()
            work.cancel()
            await asyncio.wait((work,))
            if place:
                self._count(-place)

    def _count(self, change: int) -> None:
        self.accepted += change
        self.metrics.accepted.set(self.accepted)
        if change < 0:
            self._note_end()

    async def _upload(self, scope: Scope, receive: Receive, body: bytearray) -> bool:
        """Fill the body, counting the bytes in memory; False if the client disconnected."""
        if self.uploading >= _UPLOADS_PER_PLACE * self.limits.queue:
            self._busy()
        self.uploading += 1
        try:
            async with asyncio.timeout(self.limits.upload_seconds):
                self._check_length(Headers(scope=scope).get("content-length", ""))
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return False
                    piece = message.get("body", b"")
                    body += piece
                    self.held.bodies += len(piece)
                    self._check_size(len(body))
                    if self.held.bodies > BODIES * self.limits.bytes:
                        self._busy()
                    more = message.get("more_body", False)
                return True
        except TimeoutError as error:
            detail = f"the body did not arrive within {self.limits.upload_seconds:g} seconds"
            raise Refusal(408, detail, {"Connection": "close"}) from error
        finally:
            self.uploading -= 1

    def _check_length(self, length: str) -> None:
        if length.isdecimal() and len(length) < 20:
            self._check_size(int(length))

    def _check_size(self, size: int) -> None:
        if size > self.limits.bytes:
            raise Refusal(413, f"the body has more than {self.limits.megabytes:g} megabytes", {"Connection": "close"})

    def _bounded(self, receive: Receive) -> Receive:
        """Limit the body of paths that need none."""
        size = 0

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            self._check_size(size)
            return message

        return bounded

    def _busy(self) -> None:
        wait = min(max(1, math.ceil(self.accepted * self._seconds_each)), 600)
        raise Refusal(429, f"the queue is full; try again in {wait} seconds", {"Retry-After": str(wait)})

    def _note_end(self) -> None:
        """Update the mean time between two ends of work, while requests are waiting."""
        now = time.monotonic()
        if self._last_end and self.accepted:
            self._seconds_each += _SMOOTHING * (min(now - self._last_end, 60) - self._seconds_each)
        self._last_end = now


async def _departure(receive: Receive) -> Message:
    """Wait until a client whose body has arrived disconnects."""
    while (message := await receive())["type"] != "http.disconnect":
        pass
    return message
