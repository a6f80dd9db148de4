"""Requests to replies: images decoded together where they can be, pictures edited; one bad request fails alone.

Replies come as soon as they are there, and without their encoding: whoever runs the model may leave that to another
thread.
"""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from PIL import Image
from starlette.responses import JSONResponse, Response

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
from strait.apps.service.schema import DecodingBody, EditBody, GenerateBody
from strait.data.classes import ClassNames
from strait.decoding.config import DecodingConfig
from strait.decoding.stratified import final_tokens
from strait.editing.config import EditConfig
from strait.editing.edits import Edit
from strait.editing.extension import Sides
from strait.model.strait import StraIT
from strait.pictures.images import to_pictures
from strait.pictures.reading import PictureError, mask_of, picture_of
from strait.pictures.recipe import png_bytes
from strait.types import NULL_LABEL, Tokens

BATCH_HEADER = "x-strait-batch"
_UPLOADS = ("PNG", "JPEG", "WEBP")
_JSON = dict[str, Any]
_Made = tuple[Image.Image, _JSON]
_PICTURES = 4
"""The results of an edit may together have so many times the pixels of the largest picture."""


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
        list(self._decode([Wanted(NULL_LABEL, 0, 0, self.model.default_decoding())]))

    def replies(self, bodies: Sequence[DecodingBody]) -> list[Response]:
        """A reply for each request; one that cannot be done is refused alone."""
        replies = {number: finish() for number, finish in self.results(bodies)}
        return [replies[number] for number in range(len(bodies))]

    def results(self, bodies: Sequence[DecodingBody]) -> Iterator[tuple[int, Callable[[], Response]]]:
        """The place of each request and what makes its reply: refusals first, generated images next, edits last."""
        asked: dict[int, list[Wanted]] = {}
        edits: list[tuple[int, EditBody]] = []
        for number, body in enumerate(bodies):
            if isinstance(body, EditBody):
                edits.append((number, body))
                continue
            assert isinstance(body, GenerateBody)
            try:
                asked[number] = self._wanted(body)
            except Exception as error:
                yield number, refusal(error)
        try:
            yield from self._generate(asked)
        except Exception as error:
            # A reply given twice would be another's; those that have none yet are told.
            logging.getLogger(__name__).exception("images could not be generated")
            yield from ((number, refusal(error)) for number in asked)
        for number, body in edits:
            try:
                made = self._edit(body)
            except Exception as error:
                yield number, refusal(error)
            else:
                yield number, partial(self._reply, made, 1)

    def _wanted(self, body: GenerateBody) -> list[Wanted]:
        if body.labels is not None and "count" in body.model_fields_set and body.count != len(body.labels):
            raise ValueError("count: labels are an image each; leave count out, or name a label as often as wanted")
        self._check_count(len(body.labels) if body.labels is not None else body.count)
        wanted = wanted_images(self.model, body.labels, body.count, body.seed, self._decoding(body))
        self._check_passes(sum(sum(one.decoding.steps) for one in wanted))
        return wanted

    def _check_count(self, count: int) -> None:
        if count > self.limits.images:
            raise ValueError(f"count: {count} images were asked for, and a request may have {self.limits.images}")

    def _decoding(self, body: DecodingBody) -> DecodingConfig:
        base = self.model.config.tokenizer.num_levels
        own = self.model.default_decoding()
        decoding = own.chosen(base, body.steps, body.temperature, body.guidance, body.schedule)
        if sum(decoding.steps) > self.limits.steps:
            raise ValueError(f"steps: {sum(decoding.steps)} in all, and a request may have {self.limits.steps}")
        return decoding

    def _decode(self, wanted: list[Wanted]) -> Iterator[Image.Image]:
        """Pictures of one batch, one after the other: a CPU makes their pixels one by one."""
        tokens = final_tokens(self.model.decoding_steps(*as_rows(wanted)))
        size = len(wanted) if self.model.device.type == "cuda" else 1
        for start in range(0, len(wanted), size):
            some = Tokens(tuple(grid[start : start + size] for grid in tokens.levels))
            yield from to_pictures(self.model.decode(some))

    def _generate(self, asked: dict[int, list[Wanted]]) -> Iterator[tuple[int, Callable[[], Response]]]:
        """The images of each request, by its place; ``asked`` keeps those that are not done yet."""
        rows = [(number, place) for number, wanted in asked.items() for place in range(len(wanted))]
        wanted = [asked[number][place] for number, place in rows]
        made: dict[int, dict[int, _Made]] = {number: {} for number in asked}
        sizes = dict.fromkeys(asked, 0)
        for batch in batches(wanted, self.rows):
            pictures = self._decode([wanted[row] for row in batch])
            for row, picture in zip(batch, pictures, strict=True):
                number, place = rows[row]
                made[number][place] = (picture, settings_inside(self.model, self.digest, wanted[row]))
                sizes[number] = max(sizes[number], len(batch))
                if len(made[number]) == len(asked[number]):
                    images = [one for _, one in sorted(made.pop(number).items())]
                    del asked[number]
                    yield number, partial(self._reply, images, sizes[number])

    def _edit(self, body: EditBody) -> list[_Made]:
        self._check_count(body.count)
        picture = picture_of(_bytes("image", body.image), "image", _UPLOADS)
        mask = None if body.mask is None else mask_of(_bytes("mask", body.mask), picture.size, "mask", _UPLOADS).fill
        label = NULL_LABEL if body.label is None else self.model.classes.find(body.label)
        options = EditOptions(
            EditConfig(body.strength, body.margin, body.context, body.feather, body.composite),
            Sides(body.left, body.right, body.up, body.down),
            body.keep,
            body.choose,
            body.keep_bottom,
        )
        edit = Edit(self.model, label, body.count, body.seed, self._decoding(body), self.rows)
        results = edited(edit, body.action, picture, mask, options)
        self._check_passes(passes_of(edit, body.action, picture, mask, options, self.limits.passes))
        made: list[_Made] = []
        for index, pixels in enumerate(results):
            if body.count * pixels.shape[0] * pixels.shape[1] > _PICTURES * self.limits.pixels:
                most = f"{_PICTURES * self.limits.megapixels:g}"
                raise ValueError(f"count: the results together would have more than {most} million pixels")
            settings = edit_settings(edit, self.digest, body.action, mask, options, index)
            made.append((Image.fromarray(pixels), settings))
        return made

    def _check_passes(self, count: int) -> None:
        if count > self.limits.passes:
            raise ValueError(
                f"passes: it takes {'at least ' if count == self.limits.passes + 1 else ''}{count} passes through the "
                f"model, counted for each image, and a request may take {self.limits.passes}; ask for less"
            )

    def _reply(self, made: list[_Made], batch: int) -> Response:
        images = [_as_json(picture, settings) for picture, settings in made]
        return JSONResponse({"images": images, "model": self.digest}, headers={BATCH_HEADER: str(batch)})


def refusal(error: Exception) -> Callable[[], Response]:
    """A reply that says what was wrong, to the one whose request it was: its batch knows nothing of it."""
    if isinstance(error, ValueError):
        return partial(problem, 422, str(error))
    logging.getLogger(__name__).error("a request could not be done", exc_info=error)
    return partial(problem, 500, "it could not be done; the service's log says why")


def classes_reply(classes: ClassNames, image_size: int, decoding: DecodingConfig) -> _JSON:
    """The classes of a model, and its own settings."""
    found = [{"index": index, "name": name, "title": classes.title(index)} for index, name in enumerate(classes)]
    return {"classes": found, "image_size": image_size, "decoding": asdict(decoding)}


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """A refusal; what a client sent may hold half characters, which no UTF-8 reply can."""
    return JSONResponse({"detail": detail.encode("utf-8", "replace").decode()}, status, headers)


def _as_json(picture: Image.Image, settings: _JSON) -> _JSON:
    png = base64.b64encode(png_bytes(picture, settings)).decode()
    return {"png": png, **{name: settings[name] for name in ("label", "seed", "index")}}


def _bytes(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise PictureError(f"{name}: it is not base64") from error
