"""Lines for people: what is said once, the first line of an error of somebody else's, tables of text."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from functools import cache


@cache
def say_once(message: str) -> None:
    """A line on standard error, the first time in this process that it is to be said."""
    print(message, file=sys.stderr, flush=True)


def first_line(error: Exception) -> str:
    """What an error of a library says, in one line; its kind where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def aligned(rows: Sequence[Sequence[str]], right: Collection[int]) -> str:
    """Rows of equal length as lines, the columns named in ``right`` set to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def figure(value: float | None, digits: int = 3) -> str:
    """A number for a table: whole ones without digits, a dash where there is none."""
    return "-" if value is None else f"{value:,.{0 if float(value).is_integer() else digits}f}"
