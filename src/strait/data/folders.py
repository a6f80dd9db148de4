"""What a folder of pictures means: which subfolders are splits, which are classes, and what is passed over.

    cats/1.jpg, dogs/2.jpg                class folders
    1.jpg, 2.jpg                          pictures alone: no classes
    train/cats/1.jpg, Val/cats/2.jpg      splits, by the usual names in any case; also seg_train beside seg_test
    flowers/cats/1.jpg                    a lone folder that was unpacked one level too deep: what lies in it counts

Hidden files and those of systems, model folders and images that this package made are no photographs.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from strait.data.classes import ClassNames
from strait.data.errors import DataError
from strait.data.fingerprint import fingerprint_of
from strait.data.rows import is_hidden, is_picture, picture_kinds
from strait.pictures.reading import open_picture
from strait.pictures.recipe import is_made_here
from strait.runtime.messages import say_once

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "test", "testing", "eval", "dev"),
}
_UNUSED_SPLITS = ("pred", "predict", "prediction", "unlabeled", "unlabelled", "extra")
_NO_CLASS = ("images", "image", "imgs", "img", "pictures", "photos", "photographs", "data", "dataset", "jpegimages")
"""A lone folder of this name holds pictures; it is no class."""
_SHOWN = 5


@dataclass
class _Tree:
    """The pictures of a folder by the subfolder in which they lie, and what else there is.

    Attributes:
        loose: pictures directly in it.
        inside: of each subfolder, at any depth.
        kinds: of the files that were left out, how many of each suffix.
        made_here: images that this package made.
    """

    loose: list[Path] = field(default_factory=list)
    inside: dict[Path, list[Path]] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    made_here: list[Path] = field(default_factory=list)


class FolderSource:
    """A folder of class folders, or of pictures alone (then there are no classes).

    Args:
        folder: it.
        unlabelled: take all pictures at any depth, without classes.
        generated: images that this package made count, too.

    Raises:
        DataError: if it cannot be said what is meant: a class folder whose name is no text, two of one name, or more
            pictures beside the class folders than in them.
    """

    def __init__(self, folder: Path, unlabelled: bool = False, generated: bool = False) -> None:
        folder = _descended(folder)
        tree = _tree(folder, generated)
        if not generated and not tree.loose and not any(tree.inside.values()) and tree.made_here:
            tree = _tree(folder, generated=True)
            say_once(f"--data: all {_count(tree)} pictures in {folder} were made by this package; they are taken")
        named = {path: pictures for path, pictures in tree.inside.items() if pictures}
        if unlabelled:
            tree.loose += [picture for pictures in named.values() for picture in pictures]
            named = {}
        _refuse_unclear(folder, named, tree.loose)
        _say_left_out(folder, tree, bool(named))
        self.classes = ClassNames([path.name for path in named])
        self._items = [(picture, label) for label, pictures in enumerate(named.values()) for picture in pictures]
        if not named:
            self._items = [(picture, -1) for picture in tree.loose]

    def __len__(self) -> int:
        return len(self._items)

    def fingerprint(self) -> str:
        classes = [f"{label} {self.classes[label]}" if label >= 0 else "" for _, label in self._items]
        return fingerprint_of([path for path, _ in self._items], classes)

    def name(self, index: int) -> str:
        return str(self._items[index][0])

    def labels(self) -> np.ndarray:
        return np.array([label for _, label in self._items], np.int64)

    def content(self, index: int) -> bytes:
        return self._items[index][0].read_bytes()

    def read(self, index: int) -> tuple[Image.Image, int]:
        path, label = self._items[index]
        return open_picture(path), label


def split_folders(folder: Path) -> dict[str, list[Path]]:
    """The subfolders of each split, the best name first: only if all that hold anything are splits, since a class may
    be called "train". Names may share more than the split's own word (``seg_train`` beside ``seg_test``)."""
    filled = [path for path in _subfolders(folder) if _holds_files(path)]
    splits = [_split_of(path.name) for path in filled]
    if not filled or any(split is None for split in splits) or len({split[1] for split in splits if split}) > 1:
        return {}
    words = {path: split[0] for path, split in zip(filled, splits, strict=True) if split is not None}
    found = {
        split: sorted((path for path in filled if words[path] in aliases), key=lambda path: aliases.index(words[path]))
        for split, aliases in SPLITS.items()
    }
    return found if any(found.values()) else {}


def split_folder(folder: Path, split: str) -> Path:
    """The subfolder of a split, or of the other one, if a folder is divided so; else the folder itself."""
    folder = _descended(folder)
    folders = split_folders(folder)
    if not folders:
        return folder
    chosen = (folders[split] or folders["train"] or folders["validation"])[0]
    used = [paths[0] for paths in folders.values() if paths]
    unused = [path.name for path in _subfolders(folder) if path not in used and _holds_files(path)]
    if unused:
        say_once(
            f"--data: {folder} is divided into {', '.join(path.name for path in used)}; not used: {', '.join(unused)}"
        )
    return _descended(chosen, is_split=True)


