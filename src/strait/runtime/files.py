"""Atomic writes (a killed process leaves the old file or the new one), and the cache folder."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_STALE = 6 * 3600.0
"""Seconds after which a temporary file counts as abandoned."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Make system errors name this file: a full disk names none, and others name a temporary file."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error


def flush(path: Path) -> None:
    """Wait until a file or folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically.

    Raises:
        OSError: naming it; an existing file is left untouched.
    """
    with _temporary(path) as temporary:
        temporary.write_bytes(content)
        flush(temporary)
        temporary.replace(path)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file atomically, sorted by name, so that equal tensors give equal files.

    Args:
        path: of the file.
        tensors: on any device.
        metadata: of the file; constants only, so that equal tensors give equal files.

    Raises:
        OSError: naming it; an existing file is left untouched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with _temporary(path) as temporary:
        mode = temporary.stat().st_mode  # the library creates files that only their owner can read
        contents = {name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}
        try:
            save_file(contents, temporary, metadata)
        except SafetensorError as error:  # such as a full disk, which every caller expects as OSError
            raise OSError(f"{path}: {error}") from error
        temporary.chmod(mode)
        flush(temporary)
        temporary.replace(path)


def write_new(path: Path, content: bytes, overwrite: bool) -> None:
    """Write a file atomically, and never replace different content, even if that appears meanwhile.

    Raises:
        FileExistsError: if the file exists with different content and ``overwrite`` is False.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if overwrite:
        write_bytes(path, content)
        return
    with _temporary(path) as temporary:
        temporary.write_bytes(content)
        flush(temporary)
        try:
            _rename_without_replacing(temporary, path)
        except FileExistsError:
            if path.read_bytes() != content:
                raise FileExistsError(
                    f"{path} exists and differs; choose another place, or pass --overwrite"
                ) from None


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A new file in the folder of ``path``, to be renamed to it; removed on failure, and errors name ``path``.

    The name is random, so that nobody can place a link there beforehand and no two processes share it.
    """
    with naming(path):
        _remove_stale(path)
        temporary = path.with_name(f".{_short(path.name)}.{secrets.token_hex(8)}.tmp")
        # Exclusive, without following links, and with the usual permissions (umask).
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0), 0o666))
        try:
            yield temporary
        finally:
            with suppress(OSError):
                temporary.unlink()


def _short(name: str) -> str:
    """A name with room for a suffix: file systems allow 255 bytes."""
    return os.fsdecode(os.fsencode(name)[:200])


def _remove_stale(path: Path) -> None:
    """Remove temporary files of killed writers of this file, once they are some hours old."""
    pattern = f".{glob.escape(_short(path.name))}.{'[0-9a-f]' * 16}.tmp"
    for stale in path.parent.glob(pattern):
        with suppress(OSError):
            if time.time() - stale.lstat().st_mtime > _STALE:
                stale.unlink()


def _rename_without_replacing(temporary: Path, path: Path) -> None:
    """Give a file a second name.

    Raises:
        FileExistsError: if that name is taken.
    """
    try:
        os.link(temporary, path, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:  # no hard links on this file system: exclusive, but not atomic
        with path.open("xb") as file:
            file.write(temporary.read_bytes())
            file.flush()
            os.fsync(file.fileno())


def usable_stem(text: str, longest: int = 150) -> str:
    """A text from outside as the beginning of a file name, with control characters replaced.

    Args:
        text: such as the stem of another file's name.
        longest: limit in bytes, cut at a character; file systems allow 255.
    """
    shown = "".join(letter if ord(letter) > 31 and not 127 <= ord(letter) < 160 else "_" for letter in text)
    encoded = os.fsencode(shown)
    return shown if len(encoded) <= longest else encoded[:longest].decode("utf-8", "ignore")


def read_bounded(path: Path, most: int) -> bytes:
    """The content of a file that somebody else may have written.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        ValueError: if it has more, of which no more is read, or is a device or a pipe, which may never end.
        OSError: if it cannot be read.
    """
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"it has more than {most:,} bytes")
    return content


def parse_json(text: str | bytes) -> Any:
    """What JSON of somebody else's holds.

    Raises:
        ValueError: if it is not JSON, or nested deeper than Python can follow.
    """
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("its lists and objects are nested too deeply") from error


def read_json(path: Path, absent: Any) -> Any:
    """The content of a JSON file; ``absent`` if there is no such file.

    Raises:
        ValueError: naming the file, if it is damaged.
    """
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return absent
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); delete it, and it is created again") from error


def sha256(path: Path) -> str:
    """The hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """The folder for results that can be recomputed: ``$STRAIT_CACHE``, or ``~/.cache/strait``.

    Raises:
        ValueError: if neither exists.
    """
    folder = os.environ.get("STRAIT_CACHE")
    try:
        return Path(folder) if folder else Path.home() / ".cache" / "strait"
    except RuntimeError as error:
        raise ValueError("this user has no home folder: set HOME, or set STRAIT_CACHE to a folder") from error
