"""The tokens of every image, computed once and memory-mapped: stage 2 never sees a pixel.

    tokens/SPLIT/cache.json    what it was made from and how, and the hashes of the arrays; written last, so a folder
                               without it is not a cache
                 LEVEL.npy     [variants, images, h * w], one for each level
                 labels.npy    [images], -1 without classes

It is made in pieces of some thousand images, each by whichever process's turn it is and put in place whole: after the
death of any process the finished ones stand, and the rest is made the next time. Then the pieces become the arrays.

    tokens/.SPLIT.tmp/made_from.json           what the pieces are of
                      piece-NNNNN.safetensors  LEVEL [variants, images, h, w], labels [images]

It is handed ``encode``: it knows no tokenizer.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import write_array_header_1_0
from PIL import Image
from safetensors import SafetensorError, safe_open
from torch import Tensor

from strait.data.config import DataConfig
from strait.data.images import BadFiles, in_order, training_view
from strait.data.sources import DataError, ImageSource
from strait.randomness import as_seed
from strait.runtime.files import flush, naming, sha256, write_tensors, write_text
from strait.runtime.ranks import ALONE, OtherProcessFailed, Ranks, Stopped
from strait.types import NULL_LABEL, Images, Tokens

_VARIANT = 3


class TokenCache:
    """A cache on disk, whose arrays are those that were written: opening it reads them all once.

    Attributes:
        levels: integer arrays ``[variants, images, length]``, mapped, coarse to fine.
        labels: int64 ``[images]``.
    """

    def __init__(self, folder: Path) -> None:
        try:
            self.made_from: dict[str, Any] = json.loads((folder / "cache.json").read_text())
            self.names: list[str] = self.made_from["levels"]
            shapes = self.made_from["shapes"]
            self.grids: list[tuple[int, int]] = [(height, width) for height, width in self.made_from["grids"]]
            lengths = [height * width for height, width in self.grids]
            self.levels = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in self.names]
            self.labels = torch.from_numpy(np.load(folder / "labels.npy").astype(np.int64))
            changed = [
                name for name in (*self.names, "labels") if _hash(folder, name) != self.made_from["sha256"][name]
            ]
        except Exception as error:  # what a damaged header can raise inside numpy has no end: TokenError, ...
            raise DataError(
                f"{folder} is not a token cache: {str(error) or type(error).__name__}; delete it and it is made again"
            ) from error
        found = [list(level.shape) for level in self.levels]
        if (
            found != shapes
            or {level.shape[:-1] for level in self.levels} != {(self.variants, len(self))}
            or [level.shape[-1] for level in self.levels] != lengths
        ):
            raise DataError(f"{folder} is damaged (its arrays have other shapes); delete it and it is made again")
        if changed:
            raise DataError(
                f"{folder} is damaged (the hash of {changed[0]}.npy differs); delete it and it is made again"
            )
        self.folder = folder

    def require(self, grids: Sequence[tuple[int, int]], codebook_sizes: Sequence[int], classes: int) -> None:
        """Refuse tokens and labels that a model does not have.

        Args:
            grids: of the model's levels, coarse to fine; there may be more of them.
            codebook_sizes: of these levels.
            classes: of the model.

        Raises:
            DataError: naming what does not fit.
        """
        faults = []
        for name, grid, level, fits, size in zip(
            self.names, self.grids, self.levels, grids, codebook_sizes, strict=False
        ):
            if grid != tuple(fits):
                faults.append(f"the {name} has a grid of {grid} instead of {tuple(fits)}")
            elif level.size and int(level.max()) >= size:
                faults.append(f"the {name} holds the token {int(level.max())} of {size}")
        strange = self.labels[(self.labels < NULL_LABEL) | (self.labels >= classes)]
        if len(strange):
            faults.append(f"it holds the label {int(strange[0])}, and there are {classes} classes")
        if faults:
            raise DataError(f"{self.folder} is not this model's ({faults[0]}); delete it and it is made again")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def variants(self) -> int:
        return self.levels[0].shape[0]

    def read(self, variants: np.ndarray, images: np.ndarray) -> tuple[list[Tensor], Tensor]:
        """Some entries: a list of int64 ``[count, length]``, one a level, and labels int64 ``[count]``."""
        rows = [torch.from_numpy(level[variants, images].astype(np.int64)) for level in self.levels]
        return rows, self.labels[torch.from_numpy(images)]


@dataclass(frozen=True)
class _Job:
    """What every piece is made with."""

    source: ImageSource
    encode: Callable[[Images], Tokens]
    image_size: int
    config: DataConfig
    device: torch.device
    bad_files: BadFiles
    names: Sequence[str]
    batch_size: int
    progress: Callable[[int], object]

    def make(self, path: Path, indices: list[int]) -> None:
        """Encode some images and put their piece in place."""
        variants: list[list[tuple[np.ndarray, ...]]] = [[] for _ in range(self.config.cache_variants)]
        labels: list[int] = []
        for start in range(0, len(indices), self.batch_size):
            some = indices[start : start + self.batch_size]
            for variant, pieces in enumerate(variants):
                # Each draw reads its picture again: that costs little beside encoding, and only one lies in memory.
                batch = next(
                    in_order(self.source, self.image_size, self.batch_size, some, partial(self._cut, variant))
                )
                self.bad_files.note(batch.bad)
                if not len(batch.indices):
                    break
                tokens = self.encode(batch.images(self.device))
                pieces.append(tuple(level.cpu().numpy().astype(np.uint16) for level in tokens.levels))
                self.progress(len(batch.indices))
                if variant == 0:
                    labels += batch.labels.tolist()
        arrays = {"labels": np.array(labels, dtype=np.int32)}
        for number, name in enumerate(self.names if labels else ()):
            arrays[name] = np.stack([np.concatenate([part[number] for part in pieces]) for pieces in variants])
        write_tensors(path, {name: torch.from_numpy(values) for name, values in arrays.items()})

    def _cut(self, variant: int, picture: Image.Image, index: int) -> np.ndarray:
        return training_view(picture, self.image_size, self.config, as_seed(_VARIANT, index, variant))


def build_token_cache(
    folder: Path,
    source: ImageSource,
    encode: Callable[[Images], Tokens],
    image_size: int,
    config: DataConfig,
    made_from: dict[str, Any],
    device: torch.device,
    bad_files: BadFiles,
    names: Sequence[str],
    limit: int | None = None,
    batch_size: int = 64,
    progress: Callable[[int], object] = lambda count: None,
    ranks: Ranks = ALONE,
    piece_images: int = 4096,
) -> TokenCache:
    """Make the cache, or open the one that was made from the same data, tokenizer and settings.

    Args:
        folder: of the cache.
        source: the images.
        encode: images on ``device`` -> tokens.
        image_size: side in pixels.
        config: ``cache_variants`` versions of each image, each a draw of its own: cropped, flipped and shifted.
        made_from: what the cache depends on beside these, such as the tokenizer's hash; compared and stored.
        device: where ``encode`` wants its images.
        bad_files: told about damaged files, which are left out.
        names: of the levels that ``encode`` gives, coarse to fine.
        limit: take only this many images, evenly spread.
        batch_size: images encoded at once.
        progress: called with the number of images after each batch, and for pieces that are there already.
        ranks: the processes that share the work; all call this.
        piece_images: images of a piece.

    Raises:
        DataError: if no image can be read.
        OSError: if a piece cannot be written, here or on another process.
        Stopped: if ``progress`` raised it, here or on another process.
    """
    count = len(source) if limit is None else min(limit, len(source))
    indices = [index * len(source) // count for index in range(count)]
    wanted = {
        **made_from,
        "source": ranks.on_first(source.fingerprint),
        "source_images": len(source),
        "taken": count,
        "variants": config.cache_variants,
        "flip": config.flip,
        "shift": config.shift,
        "smallest_crop": config.smallest_crop,
        "image_size": image_size,
    }
    if (folder / "cache.json").exists() and not _is_unhashed(folder):
        cache = TokenCache(folder)
        # Caches from before random crops do not name them, and hold centre squares.
        if all({"smallest_crop": 1.0, **cache.made_from}.get(name) == value for name, value in wanted.items()):
            return cache
    aside = folder.with_name(f".{folder.name}.tmp")
    ranks.on_first(lambda: _begin(aside, {**wanted, "levels": list(names), "piece_images": piece_images}))
    job = _Job(source, encode, image_size, config, device, bad_files, names, batch_size, progress)
    starts = range(0, count, piece_images)
    paths = [aside / f"piece-{number:05d}.safetensors" for number in range(len(starts))]
    failure: BaseException | None = None
    try:
        for path, start in list(zip(paths, starts, strict=True))[ranks.rank :: ranks.size]:
            of_piece = indices[start : start + piece_images]
            if _is_whole(path):
                progress(len(of_piece) * config.cache_variants)
            else:
                job.make(path, of_piece)
    except BaseException as error:
        failure = error
    stopped = failure if isinstance(failure, Stopped) else None
    number = 0 if stopped is None else stopped.signal_number
    number, any_stopped, any_failed = ranks.largest(
        [number, stopped is not None, failure is not None and stopped is None]
    )
    if failure is not None and stopped is None:
        raise failure
    if any_failed:
        raise OtherProcessFailed(f"{folder}: another process could not finish its part of the tokens")
    if any_stopped:
        raise Stopped(number)
    ranks.on_first(lambda: _put_together(folder, aside, paths, wanted, list(names), count))
    return TokenCache(folder)


def _hash(folder: Path, name: str) -> str:
    return sha256(folder / f"{name}.npy")


def _is_unhashed(folder: Path) -> bool:
    """Whether a cache is of the time before its arrays were hashed: it is made again."""
    try:
        about = json.loads((folder / "cache.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(about, dict) and "shapes" in about and "sha256" not in about


def _begin(aside: Path, made_from: dict[str, Any]) -> None:
    """Keep what was left of the same cache, and nothing else."""
    note = aside / "made_from.json"
    try:
        if json.loads(note.read_text()) == json.loads(json.dumps(made_from)):
            return
    except (OSError, ValueError):
        pass
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    write_text(note, json.dumps(made_from))


def _is_whole(path: Path) -> bool:
    try:
        with safe_open(str(path), framework="numpy") as file:
            return "labels" in file.keys()  # noqa: SIM118
    except (OSError, SafetensorError):
        return False


def _put_together(
    folder: Path, aside: Path, paths: list[Path], wanted: dict[str, Any], names: list[str], count: int
) -> None:
    """From pieces to the arrays, in the images' order."""
    labels = np.concatenate([_read(path, "labels") for path in paths])
    good = len(labels)
    if not good:
        raise DataError(f"--data: none of the {count} images can be read")
    whole = aside / "whole"
    shutil.rmtree(whole, ignore_errors=True)
    whole.mkdir()
    grids, shapes = [], []
    for name in names:
        grid, shape = _write_level(whole / f"{name}.npy", name, paths, good)
        grids.append(grid)
        shapes.append(shape)
    with naming(whole / "labels.npy"):
        np.save(whole / "labels.npy", labels)
        flush(whole / "labels.npy")
    hashes = {name: _hash(whole, name) for name in (*names, "labels")}
    description = {**wanted, "levels": names, "grids": grids, "shapes": shapes, "sha256": hashes}
    write_text(whole / "cache.json", json.dumps(description, indent=1))
    flush(whole)
    shutil.rmtree(folder, ignore_errors=True)
    whole.replace(folder)
    flush(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _write_level(target: Path, name: str, paths: list[Path], good: int) -> tuple[tuple[int, int], list[int]]:
    """The array of one level; its grid and its shape. Written, not mapped: a full disk kills who maps a file."""
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
