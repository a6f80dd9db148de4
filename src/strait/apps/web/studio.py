"""The model behind the page: generates step by step, edits, and records the process."""

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

from strait.apps.jobs import Action, EditOptions, ImageRequest, as_rows, edit_settings, edited, settings_inside
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
"""Side in pixels to which small sheets are enlarged, since browsers would blur them."""


@dataclass(frozen=True)
class Step:
    """One step of a process as shown on the page.

    Attributes:
        text: its number, and the number of tokens kept.
        images: uint8 ``[images, side, side, 3]``.
        sure: float16 ``[images, h, w]`` in [0, 1], the confidence of each token.
    """

    text: str
    images: np.ndarray
    sure: np.ndarray


class _Stopped(Exception):
    """The page no longer wants the edit."""


@dataclass
class Process:
    """The steps so far, and at the end the files of the images."""

    steps: list[Step] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


class Studio:
    """A model for the page.

    Args:
        model: with its tokenizer, top and bottom.
        folder: for finished pictures.
    """

    def __init__(self, model: StraIT, folder: Path) -> None:
        self.model, self.folder, self.digest = model, folder, model.weights_hash()

    def generate(self, requests: Sequence[ImageRequest]) -> Iterator[Process]:
        """Generate images step by step; yields the same process after each step."""
        process, grids = Process(), dict[str, Tensor]()
        lengths = self._lengths(requests[0].decoding)
        for frame in frames(self.model, self._base_steps(requests, grids, lengths), requests[0].seed):
            process.steps.append(self._step(frame, len(process.steps), sum(lengths.values())))
            yield process
        with torch.inference_mode():
            pictures = to_pictures(self.model.decode(Tokens(tuple(grids.values()))))
        process.files = [
            self._write(picture, settings_inside(self.model, self.digest, request), "", request)
            for picture, request in zip(pictures, requests, strict=True)
        ]
        yield process

    def _lengths(self, decoding: DecodingConfig) -> dict[str, int]:
        """The number of steps of each level that is shown, as known in advance: at most its number of tokens."""
        config, base = self.model.config, self.model.config.tokenizer.num_levels
        return {
            name: min(steps, math.prod(grid)) + decoding.revise_passes
            for name, steps, grid in zip(config.level_names[:base], decoding.steps, config.grids, strict=False)
        }

    def _base_steps(
        self, requests: Sequence[ImageRequest], grids: dict[str, Tensor], lengths: dict[str, int]
    ) -> Iterator[DecodingStep]:
        """Take all steps, but yield none of an upsampler's, which are not shown."""
        for step in self.model.decoding_steps(*as_rows(requests)):
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
        """Yield steps (only the newest if they come faster than they can be shown) and the files of results.

        The edit runs on its own thread, which ends at its next step when the iterator is closed.
        """
        updates: queue.Queue[DecodingStep | str | Exception | None] = queue.Queue()
        is_stopped = threading.Event()

        def watch(step: DecodingStep) -> None:
            if is_stopped.is_set():
                raise _Stopped
            updates.put(step)

        def work() -> None:
            try:
                watched = dataclasses.replace(edit, watch=watch)
                for number, pixels in enumerate(edited(watched, action, picture, mask, options)):
                    index = edit.first + number
                    settings = edit_settings(edit, self.digest, action, mask, options, index)
                    request = ImageRequest(
                        edit.label, edit.seed, index, edit.decoding or self.model.default_decoding()
                    )
                    updates.put(self._write(Image.fromarray(pixels), settings, f"{action}-", request))
                updates.put(None)
            except _Stopped:
                pass
            except Exception as error:
                updates.put(error)

        # A daemon, so that the interpreter can exit without waiting for an edit.
        threading.Thread(target=work, daemon=True).start()
        try:
            yield from self._shown(updates)
        finally:
            is_stopped.set()

    def _shown(self, updates: queue.Queue[DecodingStep | str | Exception | None]) -> Iterator[Step | str]:
        grids: dict[str, Tensor] = {}
        while (update := updates.get()) is not None:
            if isinstance(update, Exception):
                raise update
            if isinstance(update, str):
                yield update
                continue
            if update.index == 0 and update.level == self.model.config.level_names[0]:
                grids = {}
            grids[update.level] = update.canvas.as_grid()
            if updates.empty():
                yield self._preview(update, Tokens(tuple(grids.values())))

    def _preview(self, step: DecodingStep, tokens: Tokens) -> Step:
        """The current image: of the top alone while there is no bottom."""
        with torch.inference_mode():
            images = np.stack([np.asarray(picture) for picture in to_pictures(self.model.decode(tokens))])
        left, count = int(step.canvas.masked[0].sum()), step.canvas.masked[0].numel()
        text = f"{step.level}, step {step.index + 1} of {step.num_steps}: {count - left} of {count} tokens known"
        return Step(text, images, np.zeros((len(images), *step.canvas.grid), np.float16))

    def _write(self, picture: Image.Image, settings: dict[str, Any], action: str, request: ImageRequest) -> str:
        content = png_bytes(picture, settings)
        title = "" if request.label == NULL_LABEL else self.model.classes.title(request.label)
        # Class names may have any characters; these are valid on every file system.
        plain = re.sub(r"[^a-z0-9]+", "-", title.casefold()).strip("-")[:60]
        name = f"{action}{plain or 'image'}-seed{request.seed}-{request.index:04d}.png"
        # A folder for each content, so that different pictures of the same name do not collide.
        path = self.folder / hashlib.sha256(content).hexdigest()[:16] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return str(path)


def sheet(step: Step) -> Image.Image:
    """All images of a step as one sheet."""
    count = len(step.images)
    return _enlarged(contact_sheet(_as_images(step.images), min(4, count) if count > 2 else count))


def image_of(step: Step, index: int) -> Image.Image:
    """One image of a step."""
    return _enlarged(Image.fromarray(step.images[index]))


def sureness_of(step: Step, index: int) -> Image.Image:
    """The confidence of each token of an image, dark to light."""
    side = step.images.shape[1]
    heat = heat_map(torch.from_numpy(step.sure[index]).float()[None], side)
    return _enlarged(to_pictures(heat)[0], Image.Resampling.NEAREST)


def _as_images(pixels: np.ndarray) -> Images:
    return from_bytes(torch.from_numpy(pixels).permute(0, 3, 1, 2))


def _enlarged(picture: Image.Image, how: Image.Resampling = Image.Resampling.BICUBIC) -> Image.Image:
    times = -(-_SHOWN_SIDE // max(picture.size))
    return picture.resize((picture.width * times, picture.height * times), how)
