"""The pictures of a study: collected by class, and stored under names that do not reveal their method."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from strait.data.sources import FolderSource
from strait.pictures.reading import read_picture
from strait.pictures.recipe import recipe_in
from strait.randomness import permutation

_SCRAMBLE_STREAM = 41
_TILES = 8
UNCONDITIONAL = "image"
"""The class of images that were generated without a class."""


@dataclass(frozen=True)
class Method:
    """A method's name and its images by class, in the order of their names."""

    name: str
    images: dict[str, list[Path]]


def read_method(name: str, folder: Path) -> Method:
    """Read a folder of class folders, or the files of ``strait generate --output``.

    Raises:
        ValueError: if there are no images, a file is not an image, or its class is unknown.
    """
    if not folder.is_dir():
        raise ValueError(f"{name}: there is no folder {folder}")
    source, images = FolderSource(folder, generated=True), dict[str, list[Path]]()
    for index in range(len(source)):
        path = Path(source.name(index))
        try:
            picture, label = source.read(index)
            class_name = source.classes[label] if label >= 0 else recipe_in(picture)["label"]
            if not isinstance(class_name, str | None):
                raise TypeError(class_name)
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{name}: {path} is not an image, or damaged ({error})") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(
                f"{name}: the class of {path} is unknown; "
                "put images into a folder for each class, or generate them with strait generate --output"
            ) from error
        images.setdefault(class_name or UNCONDITIONAL, []).append(path)
    if not images:
        raise ValueError(f"{name}: {folder} has no images")
    return Method(name, images)


class PictureStore:
    """Copies of pictures as ``HASH.png`` without metadata: neither name nor content reveals the method."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[Path, str] = {}

    def add(self, path: Path) -> str:
        """Copy a file; returns its name in the store."""
        if path not in self._known:
            self._known[path] = self._write(_plain(path))
        return self._known[path]

    def add_scrambled(self, path: Path, seed: int) -> str:
        """Add a picture cut into 8x8 tiles in random order, which nobody takes for a photograph."""
        pixels = np.asarray(_plain(path))
        height, width = (max(_TILES, side - side % _TILES) for side in pixels.shape[:2])
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height)))
        rows, columns = height // _TILES, width // _TILES
        tiles = pixels.reshape(_TILES, rows, _TILES, columns, 3).swapaxes(1, 2).reshape(-1, rows, columns, 3)
        tiles = tiles[permutation(len(tiles), seed, _SCRAMBLE_STREAM).numpy()]
        mixed = tiles.reshape(_TILES, _TILES, rows, columns, 3).swapaxes(1, 2).reshape(height, width, 3)
        return self._write(Image.fromarray(mixed))

    def add_all(self, paths: Sequence[Path]) -> list[str]:
        return [self.add(path) for path in paths]

    def _write(self, picture: Image.Image) -> str:
        buffer = io.BytesIO()
        picture.save(buffer, format="PNG")
        name = hashlib.sha256(buffer.getvalue()).hexdigest()[:24] + ".png"
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(buffer.getvalue())
        return name


def _plain(path: Path) -> Image.Image:
    """The picture as every other command reads it."""
    return read_picture(path).rgb()
