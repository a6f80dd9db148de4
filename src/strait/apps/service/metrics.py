"""The service's metrics, in Prometheus' text format."""

from __future__ import annotations

from prometheus_client import (
    GC_COLLECTOR,
    PLATFORM_COLLECTOR,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from starlette.datastructures import MutableHeaders

_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """The counters of one service.

    Args:
        paths: counted under their own names; all others as ``other``, since clients may request any path.
        batch_header: the header of a reply that has the size of its batch.
    """

    def __init__(self, paths: tuple[str, ...], batch_header: str) -> None:
        self.registry, self._paths, self._batch_header = CollectorRegistry(), paths, batch_header
        self._replies = Counter(
            "strait_replies", "Replies by path and status", ["path", "status"], registry=self.registry
        )
        self._seconds = Histogram(
            "strait_reply_seconds", "Time from request to reply", ["path"], buckets=_SECONDS, registry=self.registry
        )
        self._rows = Histogram(
            "strait_batch_rows", "Size of the batch of a request", buckets=_ROWS, registry=self.registry
        )
        self.accepted = Gauge("strait_accepted", "Requests accepted and not yet answered", registry=self.registry)
        self.ready = Gauge("strait_workers_ready", "Workers that have loaded their model", registry=self.registry)
        ProcessCollector(registry=self.registry)
        for collector in (GC_COLLECTOR, PLATFORM_COLLECTOR):
            self.registry.register(collector)

    def reply(self, path: str, status: int, seconds: float, headers: MutableHeaders) -> None:
        """Count one reply."""
        name = path if path in self._paths else "other"
        self._replies.labels(name, str(status)).inc()
        self._seconds.labels(name).observe(seconds)
        if self._batch_header in headers:
            self._rows.observe(int(headers[self._batch_header]))

    def text(self) -> bytes:
        return generate_latest(self.registry)
