"""Open what ``--data`` names: folders, parquet files, WebDataset tars, a hub. Each gives pictures by number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from PIL import Image

from strait.data.classes import ClassNames
from strait.data.errors import DataError
from strait.data.folders import SPLITS, FolderSource, folder_has_split, split_folder
from strait.data.hub_data import hub_has_split, hub_table, is_hub_id, refuse_missing
from strait.data.rows import cure, is_hidden, picture_kinds
from strait.data.shard_source import StoredSource
from strait.data.shards import CopiedShard, ParquetShard, StoredFile, TarShard
from strait.data.tree import holds_pictures
from strait.runtime.messages import say_once

__all__ = ["ClassesOf", "DataError", "FolderSource", "ImageSource", "has_split", "open_images"]

T = TypeVar("T")


class ImageSource(Protocol):
    """Photographs that can be read by number."""

    classes: ClassNames

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """Changes when the images, their order or their classes do; not when they lie elsewhere."""
        ...

    def name(self, index: int) -> str: ...

    def labels(self) -> np.ndarray:
        """The class of every picture, int64 ``[count]``, -1 without; no picture is read for it."""
        ...

    def content(self, index: int) -> bytes:
        """The picture as it is stored, encoded."""
        ...

    def read(self, index: int) -> tuple[Image.Image, int]:
        """The opened picture and its class (-1 without classes); raises whatever a damaged file raises."""
        ...


class ClassesOf:
    """A source with its classes numbered as another's are, by name; without any, if it knows none of these.

    Raises:
        DataError: if it has some of the other's classes, and one that the other has not.
    """

    def __init__(self, source: ImageSource, classes: Sequence[str]) -> None:
        self._source, self.classes = source, ClassNames(classes)
        numbers = {name: number for number, name in reversed(list(enumerate(self.classes)))}
        unknown = [name for name in source.classes if name not in numbers]
        if classes and unknown and len(unknown) < len(source.classes):
            where = Path(source.name(int(np.argmax(source.labels() == source.classes.index(unknown[0])))))
            raise DataError(
                f"--data: the class {unknown[0]!r} (of {where}) is not among those trained on; move it away, or train "
                "on it, too, with another --model"
            )
        if classes and unknown:
            say_once(
                f"--data: none of the {len(unknown)} classes of the validation images, such as {unknown[0]!r}, is "
                "among those trained on; these images count as unlabelled"
            )
        same = list(source.classes) == list(self.classes)
        self._numbers = list(range(len(classes))) if same else [numbers.get(name, -1) for name in source.classes]

    def __len__(self) -> int:
        return len(self._source)

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def name(self, index: int) -> str:
        return self._source.name(index)

    def labels(self) -> np.ndarray:
        theirs = self._source.labels()
        return np.where(theirs >= 0, np.array([*self._numbers, -1], np.int64)[theirs], -1)

    def content(self, index: int) -> bytes:
        return self._source.content(index)

    def read(self, index: int) -> tuple[Image.Image, int]:
        picture, label = self._source.read(index)
        return picture, self._numbers[label] if label >= 0 else -1


def open_images(data: str, split: str, unlabelled: bool = False) -> ImageSource:
    """Open what ``--data`` names.

    Args:
        data: a folder of class folders, of pictures, of ``train-*``/``validation-*`` parquet files or of WebDataset
            tars; one such file; or a hub id. A folder with ``train`` and ``validation`` inside holds both splits.
        split: ``train`` or ``validation``. A source that has not this split gives all it has.
        unlabelled: leave all classes aside.

    Raises:
        DataError: if there is nothing there, or a library is missing.
    """
    path = Path(data)
    if not path.exists():
        refuse_missing(data)
        return readable(data, lambda: StoredSource([hub_table(data, split)], unlabelled))
    files = shard_files(data, split)
    if files:
        return readable(data, lambda: _stored(files, unlabelled))
    folder = split_folder(path, split)
    source = FolderSource(folder, unlabelled)
    if len(source) == 0:
        hint = cure(file.name for file in folder.rglob("*"))
        raise DataError(f"--data: {data} holds no pictures ({picture_kinds()}), parquet or tar files{hint}")
    return source


def has_split(data: str, split: str) -> bool:
    """Whether ``--data`` keeps some images apart under the name of a split."""
    path = Path(data)
    if is_hub_id(data) and not path.exists():
        refuse_missing(data)
        return hub_has_split(data, split)
    if not path.is_dir():
        return False
    if folder_has_split(path, split):
        return True
    # Files of this split alone are all there is, and so nothing kept apart.
    return names_one_of_two(_shards_in(split_folder(path, split)), split)


def shard_files(data: str, split: str) -> list[Path]:
    """The parquet files, or else the tars, of a split of what lies here, or of all that names no split; none for a
    folder of pictures.

    Raises:
        DataError: if ``data`` is a file of another kind.
    """
    path = Path(data)
    if path.is_file():
        if path.suffix.lower() not in (".parquet", ".tar"):
            raise DataError(f"--data: {data} is a file, but neither parquet nor tar{cure([data])}")
        return [path]
    folder = split_folder(path, split)
    files = _shards_in(folder)
    if files and holds_pictures(folder):
        say_once(
            f"--data: {files[0].suffix.lower()} files in {folder} are read; the pictures beside them are not: name a "
            "folder that holds one or the other"
        )
    # No files of this split: those of the other one, or files that name no split at all.
    return [file for file in files if names_split(file, split)] or files


def names_split(file: Path | str, split: str) -> bool:
    """Whether a file says by its name, or else by its folder's, that it is of a split."""
    name, folder = Path(file).name.lower(), Path(file).parent.name.lower()
    if any(name.startswith(aliases) for aliases in SPLITS.values()):
        return name.startswith(SPLITS[split])
    return folder in SPLITS[split]


def names_one_of_two(files: Sequence[Path | str], split: str) -> bool:
    """Whether some files are of a split and some are not."""
    return any(names_split(file, split) for file in files) and not all(names_split(file, split) for file in files)


def _shards_in(folder: Path) -> list[Path]:
    """The parquet files of a folder, or the tars if there are none."""
    for suffix in (".parquet", ".tar"):
        files = sorted(path for path in folder.iterdir() if path.suffix.lower() == suffix and not is_hidden(path.name))
        if files:
            return files
    return []


def _stored(files: Sequence[Path], unlabelled: bool) -> StoredSource:
    if files[0].suffix.lower() == ".tar":
        return StoredSource([TarShard(StoredFile(str(file))) for file in files], unlabelled, files)
    import datasets

    shards = [ParquetShard(StoredFile(str(file))) for file in files]
    # Rows of a parquet file are packed by the hundred: the library lays out a copy that gives any one at once.
    copy = datasets.load_dataset("parquet", data_files=[str(file) for file in files], split="train").data
    counts = [int(shard.ends[-1]) if len(shard.ends) else 0 for shard in shards]
    firsts = np.cumsum([0, *counts])
    copied = [CopiedShard(shard, copy, int(first)) for shard, first in zip(shards, firsts, strict=False)]
    return StoredSource(copied, unlabelled, files)


def readable(data: str, opened: Callable[[], T]) -> T:
    """What a damaged file raises inside a library, as a line for people."""
    try:
        return opened()
    except DataError:
        raise
    except ImportError as error:
        raise DataError(f"--data: {data} needs the library {error.name}: pip install 'strait[train]'") from error
    except Exception as error:  # what a damaged file can raise inside pyarrow and tarfile has no end
        raise DataError(f"--data: {data} could not be read: {' '.join(str(error).split())}") from error
