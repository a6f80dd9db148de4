"""What a folder of pictures means: which subfolders are splits, which are classes, and what is passed over.

    cats/1.jpg, dogs/2.jpg                class folders
    1.jpg, 2.jpg                          pictures alone: no classes
    train/cats/1.jpg, Val/cats/2.jpg      splits, by the usual names in any case; also seg_train beside seg_test
    flowers/cats/1.jpg                    a lone folder that was unpacked one level too deep: what lies in it counts

    00000/00000.png, 01000/01000.png  folders that only number the pictures (FFHQ, StyleGAN's tools): no classes
    1.jpg, 2.jpg, metadata.jsonl      classes that a file beside the pictures says

Hidden files and those of systems, model folders and images that this package made are no photographs.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from strait.data.classes import ClassNames
from strait.data.errors import DataError
from strait.data.fingerprint import fingerprint_of
from strait.data.labels_beside import labels_beside
from strait.data.rows import is_hidden, is_picture, numbered, picture_kinds
from strait.data.tree import Tree, holds_files, subfolders, tree_of
from strait.pictures.reading import open_picture
from strait.runtime.messages import say_once

SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "val", "valid", "test", "testing", "eval", "dev"),
}
_UNUSED_SPLITS = ("pred", "predict", "prediction", "unlabeled", "unlabelled", "extra")
_NO_CLASS = ("images", "image", "imgs", "img", "pictures", "photos", "photographs", "data", "dataset", "jpegimages")
"""A lone folder of this name holds pictures; it is no class."""
_SHOWN = 5
_TO_A_FOLDER = 1000
"""Pictures that FFHQ and StyleGAN's tools put into a numbered folder."""


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
        tree = tree_of(folder, generated)
        if not generated and not tree.loose and not any(tree.inside.values()) and tree.made_here:
            tree = tree_of(folder, generated=True)
            say_once(f"--data: all {_count(tree)} pictures in {folder} were made by this package; they are taken")
        holding = [path for path, pictures in tree.inside.items() if pictures]
        labels = None if unlabelled else _labels_of(folder, tree)
        if unlabelled or labels is not None or _only_number(tree.inside):
            if holding and labels is None and not unlabelled:
                say_once(
                    f"--data: the folders of {folder} only number the pictures ({holding[0].name}, ...): no classes"
                )
            tree.flatten()
        named = {path: pictures for path, pictures in tree.inside.items() if pictures}
        _refuse_unclear(folder, named, tree.loose)
        _say_left_out(folder, tree, holding, bool(named))
        names, numbers = [path.name for path in named], [-1] * len(tree.loose)
        if labels is not None:
            names, found = numbered([labels.get(picture) for picture in tree.loose], [], lambda n: str(tree.loose[n]))
            numbers = found.tolist()
        self.classes = ClassNames(names)
        self._items = [(picture, label) for label, pictures in enumerate(named.values()) for picture in pictures]
        if not named:
            self._items = list(zip(tree.loose, numbers, strict=True))

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
    filled = [path for path in subfolders(folder) if holds_files(path)]
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
    unused = [path.name for path in subfolders(folder) if path not in used and holds_files(path)]
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


def _descended(folder: Path, is_split: bool = False) -> Path:
    """The folder that is meant: where there is nothing but a lone folder, that one, unless it is a class; or a split,
    except within a split."""
    while True:
        inside = subfolders(folder)
        files = [path.name for path in folder.iterdir() if path.is_file() and not is_hidden(path.name)]
        filled = [path for path in inside if holds_files(path)]
        if len(filled) != 1 or any(is_picture(name) or name.lower().endswith((".parquet", ".tar")) for name in files):
            return folder
        (lone,) = filled
        has_pictures = any(is_picture(path.name) and not is_hidden(path.name) for path in lone.iterdir())
        names_split = _split_of(lone.name) is not None
        if names_split and not is_split:
            return folder
        if has_pictures and not names_split and lone.name.casefold() not in _NO_CLASS:
            return folder
        folder = lone


def _only_number(inside: dict[Path, list[Path]]) -> bool:
    """Whether folders only number the pictures: ``01000`` holds 01000.png to 01999.png, or ``00001`` does."""
    filled = {path.name: pictures for path, pictures in inside.items() if pictures}
    if not filled or not all(re.fullmatch(r"\d{4,}", name) for name in filled) or len(set(map(len, filled))) > 1:
        return False
    first, thousand = True, True
    for name, pictures in filled.items():
        for picture in pictures:
            digits = re.findall(r"\d+", picture.stem)
            start = int(digits[-1]) // _TO_A_FOLDER if digits else -1
            first, thousand = first and start * _TO_A_FOLDER == int(name), thousand and start == int(name)
    return first or thousand


def _labels_of(folder: Path, tree: Tree) -> dict[Path, Any] | None:
    """What a file beside the pictures says of their classes, by picture; None without any, or if it names others.
    It may lie in the folder above, beside those of the splits."""
    pictures = [*tree.loose, *(picture for found in tree.inside.values() for picture in found)]
    for place in (folder, folder.parent):
        beside = labels_beside(place)
        if beside is None:
            continue
        path, labels = beside
        found = {picture: labels.get(picture.relative_to(place).as_posix()) for picture in pictures}
        if any(label is not None for label in found.values()):
            without = sum(label is None for label in found.values())
            say_once(
                f"--data: classes are those that {path} says"
                + (f"; it names none for {without} of {len(found)} pictures" if without else "")
            )
            return found
        if place == folder and pictures:
            say_once(f"--data: {path} names none of the pictures in {folder}; it is left aside")
    return None


def _count(tree: Tree) -> int:
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


def _say_left_out(folder: Path, tree: Tree, holding: list[Path], has_classes: bool) -> None:
    if has_classes and tree.loose:
        say_once(f"{folder}: {len(tree.loose)} pictures beside the class folders are left out")
    if tree.made_here:
        say_once(f"{folder}: {len(tree.made_here)} images that this package made are left out")
    if tree.kinds:
        kinds = ", ".join(f"{kind} {count}" for kind, count in tree.kinds.most_common(_SHOWN))
        say_once(f"{folder}: {tree.kinds.total()} files of other kinds are left out ({kinds})")
    if tree.odd.total():
        counts = ", ".join(f"{count} {kind}" for kind, count in tree.odd.items() if count)
        say_once(f"{folder}: left out: {counts}")
    flat = [picture for picture in tree.loose if "\\" in picture.name]
    if flat:
        say_once(
            f"{folder}: {len(flat)} names hold backslashes, such as {flat[0].name}: a zip that was unpacked wrongly; "
            "unpack it with a newer unzip if those are folders"
        )
    empty = [path.name for path in tree.inside if path not in holding and holds_files(path)]
    if empty:
        shown = ", ".join(empty[:_SHOWN]) + (", ..." if len(empty) > _SHOWN else "")
        say_once(f"{folder}: folders without pictures ({picture_kinds()}) are no classes: {shown}")
