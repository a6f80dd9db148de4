"""A file lock: one process at a time. The system releases it when the process ends, however it ends."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from strait.runtime.files import naming
from strait.runtime.messages import say_once

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

_held: set[int] = set()
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold the lock of a file, which is created if missing and kept afterwards.

    Args:
        path: of the file.
        busy: the error message if another process holds it.

    Raises:
        ValueError: with the message ``busy``.
        OSError: if the file cannot be created.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if not _taken(descriptor, path):
            raise ValueError(busy)
        _held.add(descriptor)
        yield
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _taken(descriptor: int, path: Path) -> bool:
    """Lock an open file; False if another process holds the lock."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # pyright: ignore
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            return False
        say_once(f"{path.parent}: this file system has no locks; do not start a second process there")
    return True


def _let_go() -> None:
    # A forked child (a loader's worker) inherits the lock, and would keep it after its parent ends.
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
