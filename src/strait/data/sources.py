"""Where photographs lie: folders, parquet, WebDataset, a hub. Each is a source that can be read by number."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from strait.data.classes import ClassNames
from strait.data.fingerprint import fingerprint_of
from strait.pictures.reading import FORMATS

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"}
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "test"),
}


class DataError(ValueError):
    """The images asked for cannot be had; the message is for people."""


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

    def read(self, index: int) -> tuple[Image.Image, int]:
        """The opened picture and its class (-1 without classes); raises whatever a damaged file raises."""
        ...


class FolderSource:
    """A folder of class folders, or of pictures alone (then there are no classes)."""

    def __init__(self, folder: Path) -> None:
        subfolders = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        named = [(path, _pictures(path, recursive=True)) for path in subfolders]
        named = [(path, pictures) for path, pictures in named if pictures]
        loose = _pictures(folder, recursive=False)
        if named and loose:
            print(
                f"{folder}: {len(loose)} pictures beside the class folders are left out", file=sys.stderr, flush=True
            )
        self.classes = ClassNames([path.name for path, _ in named])
        self._items = [(picture, label) for label, (_, pictures) in enumerate(named) for picture in pictures]
        if not named:
            self._items = [(picture, -1) for picture in loose]

    def __len__(self) -> int:
        return len(self._items)

    def fingerprint(self) -> str:
        classes = [f"{label} {self.classes[label]}" if label >= 0 else "" for _, label in self._items]
        return fingerprint_of([path for path, _ in self._items], classes)

    def name(self, index: int) -> str:
        return str(self._items[index][0])

    def labels(self) -> np.ndarray:
        return np.array([label for _, label in self._items], np.int64)

    def read(self, index: int) -> tuple[Image.Image, int]:
        path, label = self._items[index]
        return Image.open(path, formats=FORMATS), label


def _pictures(folder: Path, recursive: bool) -> list[Path]:
    found = folder.rglob("*") if recursive else folder.iterdir()
    return sorted(path for path in found if path.suffix.lower() in SUFFIXES and path.is_file())


class DatasetSource:
    """A ``datasets.Dataset`` with an image column and, perhaps, a label column.

    Args:
        dataset: it.
        origin: what it is called in messages.
        files: it was read from; none for one of a hub, whose own fingerprint is of its name and revision.

    Raises:
        DataError: if it has no column of images.
    """

    def __init__(self, dataset: Any, origin: str, files: Sequence[Path] = ()) -> None:
        from datasets import ClassLabel
        from datasets import Image as ImageFeature

        self._files, self._of_hub = files, str(dataset._fingerprint)
        features = dataset.features
        pictures = [name for name, kind in features.items() if isinstance(kind, ImageFeature)]
        if not pictures:
            raise DataError(f"--data: {origin} has no column of images; its columns are {', '.join(features)}")
        self._picture = pictures[0]
        self._label = next((name for name in ("label", "labels", "fine_label", "cls") if name in features), None)
        # Undecoded: a damaged picture must be ours to report, not an exception of the library's.
        self._rows = dataset.cast_column(self._picture, ImageFeature(decode=False))
        names: Sequence[str] = []
        if self._label is not None:
            kind = features[self._label]
            if getattr(kind, "dtype", "") in ("string", "large_string"):
                self._rows = self._rows.class_encode_column(self._label)
                kind = self._rows.features[self._label]
            if isinstance(kind, ClassLabel):
                names = kind.names
            else:
                highest = max((label for label in dataset[self._label] if label is not None), default=-1)
                names = [str(index) for index in range(highest + 1)]
        self.classes = ClassNames(names)

    def __len__(self) -> int:
        return len(self._rows)

    def fingerprint(self) -> str:
        return fingerprint_of(self._files, [""] * len(self._files)) if self._files else self._of_hub

    def labels(self) -> np.ndarray:
        if self._label is None:
            return np.full(len(self), -1)
        return np.array([-1 if label is None else label for label in self._rows[self._label]], np.int64)

    def name(self, index: int) -> str:
        picture = self._rows[index][self._picture]
        path = picture["path"] if picture else None
        return f"row {index}" + (f" ({path})" if path else "")

    def read(self, index: int) -> tuple[Image.Image, int]:
        row = self._rows[index]
        picture = row[self._picture]
        if picture is None:
            raise ValueError("the row holds no image")
        opened = io.BytesIO(picture["bytes"]) if picture["bytes"] is not None else picture["path"]
        label = None if self._label is None else row[self._label]
        return Image.open(opened, formats=FORMATS), -1 if label is None else int(label)


class ClassesOf:
    """A source with its classes numbered as another's are, by name.

    Raises:
        DataError: if it has a class that the other has not.
    """

    def __init__(self, source: ImageSource, classes: Sequence[str]) -> None:
        self._source, self.classes = source, ClassNames(classes)
        numbers = {name: number for number, name in enumerate(self.classes)}
        unknown = [name for name in source.classes if name not in numbers]
        if classes and unknown:
            raise DataError(f"--data: the class {unknown[0]!r} is not among those trained on")
        self._numbers = [numbers.get(name, -1) for name in source.classes]

    def __len__(self) -> int:
        return len(self._source)

    def fingerprint(self) -> str:
        return self._source.fingerprint()

    def name(self, index: int) -> str:
        return self._source.name(index)

    def labels(self) -> np.ndarray:
        theirs = self._source.labels()
        return np.where(theirs >= 0, np.array([*self._numbers, -1], np.int64)[theirs], -1)

    def read(self, index: int) -> tuple[Image.Image, int]:
        picture, label = self._source.read(index)
        return picture, self._numbers[label] if label >= 0 else -1


def open_images(data: str, split: str) -> ImageSource:
    """Open what ``--data`` names.

    Args:
        data: a folder of class folders, of pictures, of ``train-*``/``validation-*`` parquet files or of WebDataset
            tars; one such file; or a hub id. A folder with ``train`` and ``validation`` inside holds both splits.
        split: ``train`` or ``validation``. A source that has not this split gives all it has.

    Raises:
        DataError: if there is nothing there, or a library is missing.
    """
    path = Path(data)
    if not path.exists():
        if is_hub_id(data):
            return _load(data, None, split)
        raise DataError(f"--data: {data} does not exist (nor is it a hub id such as user/name)")
    if path.is_file():
        return _load(data, [path], split)
    path = split_folder(path, split)
    files = shards_in(path)
    if files:
        # No files of this split: those of the other one, or files that name no split at all.
        return _load(data, [file for file in files if names_split(file, split)] or files, split)
    source = FolderSource(path)
    if len(source) == 0:
        raise DataError(f"--data: {data} holds no pictures ({', '.join(sorted(SUFFIXES))}), parquet or tar files")
    return source


def has_split(data: str, split: str) -> bool:
    """Whether ``--data`` keeps some images apart under the name of a split."""
    path = Path(data)
    if is_hub_id(data) and not path.exists():
        import datasets

        return any(alias in datasets.get_dataset_split_names(data) for alias in _SPLITS[split])
    if not path.is_dir():
        return False
    if any(alias in _split_folders(path) for alias in _SPLITS[split]):
        return True
    # Files of this split alone are all there is, and so nothing kept apart.
    shards = shards_in(path)
    return any(names_split(file, split) for file in shards) and not all(names_split(file, split) for file in shards)


def is_hub_id(data: str) -> bool:
    """Whether ``--data`` could name a data set on a hub."""
    return data.count("/") == 1 and not data.startswith((".", "/", "~"))


def _split_folders(folder: Path) -> dict[str, Path]:
    """Subfolders that are splits: only if all that hold anything are, since a class may be called "train"."""
    aliases = {alias for names in _SPLITS.values() for alias in names}
    subfolders = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    filled = [path for path in subfolders if any(item.is_file() for item in path.rglob("*"))]
    return {path.name: path for path in filled} if all(path.name in aliases for path in filled) else {}


def split_folder(folder: Path, split: str) -> Path:
    """The subfolder of a split, or of the other one, if a folder is divided so; else the folder itself."""
    folders = _split_folders(folder)
    return next((folders[alias] for alias in (*_SPLITS[split], *_SPLITS["train"]) if alias in folders), folder)


def shards_in(folder: Path) -> list[Path]:
    """The parquet files of a folder, or the tars if there are none."""
    return sorted(folder.glob("*.parquet")) or sorted(folder.glob("*.tar"))


def names_split(file: Path | str, split: str) -> bool:
    """Whether a file says by its name, or else by its folder's, that it is of a split."""
    name, folder = Path(file).name.lower(), Path(file).parent.name.lower()
    if any(name.startswith(aliases) for aliases in _SPLITS.values()):
        return name.startswith(_SPLITS[split])
    return folder in _SPLITS[split]


def _load(data: str, files: list[Path] | None, split: str) -> DatasetSource:
    try:
        import datasets
    except ImportError as error:
        raise DataError(f"--data: {data} needs the library datasets: pip install 'strait[train]'") from error
    try:
        if files is None:
            found = datasets.load_dataset(data)
            name = next((alias for alias in _SPLITS[split] if alias in found), next(iter(found)))
            return DatasetSource(found[name], data)
        kind = {".parquet": "parquet", ".tar": "webdataset"}.get(files[0].suffix)
        if kind is None:
            raise DataError(f"--data: {data} is a file, but neither parquet nor tar")
        names = [str(file) for file in files]
        return DatasetSource(datasets.load_dataset(kind, data_files=names, split="train"), data, files)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"--data: {data} could not be read: {' '.join(str(error).split())}") from error
