"""Requests to replies: images decoded together where they can be, pictures edited; one bad request fails alone."""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Sequence
from typing import Any

from PIL import Image
from starlette.responses import JSONResponse, Response

from strait.apps.jobs import (
    EditOptions,
    Wanted,
    as_rows,
    batches,
    chosen_decoding,
    edit_settings,
    edited,
    settings_inside,
    wanted_images,
)
from strait.apps.service.limits import Limits
from strait.apps.service.schema import DecodingBody, EditBody, GenerateBody
from strait.decoding.config import DecodingConfig
from strait.decoding.stratified import final_tokens
from strait.editing.config import EditConfig
from strait.editing.edits import Edit
from strait.editing.extension import Sides
from strait.editing.pictures import PictureError, mask_of, picture_of
from strait.images_out import png_bytes, to_pictures
from strait.model import StraIT
from strait.types import NULL_LABEL

BATCH_HEADER = "x-strait-batch"
_UPLOADS = ("PNG", "JPEG", "WEBP")
_JSON = dict[str, Any]


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
        self._decode([Wanted(NULL_LABEL, 0, 0, self.model.default_decoding())])

    def replies(self, bodies: Sequence[DecodingBody]) -> list[Response]:
        """A reply for each request; one that cannot be done is refused alone."""
        replies: list[Response | None] = [None] * len(bodies)
        asked: list[tuple[int, Wanted]] = []
        for number, body in enumerate(bodies):
            try:
                if isinstance(body, EditBody):
                    replies[number] = self._reply(self._edit(body), 1)
                elif isinstance(body, GenerateBody):
                    asked += [(number, wanted) for wanted in self._wanted(body)]
            except ValueError as error:
                replies[number] = problem(422, str(error))
            except Exception:
                # Whatever went wrong with one, those that share its batch have nothing to do with it.
                logging.getLogger(__name__).exception("a request could not be done")
                replies[number] = problem(500, "it could not be done; the service's log says why")
        images: dict[int, list[_JSON]] = {}
        sizes: dict[int, int] = {}
        made = self._generate([one for _, one in asked])
        for (number, _), (image, size) in zip(asked, made, strict=True):
            images.setdefault(number, []).append(image)
            sizes[number] = max(sizes.get(number, 0), size)
        return [
            reply if reply is not None else self._reply(images[number], sizes[number])
            for number, reply in enumerate(replies)
        ]

    def _wanted(self, body: GenerateBody) -> list[Wanted]:
        if body.labels is not None and "count" in body.model_fields_set and body.count != len(body.labels):
            raise ValueError("count: labels are an image each; leave count out, or name a label as often as wanted")
        self._check_count(len(body.labels) if body.labels is not None else body.count)
        return wanted_images(self.model, body.labels, body.count, body.seed, self._decoding(body))

    def _check_count(self, count: int) -> None:
        if count > self.limits.images:
            raise ValueError(f"count: {count} images were asked for, and a request may have {self.limits.images}")

    def _decoding(self, body: DecodingBody) -> DecodingConfig:
        decoding = chosen_decoding(self.model, body.steps, body.temperature, body.guidance, body.schedule)
        if sum(decoding.steps) > self.limits.steps:
            raise ValueError(f"steps: {sum(decoding.steps)} in all, and a request may have {self.limits.steps}")
        return decoding

    def _decode(self, wanted: list[Wanted]) -> list[Image.Image]:
        return to_pictures(self.model.decode(final_tokens(self.model.decoding_steps(*as_rows(wanted)))))

    def _generate(self, wanted: list[Wanted]) -> list[tuple[_JSON, int]]:
        """Each image, and how many rows it was decoded with."""
        made: dict[int, tuple[_JSON, int]] = {}
        for places in batches(wanted, self.rows):
            pictures = self._decode([wanted[place] for place in places])
            for place, picture in zip(places, pictures, strict=True):
                settings = settings_inside(self.model, self.digest, wanted[place])
                made[place] = (_as_json(picture, settings), len(places))
        return [made[place] for place in range(len(wanted))]

    def _edit(self, body: EditBody) -> list[_JSON]:
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
        return [
            _as_json(Image.fromarray(pixels), edit_settings(edit, self.digest, body.action, options, index))
            for index, pixels in enumerate(edited(edit, body.action, picture, mask, options))
        ]

    def _reply(self, images: list[_JSON], batch: int) -> Response:
        return JSONResponse({"images": images, "model": self.digest}, headers={BATCH_HEADER: str(batch)})


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
