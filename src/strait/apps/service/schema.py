"""The schema of requests and replies, with the descriptions of the OpenAPI page (no torch here)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, StrictStr, model_validator

from strait.apps.service.limits import MOST_IMAGES
from strait.decoding.config import GuidanceRamp, Revision, ScheduleName


def _whole(value: Any) -> Any:
    """JSON clients may write an integer as 16.0; True is not accepted."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[StrictInt, BeforeValidator(_whole)]
# Bounds come before the validator, so that the schema includes them.
Index = Annotated[StrictInt, Field(ge=0), BeforeValidator(_whole)]
Count = Annotated[StrictInt, Field(ge=1), BeforeValidator(_whole)]
"""The upper limit is checked by the service (``Limits``), with its own message."""
Passes = Annotated[StrictInt, Field(ge=0, le=2**31), BeforeValidator(_whole)]
TopTokens = Annotated[StrictInt, Field(ge=0, le=16), BeforeValidator(_whole)]
Pixels = Annotated[StrictInt, Field(ge=0, le=64), BeforeValidator(_whole)]
Label = Annotated[StrictStr, Field(max_length=200)] | Index
Temperature = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
# A list is refused at its first invalid item: errors for all of them would take more memory than the request.
Steps = Annotated[list[Count], Field(min_length=1, max_length=4, fail_fast=True)]
Temperatures = Annotated[list[Temperature], Field(min_length=1, max_length=4, fail_fast=True)]
Labels = Annotated[list[Label], Field(min_length=1, max_length=MOST_IMAGES, fail_fast=True)]


class DecodingBody(BaseModel):
    """Settings of every request; the model's defaults where omitted."""

    model_config = ConfigDict(extra="forbid")

    seed: Whole = Field(0, ge=-(2**63), le=2**63 - 1, description="image k of a seed is always the same")
    steps: Steps | None = Field(None, description="steps of each level, such as [18, 6]")
    temperature: Temperature | Temperatures | None = Field(None, description="one for all levels, or one for each")
    guidance: float | None = Field(
        None, ge=-1e6, le=1e6, allow_inf_nan=False, description="scale of classifier-free guidance"
    )
    schedule: ScheduleName | None = Field(None, description="mask schedule")
    quality: float | None = Field(
        None, ge=0, le=1, description="below 1, images take fewer steps where the model is sure of its tokens"
    )
    guidance_ramp: GuidanceRamp | None = Field(None, description="guidance over the steps")
    guidance_start: float | None = Field(None, ge=0, lt=1, description="share of the steps before guidance begins")
    revise: Revision | None = Field(None, description="which tokens are taken back")
    revise_share: float | None = Field(
        None, ge=0, le=1, description="remask, confidence: share of the kept tokens to mask again at each step"
    )
    revise_passes: Passes | None = Field(None, description="redraw: additional passes of each level, at least 2")

    @model_validator(mode="before")
    @classmethod
    def _first_unknown(cls, values: Any) -> Any:
        """Keep only the first unknown name, since each gives a long error."""
        if not isinstance(values, dict):
            return values
        unknown = next((name for name in values if name not in cls.model_fields), None)
        if unknown is None:
            return values
        return {unknown: None, **{name: values[name] for name in cls.model_fields if name in values}}


class GenerateBody(DecodingBody):
    """Images as by `StraIT.generate(labels, count, seed)`, or with labels and a count as by `strait generate`."""

    labels: Labels | None = Field(None, description="classes by name, WordNet id or index; one image each")
    count: Count | None = Field(
        None,
        description="with labels: images of each, as --count of the command line (image k of a label does not depend "
        "on the other labels); without labels: total number of images (default 1), of classes drawn from the seed",
    )

    @property
    def images(self) -> int:
        """The number of requested images."""
        return (1 if self.labels is None else len(self.labels)) * (self.count or 1)


class EditBody(DecodingBody):
    """An edit of a picture, as by `strait edit`."""

    action: Literal["infill", "extend", "relabel", "transfer"]
    image: str = Field(description="PNG, JPEG or WebP, base64")
    mask: str | None = Field(None, description="PNG, JPEG or WebP of the picture's size, base64; white where to fill")
    label: Label | None = Field(None, description="class by name, WordNet id or index")
    count: Count = Field(1, description="number of results")
    strength: float = Field(1.0, gt=0, le=1, description="infill, relabel: share of the masked tokens to redraw")
    margin: Pixels = Field(0, description="infill, relabel: pixels, at the model's size, to grow the mask by")
    context: float = Field(
        2.0, ge=1, le=100, description="infill, relabel: what the model sees, in extents of the mask"
    )
    feather: Pixels = Field(2, description="infill, relabel, extend: pixels over which the new content fades in")
    composite: bool = Field(True, description="infill, relabel, extend: keep the picture's own pixels")
    cover: float = Field(
        0.25, ge=0, lt=1, description="infill, relabel: share of a top token above which the mask makes it unknown"
    )
    seam: Pixels = Field(0, description="infill, relabel: pixels outside the mask over which the edit fades out")
    left: TopTokens = Field(0, description="extend: top tokens to add on the left")
    right: TopTokens = Field(0, description="extend: on the right")
    up: TopTokens = Field(0, description="extend: above")
    down: TopTokens = Field(0, description="extend: below")
    keep: float = Field(0.5, ge=0, le=1, description="transfer: share of the top tokens to keep")
    choose: Literal["random", "confidence"] = Field("random", description="transfer: which tokens to keep")
    keep_bottom: bool = Field(False, description="transfer: no bottom-level re-prediction")


class MadeImage(BaseModel):
    """One image; its PNG stores its settings as JSON in the text chunk `strait`."""

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
    """One decoding step, the data of an event `step`: the images decoded so far."""

    level: str = Field(description="top or bottom")
    step: int = Field(description="from 1")
    steps: int = Field(description="total steps of this level")
    images: list[str] = Field(
        description="a PNG each, base64, of the images that are decoded together, which may be a part of the request"
    )


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str
