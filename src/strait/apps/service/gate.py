"""What stands before the service: keys, uploads within size and time, and a queue that ends.

LitServe's own queue has no bound, and a body that never ends would be read for ever.
"""

from __future__ import annotations

import asyncio
import hmac
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from strait.apps.service.limits import Limits
from strait.apps.service.metrics import Metrics

_OPEN = ("/health",)
"""Paths that need no key: whoever watches over the service has none."""

_SMOOTHING = 0.1
_UPLOADS_PER_PLACE = 4


@dataclass
class Refusal(Exception):
    """A request that gets no further."""

    status: int
    detail: str
    headers: dict[str, str] = field(default_factory=dict)


class Gate:
    """ASGI middleware.

    Args:
        app: what stands behind.
        limits: of size, time and queue.
        key: that requests must carry, as ``X-API-Key`` or ``Authorization: Bearer``; none if None.
        metrics: that it counts in.
        refuse: makes a reply of status, detail and headers.
        work: paths whose requests are queued.
    """

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits,
        key: str | None,
        metrics: Metrics,
        refuse: Callable[[int, str, dict[str, str]], Response],
        work: tuple[str, ...],
    ) -> None:
        self.app, self.limits, self.key, self.metrics, self.refuse, self.work = app, limits, key, metrics, refuse, work
        self.uploading = self.accepted = 0
        self._seconds_each, self._last_end = 0.1, 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, path = time.monotonic(), scope["path"]

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.metrics.reply(path, message["status"], time.monotonic() - start, MutableHeaders(scope=message))
            await send(message)

        try:
            self._check_key(scope)
            if path in self.work and scope["method"] == "POST":
                await self._work(scope, receive, counted)
            else:
                await self.app(scope, self._bounded(receive), counted)
        except Refusal as refusal:
            await self.refuse(refusal.status, refusal.detail, refusal.headers)(scope, receive, counted)

    def _check_key(self, scope: Scope) -> None:
        if self.key is None or scope["path"] in _OPEN:
            return
        headers = Headers(scope=scope)
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        given = headers.get("x-api-key") or (bearer.strip() if kind.lower() == "bearer" else "")
        if not hmac.compare_digest(given.encode(), self.key.encode()):
            raise Refusal(401, "the API key is missing or wrong", {"WWW-Authenticate": "Bearer"})

    async def _work(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._upload(scope, receive)
        if body is None:
            return
        if self.accepted >= self.limits.queue:
            self._busy()
        self.accepted += 1
        self.metrics.accepted.set(self.accepted)
        pieces: Iterator[Message] = iter([{"type": "http.request", "body": body, "more_body": False}])

        async def replay() -> Message:
            return next(pieces, None) or await receive()

        try:
            await self.app(scope, replay, send)
        finally:
            self.accepted -= 1
            self.metrics.accepted.set(self.accepted)
            self._note_end()

    async def _upload(self, scope: Scope, receive: Receive) -> bytes | None:
        """The whole body; None if the client went away."""
        if self.uploading >= _UPLOADS_PER_PLACE * self.limits.queue:
            self._busy()
        self.uploading += 1
        try:
            async with asyncio.timeout(self.limits.upload_seconds):
                self._check_length(Headers(scope=scope).get("content-length", ""))
                body, more = bytearray(), True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    self._check_size(len(body))
                    more = message.get("more_body", False)
                return bytes(body)
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
        """Other paths read no body worth the name."""
        size = 0

        async def bounded() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            self._check_size(size)
            return message

        return bounded

    def _busy(self) -> None:
        wait = max(1, math.ceil(self.accepted * self._seconds_each))
        raise Refusal(429, f"the queue is full; try again in {wait} seconds", {"Retry-After": str(min(wait, 600))})

    def _note_end(self) -> None:
        """Between two ends lies, while requests wait, the time that one takes."""
        now = time.monotonic()
        if self._last_end and self.accepted:
            self._seconds_each += _SMOOTHING * (min(now - self._last_end, 60) - self._seconds_each)
        self._last_end = now
