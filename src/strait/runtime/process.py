"""Set up the process of a command: output streams, home folder and threads. Nothing here imports torch."""

from __future__ import annotations

import atexit
import errno
import getpass
import io
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, TextIO

_CLOSED = (errno.EPIPE, errno.EIO)
_CHOSEN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


class _TolerantFile(io.FileIO):
    """A file that discards output once its reader is gone, and raises any other failure once."""

    _has_failed = False

    def write(self, content: Any, /) -> int | None:
        try:
            return super().write(content)
        except OSError as error:
            if error.errno not in _CLOSED and not self._has_failed:
                self._has_failed = True
                raise
            return memoryview(content).nbytes


def keep_writing() -> None:
    """Keep running when the reader of standard output or error is gone; further output is discarded.

    A stream that was closed at the start is redirected to the null device, so that no other file gets its descriptor.
    Characters that the stream's encoding lacks are escaped.
    """
    sys.stdout, sys.stderr = _kept(sys.stdout, 1), _kept(sys.stderr, 2)


def _kept(stream: TextIO | None, descriptor: int) -> TextIO:
    if stream is None:
        null = os.open(os.devnull, os.O_WRONLY)
        if null != descriptor:
            os.dup2(null, descriptor)
            os.close(null)
    else:
        stream.flush()
    encoding = "utf-8" if stream is None else stream.encoding
    return io.TextIOWrapper(
        io.BufferedWriter(_TolerantFile(descriptor, "w", closefd=False)),
        encoding,
        "surrogateescape" if encoding.lower() in ("utf-8", "utf8") and descriptor == 1 else "backslashreplace",
        line_buffering=descriptor == 2 or os.isatty(descriptor),
    )


def lend_home() -> None:
    """Set a temporary home folder, removed at exit, and a numeric user name where they are missing.

    torch, datasets and huggingface_hub keep files in the home folder; torch's compiler uses the user name.
    """
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = tempfile.mkdtemp(prefix="strait-home-")
        atexit.register(shutil.rmtree, os.environ["HOME"], ignore_errors=True)
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["LOGNAME"] = f"user-{os.getuid()}"


def wait_without_spinning() -> None:
    """Limit how long waiting threads spin before they sleep, unless the environment already sets it.

    By default they spin for several milliseconds, which takes processor time from other programs and from the thread
    they wait for. The limits are 10,000 loop iterations (GNU's library; with 1,000 a command lost a second on a quiet
    machine, docs/performance.md) and one millisecond (Intel's and LLVM's libraries, their smallest
    nonzero value). Libraries read them when loaded, so this must run before torch is imported.
    """
    if not any(name in os.environ for name in _CHOSEN):
        os.environ.update(GOMP_SPINCOUNT="10000", KMP_BLOCKTIME="1")
