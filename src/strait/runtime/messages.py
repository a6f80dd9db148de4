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


def library_needed(error: Exception, extra: str) -> str:
    """What a failed import asks for, as the end of a line: a library that is missing, or one that is there and broken.

    Args:
        error: what the import raised: a library beside another build of torch may raise anything.
        extra: of this package, which brings the library.

    Returns:
        The library, the error where it is installed, and a command that brings what fits.
    """
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"the library {error.name.partition('.')[0]}: pip install 'strait[{extra}]'"
    library = _raised_in(error)
    fitting = "torch torchvision" if library == "torchvision" else library
    return (
        f"the library {library}, which is installed and cannot be imported ({type(error).__name__}: "
        f"{first_line(error)}); bring one that fits: pip install --force-reinstall 'strait[{extra}]' {fitting}"
    )


def _raised_in(error: Exception) -> str:
    """The library in whose own files an import failed."""
    names: list[str] = []
    place = error.__traceback__ and error.__traceback__.tb_next  # behind the line that asked for it
    while place is not None:
        names.append(str(place.tb_frame.f_globals.get("__name__", "")).partition(".")[0])
        place = place.tb_next
    if "torchvision" in names:  # whatever imported it, and whatever of torch it then called in vain
        return "torchvision"
    named = getattr(error, "name", None) or ""
    theirs = [name for name in names if name not in ("strait", "importlib", "__main__", "")]
    return next(iter(theirs), named.partition(".")[0] or "strait")
