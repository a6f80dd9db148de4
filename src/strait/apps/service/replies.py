"""Tasks to replies: images decoded together where they can be, pictures edited; one bad request fails alone.

Replies come as soon as they are there, and without their encoding: whoever runs the model may leave that to another
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
    Wanted,
    as_rows,
    batches,
    edit_settings,
    edited,
    passes_of,
    settings_inside,
    wanted_images,
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
_JSON = dict[str, Any]
_Made = tuple[Image.Image, _JSON]
_PICTURES = 4
"""The results of an edit may together have so many times the pixels of the largest picture."""
_Finish = Callable[[int, Callable[[], Reply]], None]
"""Takes what a reply that comes before the last one is made by."""


class _Late(Exception):
    """The time for the work is over."""


class Replier:
    """A model at work for a service; whatever queues requests hands them over, as many as it has.

    Args:
        model: with all its parts.
        limits: what a request may ask for.
        rows: decoded at once.
    """

    def __init__(self, model: StraIT, limits: Limits, rows: int) -> None:
        self.model, self.limits, self.rows = model, limits, rows
        self.digest = model.weights_hash()
        Image.MAX_IMAGE_PIXELS = limits.pixels

    def warm_up(self) -> None:
        """Decode once, so that the first request does not wait for what every first run does."""
        list(self._decode([Wanted(NULL_LABEL, 0, 0, self.model.default_decoding())], lambda step: None))

    def replies(self, bodies: Sequence[DecodingBody]) -> list[Reply]:
        """A reply for each request; one that cannot be done is refused alone."""
        tasks = [Task(number, body, "json") for number, body in enumerate(bodies)]
        replies = {number: make() for number, make in self.results(tasks)}
        return [replies[number] for number in range(len(bodies))]

    def results(
        self, tasks: Sequence[Task], until: float = math.inf, finish: _Finish = lambda number, make: None
    ) -> Iterator[tuple[int, Callable[[], Reply]]]:
        """The number of each task and what makes its last reply: refusals first, generated images next, edits last.

        Args:
            tasks: to be done together.
            until: time of ``time.monotonic`` at which the work is given up.
            finish: is told of every step of those who watch.
        """
        asked: dict[int, list[Wanted]] = {}
        forms: dict[int, Form] = {task.number: task.form for task in tasks}
        edits: list[Task] = []
        for task in tasks:
            if not isinstance(task.body, GenerateBody):
                edits.append(task)
                continue
            try:
                asked[task.number] = self._wanted(task.body, task.form)
            except Exception as error:
                yield task.number, refusal(task.number, error)
        try:
            yield from self._generate(asked, forms, until, finish)
        except Exception as error:
            if not isinstance(error, _Late):
                logging.getLogger(__name__).exception("images could not be generated")
            # A reply given twice would be another's; those that have none yet are told.
            yield from ((number, refusal(number, error)) for number in asked)
        for task in edits:
            try:
                made, note = self._edit(task, until, finish)
            except Exception as error:
                yield task.number, refusal(task.number, error)
            else:
                yield task.number, partial(self._reply, task.number, task.form, made, 1, note)

    def _wanted(self, body: GenerateBody, form: Form) -> list[Wanted]:
        self._check_count(body.images, form)
        decoding = self._decoding(body)
        if body.labels is None or body.count is None:
            wanted = wanted_images(self.model, body.labels, body.count or 1, body.seed, decoding)
        else:
            # As on the command line: image k of a label is the same, whatever other labels there are.
            wanted = [
                one
                for label in body.labels
                for one in wanted_images(self.model, [label] * body.count, body.count, body.seed, decoding)
            ]
        self._check_passes(sum(sum(one.decoding.steps) for one in wanted))
        return wanted

    def _check_count(self, count: int, form: Form) -> None:
        if count > self.limits.images:
            raise ValueError(f"count: a request may have {self.limits.images} images, and this one asks for more")
        if form == "png" and count > 1:
            raise ValueError("Accept: image/png is one image, and this request asks for several; take JSON")

    def _decoding(self, body: DecodingBody) -> DecodingConfig:
        base = self.model.config.tokenizer.num_levels
        if body.steps is not None and sum(body.steps) > self.limits.steps:
            count = f"{sum(body.steps)} in all" if sum(body.steps) < 10**9 else "a billion or more"
            raise ValueError(f"steps: {count}, and a request may have {self.limits.steps}")
        own = self.model.default_decoding()
        decoding = own.chosen(base, body.steps, body.temperature, body.guidance, body.schedule)
        if sum(decoding.steps) > self.limits.steps:
            raise ValueError(f"steps: {sum(decoding.steps)} in all, and a request may have {self.limits.steps}")
        return decoding

    def _decode(self, wanted: list[Wanted], watch: Callable[[DecodingStep], None]) -> Iterator[Image.Image]:
        """Pictures of one batch, one after the other: a CPU makes their pixels one by one."""
        tokens = final_tokens(self.model.decoding_steps(*as_rows(wanted)), watch)
        size = len(wanted) if self.model.device.type == "cuda" else 1
        for start in range(0, len(wanted), size):
            some = Tokens(tuple(grid[start : start + size] for grid in tokens.levels))
            yield from to_pictures(self.model.decode(some))

    def _generate(
        self, asked: dict[int, list[Wanted]], forms: dict[int, Form], until: float, finish: _Finish
    ) -> Iterator[tuple[int, Callable[[], Reply]]]:
        """The images of each task, by its number; ``asked`` keeps those that are not done yet."""
        rows = [(number, place) for number, wanted in asked.items() for place in range(len(wanted))]
        wanted = [asked[number][place] for number, place in rows]
        made: dict[int, dict[int, _Made]] = {number: {} for number in asked}
        sizes = dict.fromkeys(asked, 0)
        for batch in batches(wanted, self.rows):
            numbers = [rows[row][0] for row in batch]
            watchers = {
                number: [place for place, other in enumerate(numbers) if other == number]
                for number in numbers
                if forms[number] == "events"
            }
            pictures = self._decode([wanted[row] for row in batch], self._watch(watchers, until, finish))
            for row, picture in zip(batch, pictures, strict=True):
                number, place = rows[row]
                made[number][place] = (picture, settings_inside(self.model, self.digest, wanted[row]))
                sizes[number] = max(sizes[number], len(batch))
                if len(made[number]) == len(asked[number]):
                    images = [one for _, one in sorted(made.pop(number).items())]
                    del asked[number]
                    yield number, partial(self._reply, number, forms[number], images, sizes[number])

    def _watch(
        self, watchers: Mapping[int, list[int] | slice], until: float, finish: _Finish
    ) -> Callable[[DecodingStep], None]:
        """What is told of every step: whether there is time left, and those who watch their rows of the batch."""
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

    def _edit(self, task: Task, until: float, finish: _Finish) -> tuple[list[_Made], str | None]:
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
        results = edited(edit, body.action, picture, mask, options)
        self._check_passes(passes_of(edit, body.action, picture, mask, options, self.limits.passes))
        note = None
        if mask is not None and body.action in ("infill", "relabel"):
            note = infilling_note(self.model, mask, options.config)
        made: list[_Made] = []
        for index, pixels in enumerate(results):
            if body.count * pixels.shape[0] * pixels.shape[1] > _PICTURES * self.limits.pixels:
                most = f"{_PICTURES * self.limits.megapixels:g}"
                raise ValueError(f"count: the results together would have more than {most} million pixels")
            settings = edit_settings(edit, self.digest, body.action, mask, options, index)
            made.append((Image.fromarray(pixels), settings))
        return made, note

    def _check_passes(self, count: int) -> None:
        if count > self.limits.passes:
            raise ValueError(
                f"passes: it takes {'at least ' if count == self.limits.passes + 1 else ''}{count} passes through the "
                f"model, counted for each image, and a request may take {self.limits.passes}; ask for less"
            )

    def _reply(self, number: int, form: Form, made: list[_Made], rows: int, note: str | None = None) -> Reply:
        if form == "png":
            ((picture, settings),) = made
            return Reply(number, 200, png_bytes(picture, settings), "image/png", rows, note=note)
        images = [_as_json(picture, settings) for picture, settings in made]
        content = {"note": note, "images": images, "model": self.digest}
        if form == "events":
            return Reply(number, 200, event("images", json.dumps(content).encode()), EVENTS, rows)
        return Reply(number, 200, json.dumps(content).encode(), "application/json", rows)


def refusal(number: int, error: Exception) -> Callable[[], Reply]:
    """A reply that says what was wrong, to the one whose request it was: its batch knows nothing of it."""
    if isinstance(error, _Late):
        status, detail = 504, "the work on the request took too long; ask for less"
    elif isinstance(error, ValueError):
        status, detail = 422, str(error)
    else:
        logging.getLogger(__name__).error("a request could not be done", exc_info=error)
        status, detail = 500, "it could not be done; the service's log says why"
    return partial(Reply, number, status, problem_bytes(detail), "application/json")


def problem_bytes(detail: str) -> bytes:
    """A refusal as JSON; what a client sent may hold half characters, which no UTF-8 reply can."""
    return json.dumps({"detail": detail.encode("utf-8", "replace").decode()}).encode()


def classes_reply(classes: ClassNames, image_size: int, decoding: DecodingConfig) -> _JSON:
    """The classes of a model, and its own settings."""
    entries = [{"index": index, "name": name, "title": classes.title(index)} for index, name in enumerate(classes)]
    return {"classes": entries, "image_size": image_size, "decoding": asdict(decoding)}


def event(name: str, data: bytes) -> bytes:
    """A server-sent event; JSON has no line breaks of its own."""
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
