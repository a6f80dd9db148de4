"""Requests and replies as the OpenAPI page shows them (no torch here)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, StrictStr, model_validator

from strait.apps.service.limits import MOST_IMAGES
from strait.decoding.config import ScheduleName


def _whole(value: Any) -> Any:
    """16.0 is a whole number to JSON, and to clients whose numbers are all alike; True is none."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[StrictInt, BeforeValidator(_whole)]
# Bounds stand before the validator, so that the description has them.
Index = Annotated[StrictInt, Field(ge=0), BeforeValidator(_whole)]
Count = Annotated[StrictInt, Field(ge=1), BeforeValidator(_whole)]
"""How many may be asked for is the service's to say (``Limits``), in its own words."""
TopTokens = Annotated[StrictInt, Field(ge=0, le=16), BeforeValidator(_whole)]
Pixels = Annotated[StrictInt, Field(ge=0, le=64), BeforeValidator(_whole)]
Label = Annotated[StrictStr, Field(max_length=200)] | Index
Temperature = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
# One wrong item is enough to refuse a list: a description of each would take more memory than the request.
Steps = Annotated[list[Count], Field(min_length=1, max_length=4, fail_fast=True)]
Temperatures = Annotated[list[Temperature], Field(min_length=1, max_length=4, fail_fast=True)]
Labels = Annotated[list[Label], Field(min_length=1, max_length=MOST_IMAGES, fail_fast=True)]


class DecodingBody(BaseModel):
    """Settings that every request may have; the model's own where they are left out."""

    model_config = ConfigDict(extra="forbid")

    seed: Whole = Field(0, ge=-(2**63), le=2**63 - 1, description="image k of a seed is always the same")
    steps: Steps | None = Field(None, description="of each level, as [18, 6]")
    temperature: Temperature | Temperatures | None = Field(None, description="one for all levels, or one each")
    guidance: float | None = Field(
        None, ge=-1e6, le=1e6, allow_inf_nan=False, description="scale of classifier-free guidance"
    )
    schedule: ScheduleName | None = Field(None, description="how the number of masked tokens falls")

    @model_validator(mode="before")
    @classmethod
    def _first_unknown(cls, values: Any) -> Any:
        """Of unknown names the first alone: each is described at length."""
        if not isinstance(values, dict):
            return values
        unknown = next((name for name in values if name not in cls.model_fields), None)
        if unknown is None:
            return values
        return {unknown: None, **{name: values[name] for name in cls.model_fields if name in values}}


class GenerateBody(DecodingBody):
    """Images as `StraIT.generate(labels, count, seed)` makes them, or with labels and a count `strait generate`."""

    labels: Labels | None = Field(None, description="classes by name, WordNet id or index; an image of each")
    count: Count | None = Field(
        None,
        description="with labels: images of each, as the command line's --count, image k of a label being the same "
        "whatever the others; without labels: images in all (1), of classes drawn from the seed",
    )

    @property
    def images(self) -> int:
        """How many are asked for."""
        return (1 if self.labels is None else len(self.labels)) * (self.count or 1)


class EditBody(DecodingBody):
    """An edit of a picture, as `strait edit` makes it."""

    action: Literal["infill", "extend", "relabel", "transfer"]
    image: str = Field(description="PNG, JPEG or WebP, base64")
    mask: str | None = Field(None, description="PNG, JPEG or WebP of the picture's size, base64; white where to fill")
    label: Label | None = Field(None, description="class by name, WordNet id or index")
    count: Count = Field(1, description="results")
    strength: float = Field(1.0, gt=0, le=1, description="infill, relabel: share of the masked tokens drawn anew")
    margin: Pixels = Field(0, description="infill, relabel: pixels of the model's size to grow the mask by")
    context: float = Field(
        2.0, ge=1, le=100, description="infill, relabel: what the model sees, in extents of the mask"
    )
    feather: Pixels = Field(2, description="infill, relabel, extend: pixels over which the new fades in")
    composite: bool = Field(True, description="infill, relabel, extend: keep the picture's own pixels")
    cover: float = Field(
        0.25, ge=0, lt=1, description="infill, relabel: share of a top token above which the mask makes it unknown"
    )
    seam: Pixels = Field(
        0, description="infill, relabel: pixels outside the mask that may change, where the new fades out"
    )
    left: TopTokens = Field(0, description="extend: top tokens to add on the left")
    right: TopTokens = Field(0, description="extend: on the right")
    up: TopTokens = Field(0, description="extend: above")
    down: TopTokens = Field(0, description="extend: below")
    keep: float = Field(0.5, ge=0, le=1, description="transfer: share of the top tokens that stay")
    choose: Literal["random", "confidence"] = Field("random", description="transfer: which of them")
    keep_bottom: bool = Field(False, description="transfer: without drawing the bottom anew")


class MadeImage(BaseModel):
    """One image; its PNG carries its settings as JSON in the text chunk `strait`."""

    png: str = Field(description="base64")
    label: str | None
    seed: int
    index: int


class ImagesReply(BaseModel):
    """The images of a request."""

    images: list[MadeImage]
    model: str = Field(description="hash of the model's weights")
    note: str | None = Field(
        None, description="what to know of the result, as that it could not follow the picture; null for nothing"
    )


class StepEvent(BaseModel):
    """One step of decoding, the data of an event `step`: the images as far as they are known."""

    level: str = Field(description="top or bottom")
    step: int = Field(description="from 1")
    steps: int = Field(description="that this level takes")
    images: list[str] = Field(
        description="PNG each, base64; what is decoded together, which may be a part of the request"
    )


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str
