"""What the service accepts (no torch here)."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Limits:
    """Limits of the service.

    Args:
        images: of one request.
        steps: of one image, all levels together.
        megabytes: of a request's body.
        megapixels: of an uploaded picture, and of an extended one.
        queue: requests accepted and not yet answered; one more is told to come back (429).
        upload_seconds: within which a body must have arrived.
        seconds: that a request may wait before its work begins.
    """

    images: int = 16
    steps: int = 64
    megabytes: float = 8
    megapixels: float = 4
    queue: int = 64
    upload_seconds: float = 10
    seconds: float = 60

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 < getattr(self, field.name) < 1e9:
                raise ValueError(f"--max-{field.name.replace('_', '-')}: {getattr(self, field.name)} must be above 0")

    @property
    def bytes(self) -> int:
        return int(self.megabytes * 2**20)

    @property
    def pixels(self) -> int:
        return int(self.megapixels * 1e6)
