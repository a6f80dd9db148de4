"""Connections of a server: its addresses, the hosts it answers for, and timeouts for slow clients.

uvicorn would wait for a request's head, and for a reply to be read, as long as it takes. Of its two parsers it takes
the one that happens to be installed. Ours is always h11: it begins a request when the reply before it is complete, so
the application hears that its client has left. httptools tells that only to the last of several requests sent at
once, works on for the first, and logs a traceback for each.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Sequence
from typing import Any

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol


def impatient_protocol(head: float, stall: float = 10, reply: float = 60) -> type[asyncio.Protocol]:
    """uvicorn's protocol with timeouts for slow clients.

    Args:
        head: seconds for a request's head to arrive; then the connection is closed.
        stall: seconds for which a client may read nothing of a pending reply; then the connection is dropped.
        reply: seconds that a reply may be pending in total.
    """

    class Impatient(H11Protocol):
        _late: asyncio.TimerHandle | None = None
        _stalled: asyncio.TimerHandle | None = None
        _replying: Any = None
        _waited = _paused_at = 0.0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._wait()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._stop_waiting()
            elif self._late is None:
                self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            self._resume()
            super().connection_lost(exc)

        def pause_writing(self) -> None:
            super().pause_writing()
            if self._replying is not self.cycle:
                self._replying, self._waited = self.cycle, 0.0
            self._paused_at = self.loop.time()
            seconds = max(0.0, min(stall, reply - self._waited))
            self._stalled = self.loop.call_later(seconds, self.transport.abort)

        def resume_writing(self) -> None:
            self._resume()
            super().resume_writing()

        def _resume(self) -> None:
            if self._stalled is not None:
                self._stalled.cancel()
                self._stalled = None
                self._waited += self.loop.time() - self._paused_at

        def _wait(self) -> None:
            self._late = self.loop.call_later(head, self.transport.close)

        def _stop_waiting(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

    return Impatient


class HostCheck:
    """ASGI middleware that only accepts requests to the given hosts.

    A foreign page can make its own host name resolve to 127.0.0.1 (DNS rebinding), and browsers then let it read the
    replies. Its name is still in the ``Host`` header.

    Args:
        app: the application.
        hosts: names and addresses, without a port; empty to accept all.
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app, self.hosts = app, frozenset(host.lower().strip("[]") for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or not self.hosts or _named_host(scope) in self.hosts:
            await self.app(scope, receive, send)
            return
        detail = "this host is not served here; behind a proxy, start with --allowed-host NAME"
        await JSONResponse({"detail": detail}, 400)(scope, receive, send)


def _named_host(scope: Scope) -> str | None:
    """The host of a request without its port; None if it names none, or several."""
    named = Headers(scope=scope).getlist("host")
    if len(named) != 1:
        return None
    host = named[0].strip().lower()
    match = re.fullmatch(r"(?:\[([^]]+)]|([^:]+))(?::\d*)?", host)
    return match and (match[1] or match[2])


def served_hosts(address: str, allowed: Sequence[str]) -> list[str]:
    """The hosts to answer for: on a loopback address its names and the allowed ones; otherwise only the allowed ones,
    or all if there are none.

    Args:
        address: the address to listen on.
        allowed: further names, as sent by a proxy.

    Raises:
        ValueError: if a name cannot be a host.
    """
    for name in allowed:
        if not name or name.count(":") == 1 or any(character in name for character in "/@?# ,*"):
            raise ValueError(f"--allowed-host: {name!r} must be a name or an address, without a port")
    return [*(("localhost", "127.0.0.1", "::1", address) if is_loopback(address) else ()), *allowed]


def is_loopback(address: str) -> bool:
    """Whether an address is reachable only from this machine."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def check_address(host: str, port: int) -> int:
    """The port to listen on; a free one for 0.

    Raises:
        ValueError: if it is not available.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            return listener.getsockname()[1]
    except (OSError, OverflowError) as error:
        raise ValueError(f"--port: {host}:{port} is not available: {getattr(error, 'strerror', error)}") from error
