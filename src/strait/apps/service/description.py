"""The OpenAPI description: that of FastAPI, completed by the service's limits and the replies of its workers."""

from __future__ import annotations

import base64
import io
from dataclasses import asdict
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from PIL import Image

from strait import __version__
from strait.apps.service.limits import Limits
from strait.apps.service.messages import EVENTS
from strait.apps.service.schema import EditBody, GenerateBody, ImagesReply, Problem, StepEvent

GENERATE, EDIT, CLASSES = "/v1/images/generate", "/v1/images/edit", "/v1/classes"
_REFUSALS = {
    "400": "the body is not JSON",
    "401": "the API key is missing or wrong",
    "408": "the body arrived too slowly",
    "413": "the body is too large",
    "422": "the request does not fit the model, or exceeds a limit",
    "429": "the queue is full: retry after Retry-After seconds",
    "500": "internal error",
    "503": "the service is stopping",
    "504": "the request waited too long for its turn, or its work took too long",
}
_TEXT = {"text/plain": {"schema": {"type": "string"}}}


def describe(app: FastAPI, limits: Limits, has_key: bool) -> dict[str, Any]:
    """The description, computed once."""
    if app.openapi_schema is None:
        about = get_openapi(title="strait", version=__version__, routes=app.routes)
        about["info"]["x-limits"] = asdict(limits)
        _add_schemas(about["components"]["schemas"], limits)
        for path, example in ((GENERATE, {"labels": [0], "seed": 5}), (EDIT, edit_example())):
            post = about["paths"][path]["post"]
            post["responses"] = _replies()
            post["requestBody"]["content"]["application/json"]["example"] = example
        about["paths"]["/"]["get"]["responses"] = {"307": {"description": "redirect to the documentation"}}
        about["paths"]["/health"]["get"]["responses"] = {
            "200": {"description": "ready", "content": _TEXT},
            "503": {"description": "not ready, with the reason", "content": _TEXT},
        }
        if has_key:
            _add_key(about)
        app.openapi_schema = about
    return app.openapi_schema


def edit_example() -> dict[str, Any]:
    """A complete example of an edit: a small picture, extended by one token on either side."""
    picture, buffer = Image.new("RGB", (16, 16), (90, 150, 210)), io.BytesIO()
    picture.paste((70, 120, 50), (0, 9, 16, 16))
    picture.save(buffer, format="PNG")
    return {"action": "extend", "image": base64.b64encode(buffer.getvalue()).decode(), "left": 1, "right": 1}


def _add_schemas(schemas: dict[str, Any], limits: Limits) -> None:
    # Requests also from pydantic: FastAPI turns bounds into floats, which rounds those of a seed.
    for model in (GenerateBody, EditBody, ImagesReply, StepEvent, Problem):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(schema.pop("$defs", {}))
        schemas[model.__name__] = schema
    for name in ("HTTPValidationError", "ValidationError"):  # replaced by Problem
        schemas.pop(name, None)
    schemas["EditBody"]["properties"]["count"]["maximum"] = limits.images
    for name, key in (("labels", "maxItems"), ("count", "maximum")):
        values, _ = schemas["GenerateBody"]["properties"][name]["anyOf"]
        values[key] = limits.images


def _replies() -> dict[str, Any]:
    def content(name: str) -> dict[str, Any]:
        return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}

    kinds = {
        **content("ImagesReply"),
        "image/png": {"schema": {"type": "string", "format": "binary"}},
        EVENTS: {"schema": {"type": "string"}},
    }
    about = (
        "the images in the form requested by the header Accept: JSON, one image as a PNG file, or server-sent events: "
        "`step` (StepEvent) after each step, and finally `images` (ImagesReply) or `problem` (Problem)"
    )
    refusals = {code: {"description": why, "content": content("Problem")} for code, why in _REFUSALS.items()}
    return {"200": {"description": about, "content": kinds}, **refusals}


def _add_key(about: dict[str, Any]) -> None:
    kinds = {
        "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        "bearer": {"type": "http", "scheme": "bearer"},
    }
    about["components"]["securitySchemes"] = kinds
    about["security"] = [{name: []} for name in kinds]
    refused = {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path, operations in about["paths"].items():
        for operation in operations.values():
            if path in ("/", "/health"):
                operation["security"] = []
            else:
                operation["responses"]["401"] = {"description": _REFUSALS["401"], "content": refused}
