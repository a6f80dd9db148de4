"""Encode photographs into a token cache.

Processes take turns to encode pieces of a few thousand images, each written atomically: after a crash the finished
pieces are kept and the next run encodes the rest. The pieces are then assembled into the arrays of ``token_cache``.

    tokens/.SPLIT.tmp/made_from.json           the description that the pieces belong to
                      piece-NNNNN.safetensors  LEVEL [variants, images, h, w], labels [images]

The tokenizer is passed in as ``encode``.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial, reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import write_array_header_1_0
from PIL import Image
from safetensors import SafetensorError, safe_open

from strait.data.config import DataConfig
from strait.data.images import ImageBatch, in_order, training_view
from strait.data.job import Job
from strait.data.sources import DataError, ImageSource
from strait.data.token_cache import TokenCache, array_hash
from strait.data.workers import batches_ahead, default_workers
from strait.randomness import as_seed
from strait.runtime.files import flush, naming, write_tensors, write_text
from strait.runtime.ranks import Stopped
from strait.types import Images, Tokens

_VARIANT = 3


@dataclass(frozen=True)
class Views:
    """The variants of a source's images, without the encoder: worker processes read them.

    Args:
        source: the images.
        image_size: side in pixels.
        config: how variants are cropped, flipped and shifted.
    """

    source: ImageSource
    image_size: int
    config: DataConfig

    def read(self, indices: Sequence[int], variant: int) -> ImageBatch:
        """One variant of the images at ``indices``, as a batch."""

        def cut(picture: Image.Image, index: int) -> np.ndarray:
            return training_view(picture, self.image_size, self.config, as_seed(_VARIANT, index, variant))

        return next(in_order(self.source, self.image_size, len(indices), indices, cut))


@dataclass(frozen=True)
class Encoding:
    """The inputs that determine a token cache.

    Args:
        source: the images.
        encode: images on the job's device -> tokens.
        names: of the levels that ``encode`` returns, coarse to fine.
        image_size: side in pixels.
        config: number of variants of each image, and how they are cropped, flipped and shifted.
        made_from: further inputs, such as the tokenizer's hash; compared and stored.
        limit: encode only this many images, evenly spaced.
    """

    source: ImageSource
    encode: Callable[[Images], Tokens]
    names: Sequence[str]
    image_size: int
    config: DataConfig
    made_from: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None

    @property
    def count(self) -> int:
        """Number of images to encode."""
        return len(self.source) if self.limit is None else min(self.limit, len(self.source))

    @cached_property
    def indices(self) -> list[int]:
        """Indices in the source of the images to encode."""
        return [index * len(self.source) // self.count for index in range(self.count)]

    def description(self) -> dict[str, Any]:
        """The values that identify the cache: an existing one is reused only if all are equal."""
        return {
            **self.made_from,
            "source": self.source.fingerprint(),
            "source_images": len(self.source),
            "taken": self.count,
            "variants": self.config.cache_variants,
            "flip": self.config.flip,
            "shift": self.config.shift,
            "smallest_crop": self.config.smallest_crop,
            "image_size": self.image_size,
        }

    @property
    def views(self) -> Views:
        """The pixels to encode."""
        return Views(self.source, self.image_size, self.config)


def build_token_cache(
    folder: Path,
    encoding: Encoding,
    job: Job,
    progress: Callable[[int], object] = lambda count: None,
    batch_size: int = 64,
    piece_images: int = 4096,
) -> TokenCache:
    """Build a token cache, or open an existing one built from the same data, tokenizer and settings.

    Args:
        folder: of the cache.
        encoding: the inputs of the cache.
        job: processes that share the work (each must call this); its stop request is checked after each batch.
        progress: called with a number of images after each batch, and for each piece that already exists.
        batch_size: images encoded at once.
        piece_images: images in a piece.

    Raises:
        DataError: if no image can be read.
        OSError: if this or another process cannot write a piece.
        Stopped: if the job was stopped first; finished pieces are kept.
    """
    description = job.ranks.on_first(encoding.description)
    cache = _existing(folder, description)
    if cache is not None:
        return cache
    pieces = _Pieces(folder.with_name(f".{folder.name}.tmp"), encoding, batch_size, piece_images)
    job.ranks.on_first(lambda: pieces.begin(description))
    job.ranks.each(lambda: pieces.encode(job, progress), "the tokens")
    job.ranks.on_first(lambda: pieces.assemble(folder, description))
    return TokenCache(folder)


def _existing(folder: Path, description: dict[str, Any]) -> TokenCache | None:
    """The cache in a folder if it has this description.

    Raises:
        DataError: if it is damaged.
    """
    if not (folder / "cache.json").exists() or _is_unhashed(folder):
        return None
    cache = TokenCache(folder)
    # Caches older than random crops hold centre squares and have no smallest_crop.
    stored = {"smallest_crop": 1.0, **cache.made_from}
    return cache if all(stored.get(name) == value for name, value in description.items()) else None


def _is_unhashed(folder: Path) -> bool:
    """Whether a cache is older than the hashes of arrays; it is then built again."""
    try:
        content = json.loads((folder / "cache.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and "shapes" in content and "sha256" not in content


@dataclass(frozen=True)
class _Cut:
    """One variant of a few images: those that could be read, and their tokens of each level."""

    indices: np.ndarray
    labels: np.ndarray
    levels: tuple[np.ndarray, ...]


def _in_all(cuts: Sequence[_Cut]) -> list[_Cut]:
    """The images that could be read for every variant, so that row k of each variant is the same image; a disk or a
    hub can fail for one of them. Empty if there are none."""
    common = reduce(np.intersect1d, (cut.indices for cut in cuts))
    if not len(common):
        return []
    rows = [np.isin(cut.indices, common) for cut in cuts]
    return [
        _Cut(cut.indices[kept], cut.labels[kept], tuple(level[kept] for level in cut.levels))
        for cut, kept in zip(cuts, rows, strict=True)
    ]


@dataclass(frozen=True)
class _Pieces:
    """A folder of encoded pieces of an unfinished cache."""

    folder: Path
    encoding: Encoding
    batch_size: int
    piece_images: int

    @property
    def paths(self) -> list[Path]:
        count = -(-self.encoding.count // self.piece_images)
        return [self.folder / f"piece-{number:05d}.safetensors" for number in range(count)]

    def begin(self, description: dict[str, Any]) -> None:
        """Keep existing pieces if they belong to the same cache; otherwise start with an empty folder."""
        content = {**description, "levels": list(self.encoding.names), "piece_images": self.piece_images}
        note = self.folder / "made_from.json"
        try:
            if json.loads(note.read_text()) == json.loads(json.dumps(content)):
                return
        except (OSError, ValueError):
            pass
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        write_text(note, json.dumps(content))

    def encode(self, job: Job, progress: Callable[[int], object]) -> None:
        """Encode this process's missing pieces."""
        for number, path in job.ranks.turns(list(enumerate(self.paths))):
            start = number * self.piece_images
            indices = self.encoding.indices[start : start + self.piece_images]
            if _is_whole(path):
                progress(len(indices) * self.encoding.config.cache_variants)
            else:
                arrays = self._piece(indices, job, progress)
                write_tensors(path, {name: torch.from_numpy(array) for name, array in arrays.items()})

    def _piece(self, indices: list[int], job: Job, progress: Callable[[int], object]) -> dict[str, np.ndarray]:
        """The arrays of the piece with these images."""
        variants = range(self.encoding.config.cache_variants)
        labels: list[int] = []
        tokens: list[list[tuple[np.ndarray, ...]]] = [[] for _ in variants]
        cuts: list[_Cut] = []
        # Each variant reads its picture again: cheap beside encoding, and few batches are held in memory.
        parts = [indices[start : start + self.batch_size] for start in range(0, len(indices), self.batch_size)]
        reads = [(part, variant) for part in parts for variant in variants]
        calls = [partial(self.encoding.views.read, part, variant) for part, variant in reads]
        streaming = self.encoding.config.streaming  # each worker would fetch every block
        workers = 0 if streaming else default_workers(self.encoding.config, job.device, os.cpu_count() or 1)
        for (_, variant), batch in zip(reads, batches_ahead(calls, workers), strict=True):
            job.bad_files.note(batch.bad)
            levels: tuple[np.ndarray, ...] = ()
            if len(batch.indices):
                encoded = self.encoding.encode(batch.images(job.device)).levels
                levels = tuple(level.cpu().numpy().astype(np.uint16) for level in encoded)
                progress(len(batch.indices))
                if job.stop.wanted():
                    raise Stopped(job.stop.signal_number or 0)
            cuts.append(_Cut(batch.indices.numpy(), batch.labels.numpy(), levels))
            if variant < len(variants) - 1:
                continue
            cuts, whole = [], _in_all(cuts)
            for place, cut in enumerate(whole):
                tokens[place].append(cut.levels)
            labels += whole[0].labels.tolist() if whole else []
        arrays = {"labels": np.array(labels, dtype=np.int32)}
        for level, name in enumerate(self.encoding.names if labels else ()):
            arrays[name] = np.stack([np.concatenate([batch[level] for batch in batches]) for batches in tokens])
        return arrays

    def assemble(self, folder: Path, description: dict[str, Any]) -> None:
        """Write the arrays of the cache from the pieces, in the order of the images."""
        paths, names = self.paths, list(self.encoding.names)
        labels = np.concatenate([_read(path, "labels") for path in paths])
        if not len(labels):
            raise DataError(f"--data: none of the {self.encoding.count} images can be read")
        whole = self.folder / "whole"
        shutil.rmtree(whole, ignore_errors=True)
        whole.mkdir()
        grids, shapes = [], []
        for name in names:
            grid, shape = _write_level(whole / f"{name}.npy", name, paths, len(labels))
            grids.append(grid)
            shapes.append(shape)
        with naming(whole / "labels.npy"):
            np.save(whole / "labels.npy", labels)
            flush(whole / "labels.npy")
        hashes = {name: array_hash(whole, name) for name in (*names, "labels")}
        content = {**description, "levels": names, "grids": grids, "shapes": shapes, "sha256": hashes}
        write_text(whole / "cache.json", json.dumps(content, indent=1))
        flush(whole)
        # If the process is killed between these two, the pieces still exist and the cache is assembled again.
        shutil.rmtree(folder, ignore_errors=True)
        whole.replace(folder)
        flush(folder.parent)
        shutil.rmtree(self.folder, ignore_errors=True)


