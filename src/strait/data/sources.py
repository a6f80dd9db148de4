"""Open the data that ``--data`` names: folders, parquet files, WebDataset tars or a hub data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from PIL import Image

from strait.data.classes import ClassNames
from strait.data.folders import SPLITS, FolderSource, folder_has_split, split_folder
from strait.data.hub_data import hub_has_split, hub_table, is_hub_id, refuse_missing
from strait.data.rows import DataError, cure, is_hidden, picture_kinds
from strait.data.shard_source import StoredSource
from strait.data.shards import CopiedShard, ParquetShard, StoredFile, TarShard
from strait.data.tree import holds_pictures
from strait.runtime.messages import say_once

__all__ = ["ClassesOf", "DataError", "FolderSource", "ImageSource", "has_split", "open_images"]

T = TypeVar("T")


class ImageSource(Protocol):
    """Photographs that are read by index."""

    classes: ClassNames

    def __len__(self) -> int: ...

    def fingerprint(self) -> str:
        """Depends on the images, their order and their classes, but not on their location."""
        ...

    def name(self, index: int) -> str: ...

    def labels(self) -> np.ndarray:
        """The class of every picture, int64 ``[count]``, -1 for none; reads no picture."""
        ...

    def content(self, index: int) -> bytes:
        """The encoded picture."""
        ...

    def read(self, index: int) -> tuple[Image.Image, int]:
        """The opened picture and its class (-1 for none); a damaged file can raise anything."""
        ...


class ClassesOf:
    """A source whose classes are renumbered, by name, as in ``classes``; unlabelled if it shares none of them.

    Raises:
        DataError: if it has some of these classes, and one that is not among them.
    """

    def __init__(self, source: ImageSource, classes: Sequence[str]) -> None:
        self._source, self.classes = source, ClassNames(classes)
        numbers = {name: number for number, name in reversed(list(enumerate(self.classes)))}
        unknown = [name for name in source.classes if name not in numbers]
        if classes and unknown and len(unknown) < len(source.classes):
            where = Path(source.name(int(np.argmax(source.labels() == source.classes.index(unknown[0])))))
            raise DataError(
                f"--data: the class {unknown[0]!r} (of {where}) is not a training class; remove it, or add it to the "
                "training images and choose another --model"
            )
        if classes and unknown:
            say_once(
                f"--data: none of the {len(unknown)} classes of the validation images, such as {unknown[0]!r}, is a "
                "training class; these images count as unlabelled"
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
        labels = self._source.labels()
        return np.where(labels >= 0, np.array([*self._numbers, -1], np.int64)[labels], -1)

    def content(self, index: int) -> bytes:
        return self._source.content(index)

    def read(self, index: int) -> tuple[Image.Image, int]:
        picture, label = self._source.read(index)
        return picture, self._numbers[label] if label >= 0 else -1


def open_images(data: str, split: str, unlabelled: bool = False) -> ImageSource:
    """Open the data that ``--data`` names.

    Args:
        data: a folder of class folders, of pictures, of ``train-*``/``validation-*`` parquet files or of WebDataset
            tars; one such file; or a hub id. A folder with ``train`` and ``validation`` inside has both splits.
        split: ``train`` or ``validation``; a source without this split gives all its images.
        unlabelled: ignore all classes.

    Raises:
        DataError: if there are no pictures, or a library is missing.
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
        raise DataError(f"--data: {data} has no pictures ({picture_kinds()}), parquet or tar files{hint}")
    return source


def has_split(data: str, split: str) -> bool:
    """Whether ``--data`` has images of this split and others."""
    path = Path(data)
    if is_hub_id(data) and not path.exists():
        refuse_missing(data)
        return hub_has_split(data, split)
    if not path.is_dir():
        return False
    if folder_has_split(path, split):
        return True
    # If all files are of this split, nothing is held out.
    return names_one_of_two(_shards_in(split_folder(path, split)), split)


def shard_files(data: str, split: str) -> list[Path]:
    """The local parquet files, or else tars, of a split; all of them if none is of this split. Empty for a folder of
    pictures.

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
            f"--data: {files[0].suffix.lower()} files in {folder} are used, the pictures beside them are not; "
            "name a folder with only one of the two"
        )
    return [file for file in files if names_split(file, split)] or files


def names_split(file: Path | str, split: str) -> bool:
    """Whether a file's name, or else its folder's, is that of a split."""
    name, folder = Path(file).name.lower(), Path(file).parent.name.lower()
    if any(name.startswith(aliases) for aliases in SPLITS.values()):
        return name.startswith(SPLITS[split])
    return folder in SPLITS[split]


def names_one_of_two(files: Sequence[Path | str], split: str) -> bool:
    """Whether some files are of a split and others are not."""
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
    # Rows of a parquet file are stored in groups: the library writes a copy with random access.
    copy = datasets.load_dataset("parquet", data_files=[str(file) for file in files], split="train").data
    counts = [int(shard.ends[-1]) if len(shard.ends) else 0 for shard in shards]
    firsts = np.cumsum([0, *counts])
    copied = [CopiedShard(shard, copy, int(first)) for shard, first in zip(shards, firsts, strict=False)]
    return StoredSource(copied, unlabelled, files)


def readable(data: str, opened: Callable[[], T]) -> T:
    """Call ``opened``; errors of libraries become a one-line ``DataError``."""
    try:
        return opened()
    except DataError:
        raise
    except ImportError as error:
        raise DataError(f"--data: {data} needs the library {error.name}: pip install 'strait[train]'") from error
    except Exception as error:  # a damaged file can raise anything inside pyarrow and tarfile
        raise DataError(f"--data: {data} could not be read: {' '.join(str(error).split())}") from error