def folder_has_split(folder: Path, split: str) -> bool:
    """Whether a folder keeps some images apart under the name of a split."""
    return bool(split_folders(_descended(folder)).get(split))


def _split_of(name: str) -> tuple[str, str] | None:
    """The word that names a split, and what is left of the name without it; None where there is no such word."""
    words = re.split(r"[\s_.\-]+", name.casefold())
    every = [alias for aliases in SPLITS.values() for alias in aliases]
    chosen = [word for word in words if word in every or word in _UNUSED_SPLITS]
    return (chosen[0], " ".join(word for word in words if word != chosen[0])) if len(chosen) == 1 else None


def _subfolders(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if not is_hidden(path.name) and path.is_dir() and not _is_model(path)
    )


def _is_model(folder: Path) -> bool:
    """Whether a folder is a model's: its previews are no photographs."""
    is_begun = (folder / "runs" / "config.yaml").is_file()
    return is_begun or ((folder / "config.json").is_file() and any(folder.glob("*.safetensors")))


def _descended(folder: Path, is_split: bool = False) -> Path:
    """The folder that is meant: where there is nothing but a lone folder, that one, unless it is a class; or a split,
    except within a split."""
    while True:
        inside = _subfolders(folder)
        files = [path.name for path in folder.iterdir() if path.is_file() and not is_hidden(path.name)]
        filled = [path for path in inside if _holds_files(path)]
        if len(filled) != 1 or any(is_picture(name) or name.endswith((".parquet", ".tar")) for name in files):
            return folder
        (lone,) = filled
        has_pictures = any(is_picture(path.name) and not is_hidden(path.name) for path in lone.iterdir())
        names_split = _split_of(lone.name) is not None
        if names_split and not is_split:
            return folder
        if has_pictures and not names_split and lone.name.casefold() not in _NO_CLASS:
            return folder
        folder = lone


def _walk(folder: Path) -> Iterator[Path]:
    """Every file at any depth that is not hidden, in the order of the names, without those of models."""
    # Links to folders are not followed: they may lead round in circles.
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_hidden(name) and not _is_model(Path(place, name))]
        yield from (Path(place, name) for name in files if not is_hidden(name))


def _holds_files(folder: Path) -> bool:
    return next(_walk(folder), None) is not None


def _tree(folder: Path, generated: bool) -> _Tree:
    tree = _Tree()

    def add(files: Iterator[Path], pictures: list[Path]) -> None:
        for path in files:
            if not is_picture(path.name):
                tree.kinds[path.suffix.lower() or "without a suffix"] += 1
            elif not generated and is_made_here(path):
                tree.made_here.append(path)
            else:
                pictures.append(path)
        pictures.sort()

    add((path for path in folder.iterdir() if path.is_file() and not is_hidden(path.name)), tree.loose)
    for subfolder in _subfolders(folder):
        add(_walk(subfolder), tree.inside.setdefault(subfolder, []))
    return tree


def _count(tree: _Tree) -> int:
    return len(tree.loose) + sum(len(pictures) for pictures in tree.inside.values())


def _refuse_unclear(folder: Path, named: dict[Path, list[Path]], loose: list[Path]) -> None:
    inside = sum(len(pictures) for pictures in named.values())
    for path in named:
        try:
            os.fsencode(path.name).decode("utf-8")
        except UnicodeDecodeError as error:
            shown = os.fsencode(path).decode("utf-8", "backslashreplace")
            raise DataError(f"--data: the name of the class folder {shown} is not UTF-8; rename it") from error
    twice = [name for name, count in Counter(ClassNames([path.name for path in named])).items() if count > 1]
    if twice:
        raise DataError(f"--data: two class folders in {folder} are called {twice[0]!r}; rename one")
    if named and len(loose) > inside:
        raise DataError(
            f"--data: {folder} holds {len(loose)} pictures beside {len(named)} folder(s) with only {inside}; move "
            "them into class folders, or set data.unlabelled to true to take all of them without classes"
        )


def _say_left_out(folder: Path, tree: _Tree, has_classes: bool) -> None:
    if has_classes and tree.loose:
        say_once(f"{folder}: {len(tree.loose)} pictures beside the class folders are left out")
    if tree.made_here:
        say_once(f"{folder}: {len(tree.made_here)} images that this package made are left out")
    if tree.kinds:
        kinds = ", ".join(f"{kind} {count}" for kind, count in tree.kinds.most_common(_SHOWN))
        say_once(f"{folder}: {tree.kinds.total()} files of other kinds are left out ({kinds})")
    empty = [path.name for path, pictures in tree.inside.items() if not pictures and _holds_files(path)]
    if empty:
        shown = ", ".join(empty[:_SHOWN]) + (", ..." if len(empty) > _SHOWN else "")
        say_once(f"{folder}: folders without pictures ({picture_kinds()}) are no classes: {shown}")
