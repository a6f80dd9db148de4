"""Requests and replies as the OpenAPI page shows them (no torch here)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictInt, StrictStr

from strait.decoding.config import ScheduleName


def _whole(value: Any) -> Any:
    """16.0 is a whole number to JSON, and to clients whose numbers are all alike; True is none."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[StrictInt, BeforeValidator(_whole)]
Label = Annotated[StrictStr, Field(max_length=200)] | Annotated[Whole, Field(ge=0, le=10**6)]
Count = Annotated[Whole, Field(ge=1, le=10**4)]
Temperature = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
TopTokens = Annotated[Whole, Field(ge=0, le=16)]
Pixels = Annotated[Whole, Field(ge=0, le=64)]


class DecodingBody(BaseModel):
    """Settings that every request may have; the model's own where they are left out."""

    model_config = ConfigDict(extra="forbid")

    seed: Whole = Field(0, ge=-(2**63), le=2**63 - 1, description="image k of a seed is always the same")
    steps: list[Count] | None = Field(None, min_length=1, max_length=4, description="of each level, as [18, 6]")
    temperature: Temperature | list[Temperature] | None = Field(None, description="one for all levels, or one each")
    guidance: float | None = Field(None, ge=-1e6, le=1e6, allow_inf_nan=False)
    schedule: ScheduleName | None = Field(None, description="mask schedule")


class GenerateBody(DecodingBody):
    """Images as ``StraIT.generate(labels, count, seed)`` makes them."""

    labels: list[Label] | None = Field(
        None, min_length=1, max_length=1000, description="names, WordNet ids or indices, an image each"
    )
    count: Count = Field(1, description="images without labels; classes are then drawn from the seed")


class EditBody(DecodingBody):
    """An edit of a picture, as ``strait edit`` makes it."""

    action: Literal["infill", "extend", "relabel", "transfer"]
    image: str = Field(description="PNG, JPEG or WebP, base64")
    mask: str | None = Field(None, description="PNG, JPEG or WebP of the picture's size, base64; white where to fill")
    label: Label | None = Field(None, description="name, WordNet id or index")
    count: Count = 1
    strength: float = Field(1.0, gt=0, le=1, description="infill, relabel: share of the masked tokens drawn anew")
    margin: Pixels = Field(0, description="infill, relabel: pixels of the model's size to grow the mask by")
    context: float = Field(
        2.0, ge=1, le=100, description="infill, relabel: what the model sees, in extents of the mask"
    )
    feather: Pixels = Field(2, description="infill, relabel, extend: pixels over which the new fades in")
    composite: bool = Field(True, description="infill, relabel, extend: keep the picture's own pixels")
    left: TopTokens = Field(0, description="extend: top tokens")
    right: TopTokens = 0
    up: TopTokens = 0
    down: TopTokens = 0
    keep: float = Field(0.5, ge=0, le=1, description="transfer: share of the top tokens that stay")
    choose: Literal["random", "confidence"] = Field("random", description="transfer: which of them")
    keep_bottom: bool = Field(False, description="transfer: without drawing the bottom anew")


class MadeImage(BaseModel):
    """One image; its PNG carries its settings as JSON in the text chunk ``strait``."""

    png: str = Field(description="base64")
    label: str | None
    seed: int
    index: int


class ImagesReply(BaseModel):
    """What both verbs of the service reply."""

    images: list[MadeImage]
    model: str = Field(description="hash of the model's weights")


class Problem(BaseModel):
    """Why a request was refused."""

    detail: str
