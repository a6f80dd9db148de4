"""Files replaced whole: after a kill there is the old one or the new one; and the folder of what is kept."""

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

_LEFT_BEHIND = 6 * 3600.0
"""Seconds after which a file written aside is nobody's any more."""


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """While it lasts, the system's errors name this file: a full disk's name none, others a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise type(error)(error.errno, error.strerror, str(path)) from error


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Put a text file in place whole."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Put a file in place whole.

    Raises:
        OSError: naming it; what was there before is untouched.
    """
    with _aside(path) as aside:
        aside.write_bytes(content)
        flush(aside)
        aside.replace(path)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Put a safetensors file in place whole: sorted by name, so that equal tensors are equal files.

    Args:
        path: of the file.
        tensors: on any device.
        metadata: of the file; only what never changes.

    Raises:
        OSError: naming it; what was there before is untouched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with _aside(path) as aside:
        mode = aside.stat().st_mode  # the library makes files that their owner alone can read
        try:
            save_file({name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}, aside, metadata)
        except SafetensorError as error:  # a full disk, for one, which every caller expects as OSError
            raise OSError(f"{path}: {error}") from error
        aside.chmod(mode)
        flush(aside)
        aside.replace(path)


def write_new(path: Path, content: bytes, overwrite: bool) -> None:
    """Write a file whole, but never over another's content, not even one that comes while it is written.

    Raises:
        FileExistsError: if the file is there with different content and ``overwrite`` was not asked for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if overwrite:
        write_bytes(path, content)
        return
    with _aside(path) as aside:
        aside.write_bytes(content)
        flush(aside)
        try:
            _place_where_nothing_is(aside, path)
        except FileExistsError:
            if path.read_bytes() != content:
                raise FileExistsError(f"{path} exists and differs; write elsewhere, or say --overwrite") from None


@contextmanager
def _aside(path: Path) -> Iterator[Path]:
    """A new file beside another, to be put in its place; removed after a failure, whose errors name the other.

    Its name cannot be guessed, so that nobody can put a link there beforehand, and two processes never share one.
    """
    with naming(path):
        _forget_left_behind(path)
        aside = path.with_name(f".{_short(path.name)}.{secrets.token_hex(8)}.tmp")
        # Exclusive, not followed if it is a link, and for those to read who may read other files.
        os.close(os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_NOFOLLOW", 0), 0o666))
        try:
            yield aside
        finally:
            with suppress(OSError):
                aside.unlink()


def _short(name: str) -> str:
    """A name with room for what is added to it: file systems allow 255 bytes."""
    return os.fsdecode(os.fsencode(name)[:200])


def _forget_left_behind(path: Path) -> None:
    """Remove what writers of this file left when they were killed, some hours ago."""
    pattern = f".{glob.escape(_short(path.name))}.{'[0-9a-f]' * 16}.tmp"
    for left in path.parent.glob(pattern):
        with suppress(OSError):
            if time.time() - left.lstat().st_mtime > _LEFT_BEHIND:
                left.unlink()


def _place_where_nothing_is(aside: Path, path: Path) -> None:
    """Give a file another name, if that is free.

    Raises:
        FileExistsError: if it is not.
    """
    try:
        os.link(aside, path, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links: exclusively, though not whole at once
        with path.open("xb") as file:
            file.write(aside.read_bytes())
            file.flush()
            os.fsync(file.fileno())


def usable_stem(text: str, longest: int = 150) -> str:
    """What somebody named, as the beginning of a file's name: without characters that move a terminal's cursor.

    Args:
        text: such as the stem of another file's name.
        longest: how many bytes of it remain, whole characters; a file system's names have 255.
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
    """What a JSON file of ours holds; ``absent`` where there is none.

    Raises:
        ValueError: naming the file, if it is damaged.
    """
    try:
        return parse_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return absent
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); without it, it is made again") from error


def sha256(path: Path) -> str:
    """The hash of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cache_folder() -> Path:
    """Where what can be worked out again is kept: ``$STRAIT_CACHE``, or ``~/.cache/strait``.

    Raises:
        ValueError: if there is neither.
    """
    chosen = os.environ.get("STRAIT_CACHE")
    try:
        return Path(chosen) if chosen else Path.home() / ".cache" / "strait"
    except RuntimeError as error:
        raise ValueError("this user has no home folder: set HOME, or STRAIT_CACHE to a folder for caches") from error
