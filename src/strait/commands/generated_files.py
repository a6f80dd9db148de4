"""Write generated images: a PNG each with its settings, and a contact sheet."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from strait.commands.class_names_in_files import class_slugs
from strait.decoding.adaptive import PassCount
from strait.decoding.config import DecodingConfig
from strait.model.strait import StraIT
from strait.pictures.images import to_pictures
from strait.pictures.recipe import png_bytes, recipe
from strait.pictures.sheets import contact_sheet
from strait.runtime.files import write_new
from strait.types import NULL_LABEL, DecodingStep, Images, Tokens


@dataclass(frozen=True)
class Request:
    """A request for images.

    Args:
        labels: names, WordNet ids or indices; None draws classes from the seed.
        count: images per label, or in total without labels.
        seed: image k of a label does not depend on the count or on other labels.
        decoding: steps, temperature, guidance.
        batch_size: images decoded at once; None for as many as fit into memory, at most 64.
        size: (height, width) in pixels; None for the model's.
    """

    labels: Sequence[str | int] | None
    count: int
    seed: int
    decoding: DecodingConfig
    batch_size: int | None = None
    size: tuple[int, int] | None = None


def generate_files(
    model: StraIT, request: Request, output: Path | None, grid: Path | None, overwrite: bool
) -> Iterator[Path]:
    """Generate images and write them; yields each file once it is written.

    Raises:
        ValueError: for an unknown label, or a size that the model does not have.
        ModelError: if a part of the model is missing.
        FileExistsError: if a file exists with different content, unless ``overwrite`` is set.
    """
    model.require("tokenizer", "top", "bottom")
    if len(request.decoding.steps) > model.config.tokenizer.num_levels:
        model.require("upsampler")
    if request.labels is None:
        numbers = model.labels(None, request.count, request.seed)
        indices = list(range(request.count))
    else:
        numbers = [label for label in model.labels(request.labels, 0, request.seed) for _ in range(request.count)]
        indices = list(range(request.count)) * len(request.labels)
    labels, positions = torch.tensor(numbers, dtype=torch.int64), torch.tensor(indices, dtype=torch.int64)
    squares = 1 if request.size is None else _count_windows(model, request.size)
    digest, slugs = model.weights_hash(), class_slugs(model.classes)
    batches: list[Images] = []
    limit = None if request.batch_size is None else min(request.batch_size, len(labels))
    size = model.batch_size(limit, request.decoding)
    if request.batch_size is None:
        size = max(1, size // squares)  # the pixels of larger images need more memory
    steps, passes = sum(request.decoding.passes) * squares * -(-len(labels) // size), list[list[int]]()
    with tqdm(total=steps, desc="generating", unit="step", file=sys.stderr, dynamic_ncols=True, delay=2) as bar:
        for batch_labels, batch_indices in zip(labels.split(size), positions.split(size), strict=True):
            images, counts = _decode_batch(model, batch_labels, batch_indices, request, bar)
            passes += counts
            if grid is not None:
                batches.append(images.cpu())
            if output is None:
                continue
            rows = zip(to_pictures(images), batch_labels.tolist(), batch_indices.tolist(), counts, strict=True)
            for picture, label, index, count in rows:
                settings = _settings(model, request, label, index, digest)
                if request.decoding.quality < 1:
                    settings["passes"] = count
                path = (
                    output / f"{'image' if label == NULL_LABEL else slugs[label]}-seed{request.seed}-{index:04d}.png"
                )
                write_new(path, png_bytes(picture, settings), overwrite)
                yield path
    if request.decoding.quality < 1:
        means = "+".join(f"{sum(level) / len(passes):.1f}" for level in zip(*passes, strict=True))
        drawn = request.decoding.first(len(passes[0]))  # windows are drawn without an upsampler
        most = "+".join(str(count * squares) for count in drawn.passes)
        print(f"forward passes an image: {means} on average, of at most {most}", file=sys.stderr)
    if grid is not None:
        titled = request.labels is not None
        columns = request.count if titled else min(8, len(labels))
        titles = [model.classes.title(label) for label in numbers[:: request.count]] if titled else []
        sheet = contact_sheet(torch.cat(batches), columns, titles)
        write_new(grid, png_bytes(sheet, _settings(model, request, None, None, digest)), overwrite)
        yield grid


def _decode_batch(
    model: StraIT, labels: Tensor, indices: Tensor, request: Request, bar: tqdm
) -> tuple[Images, list[list[int]]]:
    """The images, and the forward passes that each took at each level."""
    grids, count, ahead = dict[str, Tensor](), PassCount(), 0
    planned = dict(zip(model.config.level_names, request.decoding.passes, strict=False))
    bar.total = bar.total or 0

    def watch(step: DecodingStep) -> None:
        nonlocal ahead
        grids[step.level] = step.canvas.as_grid()
        count(step)
        if step.index == 0:
            bar.total = (bar.total or 0) + step.num_steps - planned[step.level]  # fewer where a level has fewer tokens
            ahead += step.num_steps
        ahead -= 1
        bar.update()

    if request.size is None:
        for step in model.decoding_steps(labels, request.seed, indices, request.decoding):
            watch(step)
        images = model.decode(Tokens(tuple(grids.values())))
    else:
        from strait.editing.extension import generate_sized

        images = generate_sized(model, labels, request.size, request.seed, indices, request.decoding, watch)
    bar.total -= ahead  # fewer where the pace adapts
    return images, count.rows()


def _count_windows(model: StraIT, size: tuple[int, int]) -> int:
    """The number of windows in which an image of a size is drawn."""
    from strait.editing.extension import blank_tokens, windows

    known = torch.zeros(blank_tokens(model, size, 1).levels[0].shape[1:], dtype=torch.bool)
    return sum(1 for _ in windows(known, model.config.grids[0]))


def _settings(model: StraIT, request: Request, label: int | None, index: int | None, digest: str) -> dict[str, Any]:
    fields: dict[str, Any]
    if label is None:
        names = None if request.labels is None else [str(name) for name in request.labels]
        fields = {"labels": names, "count": request.count}
    else:
        fields = {"label": None if label == NULL_LABEL else model.classes[label], "index": index}
    if request.size is not None:
        fields["size"] = list(request.size[::-1])
    return recipe(digest, request.seed, dataclasses.asdict(request.decoding), **fields)
