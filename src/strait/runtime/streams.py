"""The program's output, which may end before the program does: a pipe's reader has enough, a terminal is gone."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO

_NOBODY_READS = (errno.EPIPE, errno.EIO)


class _Unheard(io.FileIO):
    """A file that takes what it is given when nobody reads it any more, and tells of any other failure once."""

    _has_failed = False

    def write(self, content: Any, /) -> int | None:
        try:
            return super().write(content)
        except OSError as error:
            if error.errno not in _NOBODY_READS and not self._has_failed:
                self._has_failed = True
                raise
            return memoryview(content).nbytes


def keep_writing() -> None:
    """From now on no write to standard output or error ends the program because nobody reads it.

    Work goes on silently. A stream that was closed before the program began leads nowhere, so that no file of the
    program's takes its number. Names that are no text of the stream's encoding are written as well as it can.
    """
    sys.stdout, sys.stderr = _kept(sys.stdout, 1), _kept(sys.stderr, 2)


def _kept(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        if nowhere != descriptor:
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
    else:
        stream.flush()
    encoding = "utf-8" if stream is None else stream.encoding
    return io.TextIOWrapper(
        io.BufferedWriter(_Unheard(descriptor, "w", closefd=False)),
        encoding,
        "surrogateescape" if encoding.lower() in ("utf-8", "utf8") and descriptor == 1 else "backslashreplace",
        line_buffering=descriptor == 2 or os.isatty(descriptor),
    )
