"""Text for users: warnings that are printed once, one-line errors, text tables."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from functools import cache


@cache
def say_once(message: str) -> None:
    """Print a line on standard error, once per process."""
    print(message, file=sys.stderr, flush=True)


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type if it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def aligned(rows: Sequence[Sequence[str]], right: Collection[int]) -> str:
    """Rows of equal length as lines of aligned columns; those in ``right`` are right-aligned."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def figure(value: float | None, digits: int = 3) -> str:
    """A number for a table: integers without decimals, a dash for None."""
    return "-" if value is None else f"{value:,.{0 if float(value).is_integer() else digits}f}"


def library_needed(error: Exception, extra: str) -> str:
    """How to repair a failed import of a missing or broken library, as the end of a sentence.

    Args:
        error: raised by the import; a library built for another torch may raise anything.
        extra: the extra of this package that installs the library.

    Returns:
        The library, the error if it is installed but broken, and the command that installs it.
    """
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"the library {error.name.partition('.')[0]}: pip install 'strait[{extra}]'"
    library = _raised_in(error)
    fitting = "torch torchvision" if library == "torchvision" else library
    return (
        f"the library {library}, which is installed but cannot be imported ({type(error).__name__}: "
        f"{first_line(error)}); reinstall it: pip install --force-reinstall 'strait[{extra}]' {fitting}"
    )


def _raised_in(error: Exception) -> str:
    """The library in whose files an import failed."""
    packages: list[str] = []
    frame = error.__traceback__ and error.__traceback__.tb_next  # skips the importing line itself
    while frame is not None:
        packages.append(str(frame.tb_frame.f_globals.get("__name__", "")).partition(".")[0])
        frame = frame.tb_next
    if "torchvision" in packages:  # even if the error was raised in torch
        return "torchvision"
    module = getattr(error, "name", None) or ""
    libraries = [name for name in packages if name not in ("strait", "importlib", "__main__", "")]
    return next(iter(libraries), module.partition(".")[0] or "strait")
