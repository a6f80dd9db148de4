"""Process tasks: decode images together where possible, and edit pictures; an invalid request fails alone.

Replies are yielded as soon as possible, and as functions that encode them, so that the caller can encode on another
thread.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, fields
from functools import partial
from typing import Any

from PIL import Image
from torch import Tensor

from strait.apps.jobs import (
    EditOptions,
    ImageRequest,
    as_rows,
    batches,
    edit_settings,
    edited,
    image_requests,
    passes_of,
    settings_inside,
)
from strait.apps.service.limits import Limits
from strait.apps.service.messages import EVENTS, Form, Reply, Task
from strait.apps.service.schema import DecodingBody, EditBody, GenerateBody
from strait.data.classes import ClassNames
from strait.decoding.config import DecodingConfig
from strait.decoding.stratified import final_tokens
from strait.editing.config import EditConfig
from strait.editing.edits import Edit, infilling_note
from strait.editing.extension import Sides
from strait.model.strait import StraIT
from strait.pictures.images import to_pictures
from strait.pictures.reading import PictureError, mask_of, picture_of
from strait.pictures.recipe import png_bytes
from strait.types import NULL_LABEL, DecodingStep, Tokens

_UPLOADS = ("PNG", "JPEG", "WEBP")
_FURTHER = ("quality", "guidance_ramp", "guidance_start", "revise", "revise_share", "revise_passes")
"""Settings of decoding that a request gives by their own names."""
_JSON = dict[str, Any]
_Result = tuple[Image.Image, _JSON]
_PICTURES = 4
"""Limit on the pixels of all results of an edit, as a multiple of the largest picture."""
_Finish = Callable[[int, Callable[[], Reply]], None]
"""Receives the number of a task and a function that makes an intermediate reply."""


class _Late(Exception):
    """The deadline of the work has passed."""


class Replier:
    """A model that processes tasks.

    Args:
        model: with all its parts.
        limits: of a request.
        rows: decoded at once.
    """

    def __init__(self, model: StraIT, limits: Limits, rows: int) -> None:
        self.model, self.limits, self.rows = model, limits, rows
        self.digest = model.weights_hash()
        Image.MAX_IMAGE_PIXELS = limits.pixels

    def warm_up(self) -> None:
        """Decode once, so that the first request does not pay for one-time setup."""
        list(self._decode([ImageRequest(NULL_LABEL, 0, 0, self.model.default_decoding())], lambda step: None))

    def replies(self, bodies: Sequence[DecodingBody]) -> list[Reply]:
        """A reply for each request; an invalid one is refused alone."""
        tasks = [Task(number, body, "json") for number, body in enumerate(bodies)]
        replies = {number: make() for number, make in self.results(tasks)}
        return [replies[number] for number in range(len(bodies))]

    def results(
        self, tasks: Sequence[Task], until: float = math.inf, finish: _Finish = lambda number, make: None
    ) -> Iterator[tuple[int, Callable[[], Reply]]]:
        """Yield each task's number and a function that makes its last reply: refusals, generated images, then edits.

        Args:
            tasks: to be processed together.
            until: time of ``time.monotonic`` at which the work is given up.
            finish: called for every step of the tasks with form ``events``.
        """
        asked: dict[int, list[ImageRequest]] = {}
        forms: dict[int, Form] = {task.number: task.form for task in tasks}
        edits: list[Task] = []
        for task in tasks:
            if not isinstance(task.body, GenerateBody):
                edits.append(task)
                continue
            try:
                asked[task.number] = self._requests(task.body, task.form)
            except Exception as error:
                yield task.number, refusal(task.number, error)
        try:
            yield from self._generate(asked, forms, until, finish)
        except Exception as error:
            if not isinstance(error, _Late):
                logging.getLogger(__name__).exception("images could not be generated")
            # Tasks that already have their reply must not get a second one.
            yield from ((number, refusal(number, error)) for number in asked)
        for task in edits:
            try:
                results, note = self._edit(task, until, finish)
            except Exception as error:
                yield task.number, refusal(task.number, error)
            else:
                yield task.number, partial(self._reply, task.number, task.form, results, 1, note)

    def _requests(self, body: GenerateBody, form: Form) -> list[ImageRequest]:
        self._check_count(body.images, form)
        decoding = self._decoding(body)
        if body.labels is None or body.count is None:
            requests = image_requests(self.model, body.labels, body.count or 1, body.seed, decoding)
        else:
            # As on the command line: image k of a label does not depend on other labels.
            requests = [
                request
                for label in body.labels
                for request in image_requests(self.model, [label] * body.count, body.count, body.seed, decoding)
            ]
        self._check_passes(sum(sum(request.decoding.passes) for request in requests))
        return requests

    def _check_count(self, count: int, form: Form) -> None:
        if count > self.limits.images:
            raise ValueError(f"count: a request may have {self.limits.images} images, but this one asks for more")
        if form == "png" and count > 1:
            raise ValueError("Accept: image/png is a single image, but this request asks for several; use JSON")

    def _decoding(self, body: DecodingBody) -> DecodingConfig:
        base = self.model.config.tokenizer.num_levels
        if body.steps is not None and sum(body.steps) > self.limits.steps:
            count = f"{sum(body.steps)} in total" if sum(body.steps) < 10**9 else "a billion or more"
            raise ValueError(f"steps: {count}, but a request may have {self.limits.steps}")
        defaults = self.model.default_decoding()
        others = {name: getattr(body, name) for name in _FURTHER}
        decoding = defaults.chosen(base, body.steps, body.temperature, body.guidance, body.schedule, **others)
        if sum(decoding.passes) > self.limits.steps:
            raise ValueError(f"steps: {sum(decoding.passes)} in total, but a request may have {self.limits.steps}")
        return decoding

    def _decode(self, requests: list[ImageRequest], watch: Callable[[DecodingStep], None]) -> Iterator[Image.Image]:
        """The pictures of a batch in turn: a CPU decodes their pixels one by one."""
        tokens = final_tokens(self.model.decoding_steps(*as_rows(requests)), watch)
        size = len(requests) if self.model.device.type == "cuda" else 1
        for start in range(0, len(requests), size):
            chunk = Tokens(tuple(grid[start : start + size] for grid in tokens.levels))
            yield from to_pictures(self.model.decode(chunk))

    def _generate(
        self, asked: dict[int, list[ImageRequest]], forms: dict[int, Form], until: float, finish: _Finish
    ) -> Iterator[tuple[int, Callable[[], Reply]]]:
        """The images of each task by its number; ``asked`` keeps the tasks that are not finished."""
        rows = [(number, position) for number, requests in asked.items() for position in range(len(requests))]
        requests = [asked[number][position] for number, position in rows]
        results: dict[int, dict[int, _Result]] = {number: {} for number in asked}
        sizes = dict.fromkeys(asked, 0)
        for batch in batches(requests, self.rows):
            numbers = [rows[row][0] for row in batch]
            watchers = {
                number: [position for position, owner in enumerate(numbers) if owner == number]
                for number in numbers
                if forms[number] == "events"
            }
            pictures = self._decode([requests[row] for row in batch], self._watch(watchers, until, finish))
            for row, picture in zip(batch, pictures, strict=True):
                number, position = rows[row]
                results[number][position] = (picture, settings_inside(self.model, self.digest, requests[row]))
                sizes[number] = max(sizes[number], len(batch))
                if len(results[number]) == len(asked[number]):
                    images = [result for _, result in sorted(results.pop(number).items())]
                    del asked[number]
                    yield number, partial(self._reply, number, forms[number], images, sizes[number])

    def _watch(
        self, watchers: Mapping[int, list[int] | slice], until: float, finish: _Finish
    ) -> Callable[[DecodingStep], None]:
        """A function to call after every step: it checks the deadline, and sends the step to those who watch it."""
        grids: dict[str, Tensor] = {}
        names = self.model.config.level_names[: self.model.config.tokenizer.num_levels]

        def watch(step: DecodingStep) -> None:
            if time.monotonic() > until:
                raise _Late
            if not watchers or step.level not in names:
                return
            if step.level == names[0]:
                grids.clear()
            grids[step.level] = step.canvas.as_grid()
            for number, places in watchers.items():
                pictures = to_pictures(self.model.decode(Tokens(tuple(grid[places] for grid in grids.values()))))
                finish(number, partial(_step_event, number, step.level, step.index, step.num_steps, pictures))

        return watch

    def _edit(self, task: Task, until: float, finish: _Finish) -> tuple[list[_Result], str | None]:
        body = task.body
        assert isinstance(body, EditBody)
        self._check_count(body.count, task.form)
        picture = picture_of(_bytes("image", body.image), "image", _UPLOADS)
        mask = None if body.mask is None else mask_of(_bytes("mask", body.mask), picture.size, "mask", _UPLOADS).fill
        label = NULL_LABEL if body.label is None else self.model.classes.find(body.label)
        options = EditOptions(
            EditConfig(**{field.name: getattr(body, field.name) for field in fields(EditConfig)}),
            Sides(body.left, body.right, body.up, body.down),
            body.keep,
            body.choose,
            body.keep_bottom,
        )
        watch = self._watch({task.number: slice(None)} if task.form == "events" else {}, until, finish)
        edit = Edit(self.model, label, body.count, body.seed, self._decoding(body), self.rows, watch=watch)
        pictures = edited(edit, body.action, picture, mask, options)
        self._check_passes(passes_of(edit, body.action, picture, mask, options, self.limits.passes))
        note = None
        if mask is not None and body.action in ("infill", "relabel"):
            note = infilling_note(self.model, mask, options.config)
        results: list[_Result] = []
        for index, pixels in enumerate(pictures):
            if body.count * pixels.shape[0] * pixels.shape[1] > _PICTURES * self.limits.pixels:
                most = f"{_PICTURES * self.limits.megapixels:g}"
                raise ValueError(f"count: all results together would have more than {most} million pixels")
            settings = edit_settings(edit, self.digest, body.action, mask, options, index)
            results.append((Image.fromarray(pixels), settings))
        return results, note

    def _check_passes(self, count: int) -> None:
        if count > self.limits.passes:
            raise ValueError(
                f"passes: it takes {'at least ' if count == self.limits.passes + 1 else ''}{count} passes through the "
                f"model, counted for each image, but a request may take {self.limits.passes}; ask for less"
            )

    def _reply(self, number: int, form: Form, results: list[_Result], rows: int, note: str | None = None) -> Reply:
        if form == "png":
            ((picture, settings),) = results
            return Reply(number, 200, png_bytes(picture, settings), "image/png", rows, note=note)
        images = [_as_json(picture, settings) for picture, settings in results]
        content = {"note": note, "images": images, "model": self.digest}
        if form == "events":
            return Reply(number, 200, event("images", json.dumps(content).encode()), EVENTS, rows)
        return Reply(number, 200, json.dumps(content).encode(), "application/json", rows)


def refusal(number: int, error: Exception) -> Callable[[], Reply]:
    """A function that makes the reply to a request that failed."""
    if isinstance(error, _Late):
        status, detail = 504, "the work on the request took too long; ask for less"
    elif isinstance(error, ValueError):
        status, detail = 422, str(error)
    else:
        logging.getLogger(__name__).error("a request could not be done", exc_info=error)
        status, detail = 500, "internal error; see the service's log"
    return partial(Reply, number, status, problem_bytes(detail), "application/json")


def problem_bytes(detail: str) -> bytes:
    """A refusal as JSON; lone surrogates that a client sent are replaced, since UTF-8 cannot encode them."""
    return json.dumps({"detail": detail.encode("utf-8", "replace").decode()}).encode()


def classes_reply(classes: ClassNames, image_size: int, decoding: DecodingConfig) -> _JSON:
    """The classes of a model and its default settings."""
    entries = [{"index": index, "name": name, "title": classes.title(index)} for index, name in enumerate(classes)]
    return {"classes": entries, "image_size": image_size, "decoding": asdict(decoding)}


def event(name: str, data: bytes) -> bytes:
    """A server-sent event; JSON contains no line breaks."""
    return b"event: " + name.encode() + b"\ndata: " + data + b"\n\n"


def _step_event(number: int, level: str, index: int, steps: int, pictures: list[Image.Image]) -> Reply:
    images = [base64.b64encode(png_bytes(picture, {})).decode() for picture in pictures]
    data = json.dumps({"level": level, "step": index + 1, "steps": steps, "images": images}).encode()
    return Reply(number, 200, event("step", data), EVENTS, is_last=False)


def _as_json(picture: Image.Image, settings: _JSON) -> _JSON:
    png = base64.b64encode(png_bytes(picture, settings)).decode()
    return {"png": png, **{name: settings[name] for name in ("label", "seed", "index")}}


def _bytes(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureError(f"{name}: it is not base64") from error
