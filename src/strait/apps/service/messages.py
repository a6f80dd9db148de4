"""What the HTTP process and its workers say to each other (no torch here)."""

from __future__ import annotations

from typing import Literal, NamedTuple

from strait.apps.service.schema import DecodingBody

Form = Literal["json", "png", "events"]
"""In which form a client takes its images: JSON, one PNG as it is, or server-sent events with every step."""


class Task(NamedTuple):
    """A request as a worker gets it; it gets all that is to be done together as a list of these."""

    number: int
    body: DecodingBody
    form: Form


class Reply(NamedTuple):
    """What a worker has for a request, ready to be sent.

    Attributes:
        number: of the task.
        status: of HTTP.
        content: the body, or an event.
        media_type: of the content.
        rows: how many images it was decoded with; 0 for none.
        is_last: whether no more will come.
        note: what the user should know of it; the content says it too, where it is JSON.
    """

    number: int
    status: int
    content: bytes
    media_type: str
    rows: int = 0
    is_last: bool = True
    note: str | None = None


FREE = "free"
"""A worker says so when its model is ready for the next tasks; also after a list without any."""
END = "end"
"""What a worker is told when nothing will come any more."""
EVENTS = "text/event-stream"
