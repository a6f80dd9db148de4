"""What lies in a folder: its pictures by the subfolder in which they lie, and what is passed over."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from strait.data.errors import DataError
from strait.data.rows import is_hidden, is_picture
from strait.pictures.recipe import is_made_here
from strait.runtime.messages import say_once


@dataclass
class Tree:
    """The pictures of a folder by the subfolder in which they lie, and what else there is.

    Attributes:
        loose: pictures directly in it.
        inside: of each subfolder, at any depth.
        kinds: of the files that were left out, how many of each suffix.
        made_here: images that this package made.
        odd: what else is passed over, how many of each.
    """

    loose: list[Path] = field(default_factory=list)
    inside: dict[Path, list[Path]] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    made_here: list[Path] = field(default_factory=list)
    odd: Counter[str] = field(default_factory=Counter)

    def flatten(self) -> None:
        """Let subfolders mean nothing."""
        self.loose += [picture for pictures in self.inside.values() for picture in pictures]
        self.inside = {path: [] for path in self.inside}


def tree_of(folder: Path, generated: bool) -> Tree:
    """All that lies in a folder; with ``generated`` images that this package made are pictures, too."""
    tree = Tree()

    def add(files: Iterator[Path], pictures: list[Path]) -> None:
        for path in files:
            if not is_picture(path.name):
                tree.kinds[path.suffix.lower() or "without a suffix"] += 1
            elif not generated and is_made_here(path):
                tree.made_here.append(path)
            else:
                pictures.append(path)
        pictures.sort()

    here = (path for path in folder.iterdir() if not is_hidden(path.name) and not path.is_dir())
    add((path for path in here if _is_file(path, tree.odd)), tree.loose)
    for subfolder in subfolders(folder):
        add(_walk(subfolder, tree.odd), tree.inside.setdefault(subfolder, []))
    return tree


def subfolders(folder: Path) -> list[Path]:
    """Those that may hold photographs, in the order of their names."""
    folders = [path for path in folder.iterdir() if not is_hidden(path.name) and path.is_dir() and not _is_model(path)]
    # A link that leads back would show every picture once more, as a class of its own.
    back = [path for path in folders if path.is_symlink() and folder.resolve().is_relative_to(path.resolve())]
    for path in back:
        say_once(f"--data: {path} is a link that leads back to what holds it; it is left out")
    return sorted(path for path in folders if path not in back)


def _is_model(folder: Path) -> bool:
    """Whether a folder is a model's: its previews are no photographs."""
    try:
        is_begun = (folder / "runs" / "config.yaml").is_file()
        return is_begun or ((folder / "config.json").is_file() and any(folder.glob("*.safetensors")))
    except PermissionError:  # whoever looks into it says so
        return False


def _walk(folder: Path, odd: Counter[str] | None = None) -> Iterator[Path]:
    """Every file at any depth that is not hidden, in the order of the names, without those of models. What is passed
    over is counted in ``odd``.

    Raises:
        DataError: if a folder cannot be read: its pictures would be missing without a word.
    """

    def refuse(error: OSError) -> None:
        raise DataError(
            f"--data: {error.filename} cannot be read ({error.strerror}); give yourself the right to, or move it away"
        ) from error

    counts: Counter[str] = Counter() if odd is None else odd
    for place, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not is_hidden(name) and not _is_model(Path(place, name))]
        # They may lead round in circles, and are not followed.
        counts["links to folders within folders"] += sum(Path(place, name).is_symlink() for name in folders)
        yield from (Path(place, name) for name in files if not is_hidden(name) and _is_file(Path(place, name), counts))


def _is_file(path: Path, odd: Counter[str]) -> bool:
    """Whether something is a file: whoever opens a pipe waits for ever."""
    if path.is_file():
        return True
    odd["links that lead nowhere" if path.is_symlink() else "pipes, sockets and devices"] += 1
    return False


def holds_files(folder: Path) -> bool:
    """Whether there is a file in a folder, at any depth."""
    return next(_walk(folder), None) is not None


def holds_pictures(folder: Path) -> bool:
    """Whether there is a picture in a folder, at any depth."""
    return any(is_picture(path.name) for path in _walk(folder))
