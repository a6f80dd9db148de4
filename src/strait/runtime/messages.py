"""Lines for people: what is said once, and the first line of an error of somebody else's."""

from __future__ import annotations

import sys
from functools import cache


@cache
def say_once(message: str) -> None:
    """A line on standard error, the first time in this process that it is to be said."""
    print(message, file=sys.stderr, flush=True)


def first_line(error: Exception) -> str:
    """What an error of a library says, in one line; its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]
