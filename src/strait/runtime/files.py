"""Files replaced whole: after a kill there is the old one or the new one; and the folder of what is kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


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
    # Of its own for each process: two may write the same settings. A long name leaves no room for more.
    name = path.name if len(os.fsencode(path.name)) < 200 else hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    aside = path.with_name(f".{name}.{os.getpid()}.tmp")
    with naming(path):
        try:
            aside.write_bytes(content)
            flush(aside)
            aside.replace(path)
        except OSError:
            with suppress(OSError):
                aside.unlink()
            raise


def write_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None, several_writers: bool = False
) -> None:
    """Put a safetensors file in place whole: sorted by name, so that equal tensors are equal files.

    Args:
        path: of the file.
        tensors: on any device.
        metadata: of the file; only what never changes.
        several_writers: processes that know nothing of each other may write it at once. What a killed one leaves is
            then not written over by the next.

    Raises:
        OSError: naming it; what was there before is untouched.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp" if several_writers else f"{path.name}.tmp")
    with naming(path):
        try:
            # The library makes files that their owner alone can read; these are for sharing as any other.
            aside.touch()
            mode = aside.stat().st_mode
            save_file({name: tensors[name].detach().cpu().contiguous() for name in sorted(tensors)}, aside, metadata)
            aside.chmod(mode)
            flush(aside)
            aside.replace(path)
        except (OSError, SafetensorError) as error:
            with suppress(OSError):
                aside.unlink()
            if isinstance(error, SafetensorError):  # a full disk, for one, which every caller expects as OSError
                raise OSError(f"{path}: {error}") from error
            raise


def write_new(path: Path, content: bytes, overwrite: bool) -> None:
    """Write a file whole, but never over another's content.

    Raises:
        FileExistsError: if the file is there with different content and ``overwrite`` was not asked for.
    """
    if path.exists() and not overwrite and path.read_bytes() != content:
        raise FileExistsError(f"{path} exists and differs; write elsewhere, or say --overwrite")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, content)


def usable_stem(text: str, longest: int = 150) -> str:
    """What somebody named, as the beginning of a file's name: without characters that move a terminal's cursor.

    Args:
        text: such as the stem of another file's name.
        longest: how many bytes of it remain, whole characters; a file system's names have 255.
    """
    shown = "".join(letter if ord(letter) > 31 and not 127 <= ord(letter) < 160 else "_" for letter in text)
    encoded = os.fsencode(shown)
    return shown if len(encoded) <= longest else encoded[:longest].decode("utf-8", "ignore")


def read_json(path: Path, absent: Any) -> Any:
    """What a JSON file of ours holds; ``absent`` where there is none.

    Raises:
        ValueError: naming the file, if it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
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
