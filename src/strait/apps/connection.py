"""Where a page listens, and how long it waits: uvicorn would wait for a request's head as long as it takes."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol


def impatient_protocol(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol, which closes a connection whose request's head is not there within so many seconds."""

    base: Any = AutoHTTPProtocol

    class Impatient(base):
        _late: asyncio.TimerHandle | None = None

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
            super().connection_lost(exc)

        def _wait(self) -> None:
            self._late = self.loop.call_later(seconds, self.transport.close)

        def _stop_waiting(self) -> None:
            if self._late is not None:
                self._late.cancel()
                self._late = None

    return Impatient


def check_address(host: str, port: int) -> int:
    """The port to listen at, a free one for 0.

    Raises:
        ValueError: if it cannot be had.
    """
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as found:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind((host, port))
            return found.getsockname()[1]
    except (OSError, OverflowError) as error:
        raise ValueError(
            f"--port: {host}:{port} cannot be listened at: {getattr(error, 'strerror', error)}"
        ) from error