def _is_whole(path: Path) -> bool:
    try:
        with safe_open(str(path), framework="numpy") as file:
            return "labels" in file.keys()  # noqa: SIM118
    except (OSError, SafetensorError):
        return False


def _write_level(target: Path, name: str, paths: list[Path], good: int) -> tuple[tuple[int, int], list[int]]:
    """Write the array of one level; returns its grid and shape. Not memory-mapped: on a full disk that is a crash."""
    grid, shape, start, begin = (0, 0), [], 0, 0
    with naming(target), target.open("wb") as file:
        for path in paths:
            if not len(_read(path, "labels")):
                continue
            part = _read(path, name)
            variants, images, height, width = part.shape
            if not shape:
                grid, shape = (height, width), [variants, good, height * width]
                head = {"descr": np.dtype(np.uint16).str, "fortran_order": False, "shape": tuple(shape)}
                write_array_header_1_0(file, head)
                begin = file.tell()
            for variant in range(variants):
                file.seek(begin + (variant * good + start) * height * width * part.itemsize)
                file.write(part[variant].tobytes())
            start += images
        file.flush()
        os.fsync(file.fileno())
    return grid, shape


def _read(path: Path, name: str) -> np.ndarray:
    with safe_open(str(path), framework="numpy") as file:
        return file.get_tensor(name)
