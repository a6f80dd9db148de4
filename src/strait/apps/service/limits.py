"""What the service accepts (no torch here)."""

from __future__ import annotations

from dataclasses import dataclass, fields

BODIES = 16
"""How many times the largest body all bodies in memory may have together, and all replies that wait to be read."""
MOST_IMAGES = 10_000
"""A request's list of labels is never longer, whatever the limits: it is checked label by label."""


@dataclass(frozen=True)
class Limits:
    """Limits of the service.

    Args:
        images: of one request.
        steps: of one image, all levels together.
        passes: through the model that one request takes, each image's counted: its work, known before it begins.
        megabytes: of a request's body, 2^20 bytes each; all bodies in memory at once may have ``BODIES`` times as
            many, and so may all replies that wait to be read.
        megapixels: of an uploaded picture, and of an extended one; all results of an edit together have four times
            as many at most.
        queue: requests accepted and not yet answered; one more is told to come back (429).
        upload_seconds: within which a request's head must have arrived, and then its body.
        seconds: that a request may wait before its work begins.
        work_seconds: that the work may take once it has begun, with all that is done together.
        reply_seconds: that a reply may wait for its client to read it; after ten of them without a byte read it is
            dropped already.
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
