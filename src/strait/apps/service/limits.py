"""Limits of the service (no torch here)."""

from __future__ import annotations

from dataclasses import dataclass, fields

BODIES = 16
"""Limit on all bodies in memory together, and on all unread replies, as a multiple of the largest body."""
MOST_IMAGES = 10_000
"""Upper limit on a request's list of labels: it is validated label by label."""


@dataclass(frozen=True)
class Limits:
    """Limits of the service.

    Args:
        images: per request.
        steps: per image, all levels together.
        passes: forward passes per request, counted per image; known before the work begins.
        megabytes: of a request's body, 2^20 bytes each; all bodies in memory together may have ``BODIES`` times as
            many, and so may all unread replies.
        megapixels: of an uploaded picture, and of an extended one; all results of an edit together may have four
            times as many.
        queue: requests accepted and not yet answered; further ones are told to retry (429).
        upload_seconds: for a request's head to arrive, and then for its body.
        seconds: that a request may wait before its work begins.
        work_seconds: that the work on a batch of requests may take.
        reply_seconds: for a client to read a reply; a reply of which nothing is read for ten seconds is dropped
            earlier.
    """

    images: int = 16
    steps: int = 64
    passes: int = 512
    megabytes: float = 8
    megapixels: float = 4
    queue: int = 64
    upload_seconds: float = 10
    seconds: float = 60
    work_seconds: float = 120
    reply_seconds: float = 60

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 < getattr(self, field.name) < 1e9:
                name, value = field.name.replace("_", "-"), getattr(self, field.name)
                raise ValueError(f"--max-{name}: {value} must be above 0 and below 1e9")
        if self.images > MOST_IMAGES:
            raise ValueError(f"--max-images: {self.images} must be at most {MOST_IMAGES}")

    @property
    def bytes(self) -> int:
        return int(self.megabytes * 2**20)

    @property
    def pixels(self) -> int:
        return int(self.megapixels * 1e6)
