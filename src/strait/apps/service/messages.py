"""Messages between the HTTP process and its workers (no torch here)."""

from __future__ import annotations

from typing import Literal, NamedTuple

from strait.apps.service.schema import DecodingBody

Form = Literal["json", "png", "events"]
"""The form of a reply: JSON, a single PNG, or server-sent events with every step."""


class Task(NamedTuple):
    """A request for a worker, which receives lists of them to be processed together."""

    number: int
    body: DecodingBody
    form: Form


class Reply(NamedTuple):
    """A reply of a worker, ready to be sent.

    Attributes:
        number: of the task.
        status: HTTP status.
        content: the body, or an event.
        media_type: of the content.
        rows: size of the batch it was decoded in; 0 for none.
        is_last: False if more replies to the task follow.
    """

    number: int
    status: int
    content: bytes
    media_type: str
    rows: int = 0
    is_last: bool = True


FREE = "free"
"""From a worker: its model is loaded and it can take tasks; also the answer to an empty list of tasks."""
END = "end"
"""To a worker: no more tasks will come."""
EVENTS = "text/event-stream"
