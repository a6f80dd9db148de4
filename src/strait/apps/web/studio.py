"""What the page does with a model, without the page: generate step by step, edit, remember the process."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import queue
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from strait.apps.jobs import Action, EditOptions, Wanted, as_rows, edit_settings, edited, settings_inside
from strait.decoding.config import DecodingConfig
from strait.editing.edits import Edit
from strait.editing.process import Frame, frames
from strait.editing.process_pictures import heat_map, sureness
from strait.model.strait import StraIT
from strait.pictures.images import from_bytes, to_pictures
from strait.pictures.reading import Picture
from strait.pictures.recipe import png_bytes
from strait.pictures.sheets import contact_sheet
from strait.types import NULL_LABEL, DecodingStep, Images, Tokens

_SHOWN_SIDE = 512
"""Pixels that a sheet is enlarged to: browsers would blur small images in ways of their own."""


@dataclass(frozen=True)
class Step:
    """One step of a process as the page shows it.

    Attributes:
        text: which it is, and how many tokens are left.
        images: uint8 ``[images, side, side, 3]``.
        sure: float16 ``[images, h, w]`` in [0, 1], how sure the model was of each token.
    """

    text: str
    images: np.ndarray
    sure: np.ndarray


class _Stopped(Exception):
    """The one who asked for an edit does not want it any more."""


@dataclass
class Process:
    """The steps so far, and in the end the images with their settings."""

    steps: list[Step] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


class Studio:
    """A model at work for a page.

    Args:
        model: with its tokenizer, top and bottom.
        folder: in which finished pictures are put for the page.
    """

    def __init__(self, model: StraIT, folder: Path) -> None:
        self.model, self.folder, self.digest = model, folder, model.weights_hash()

    def generate(self, wanted: Sequence[Wanted]) -> Iterator[Process]:
        """Images step by step; the same process, grown by a step, each time."""
        process, grids = Process(), dict[str, Tensor]()
        lengths = self._lengths(wanted[0].decoding)
        for frame in frames(self.model, self._base_steps(wanted, grids, lengths), wanted[0].seed):
            process.steps.append(self._step(frame, len(process.steps), sum(lengths.values())))
            yield process
        with torch.inference_mode():
            pictures = to_pictures(self.model.decode(Tokens(tuple(grids.values()))))
        process.files = [
            self._write(picture, settings_inside(self.model, self.digest, one), "", one)
            for picture, one in zip(pictures, wanted, strict=True)
        ]
        yield process

    def _lengths(self, decoding: DecodingConfig) -> dict[str, int]:
        """Steps of each level that is shown, as far as they are known before it begins: never more than tokens."""
        config, base = self.model.config, self.model.config.tokenizer.num_levels
        return {
            name: min(steps, math.prod(grid))
            for name, steps, grid in zip(config.level_names[:base], decoding.steps, config.grids, strict=False)
        }

    def _base_steps(
        self, wanted: Sequence[Wanted], grids: dict[str, Tensor], lengths: dict[str, int]
    ) -> Iterator[DecodingStep]:
        """All steps are taken; those of an upsampler are no picture yet and stay unseen."""
        for step in self.model.decoding_steps(*as_rows(wanted)):
            grids[step.level] = step.canvas.as_grid()
            if step.level in lengths:
                lengths[step.level] = step.num_steps
                yield step

    def _step(self, frame: Frame, number: int, total: int) -> Step:
        codes = self.model.config.level_codebook_sizes[self.model.config.level_names.index(frame.level)]
        left, tokens = int(frame.masked[0].sum()), frame.masked[0].numel()
        return Step(
            f"step {number + 1} of {total}: {frame.level} {frame.index + 1}, {tokens - left} of {tokens} tokens kept",
            np.stack([np.asarray(picture) for picture in to_pictures(frame.image)]),
            sureness(frame, codes).cpu().half().numpy(),
        )

    def edit(
        self, edit: Edit, action: Action, picture: Picture, mask: np.ndarray | None, options: EditOptions
    ) -> Iterator[Step | str]:
        """The steps as they happen, the newest where they come faster than they can be shown, and files of results.

        The edit runs on a thread of its own, which ends with its next step when the iterator is closed.
        """
        news: queue.Queue[DecodingStep | str | Exception | None] = queue.Queue()
        is_stopped = threading.Event()

        def watch(step: DecodingStep) -> None:
            if is_stopped.is_set():
                raise _Stopped
            news.put(step)

        def work() -> None:
            try:
                watched = dataclasses.replace(edit, watch=watch)
                for number, pixels in enumerate(edited(watched, action, picture, mask, options)):
                    index = edit.first + number
                    settings = edit_settings(edit, self.digest, action, mask, options, index)
                    one = Wanted(edit.label, edit.seed, index, edit.decoding or self.model.default_decoding())
                    news.put(self._write(Image.fromarray(pixels), settings, f"{action}-", one))
                news.put(None)
            except _Stopped:
                pass
            except Exception as error:
                news.put(error)

        # Not the interpreter's business at its end: a page that is closed waits for no edit.
        threading.Thread(target=work, daemon=True).start()
        try:
            yield from self._told(news)
        finally:
            is_stopped.set()

    def _told(self, news: queue.Queue[DecodingStep | str | Exception | None]) -> Iterator[Step | str]:
        grids: dict[str, Tensor] = {}
        while (told := news.get()) is not None:
            if isinstance(told, Exception):
                raise told
            if isinstance(told, str):
                yield told
                continue
            if told.index == 0 and told.level == self.model.config.level_names[0]:
                grids = {}
            grids[told.level] = told.canvas.as_grid()
            if news.empty():
                yield self._preview(told, Tokens(tuple(grids.values())))

    def _preview(self, step: DecodingStep, tokens: Tokens) -> Step:
        """What the model works at: the top alone as long as there is no bottom."""
        with torch.inference_mode():
            images = np.stack([np.asarray(picture) for picture in to_pictures(self.model.decode(tokens))])
        left, count = int(step.canvas.masked[0].sum()), step.canvas.masked[0].numel()
        text = f"{step.level}, step {step.index + 1} of {step.num_steps}: {count - left} of {count} tokens known"
        return Step(text, images, np.zeros((len(images), *step.canvas.grid), np.float16))

    def _write(self, picture: Image.Image, settings: dict[str, Any], action: str, wanted: Wanted) -> str:
        content = png_bytes(picture, settings)
        title = "" if wanted.label == NULL_LABEL else self.model.classes.title(wanted.label)
        # Names of classes are a user's: of these letters every file system takes so many.
        plain = re.sub(r"[^a-z0-9]+", "-", title.casefold()).strip("-")[:60]
        name = f"{action}{plain or 'image'}-seed{wanted.seed}-{wanted.index:04d}.png"
        # A folder for each content: equal names of other pictures stay apart.
        path = self.folder / hashlib.sha256(content).hexdigest()[:16] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return str(path)


def sheet(step: Step) -> Image.Image:
    """All images of a step on one sheet."""
    count = len(step.images)
    return _enlarged(contact_sheet(_as_images(step.images), min(4, count) if count > 2 else count))


def image_of(step: Step, index: int) -> Image.Image:
    """One image of a step."""
    return _enlarged(Image.fromarray(step.images[index]))


def sureness_of(step: Step, index: int) -> Image.Image:
    """How sure the model was of each of its tokens, dark to light."""
    side = step.images.shape[1]
    heat = heat_map(torch.from_numpy(step.sure[index]).float()[None], side)
    return _enlarged(to_pictures(heat)[0], Image.Resampling.NEAREST)


def _as_images(pixels: np.ndarray) -> Images:
    return from_bytes(torch.from_numpy(pixels).permute(0, 3, 1, 2))


def _enlarged(picture: Image.Image, how: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    times = -(-_SHOWN_SIDE // max(picture.size))
    return picture.resize((picture.width * times, picture.height * times), how)
