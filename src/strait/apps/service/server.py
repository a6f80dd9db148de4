"""The HTTP service: routes, start and graceful stop."""

# No postponed annotations here: FastAPI evaluates those of the routes.

import contextlib
import json
import math
import os
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import HTMLResponse, PlainTextResponse, RedirectResponse, StreamingResponse

from strait.apps.connection import HostCheck, impatient_protocol
from strait.apps.service.description import CLASSES, EDIT, GENERATE, describe
from strait.apps.service.gate import Gate, Held, Refusal
from strait.apps.service.limits import Limits
from strait.apps.service.messages import EVENTS, Form, Reply
from strait.apps.service.metrics import Metrics
from strait.apps.service.pool import Pool
from strait.apps.service.replies import classes_reply, event, problem_bytes
from strait.apps.service.schema import DecodingBody, EditBody, GenerateBody
from strait.data.classes import ClassNames
from strait.model.config import ModelError
from strait.model.folder import read_description
from strait.model.hub import find_folder

BATCH_HEADER = "x-strait-batch"
_DOCS = Path(__file__).parent / "docs.html"
_POLICY = (
    "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_FORMS: dict[str, Form] = {
    "application/json": "json",
    "image/png": "png",
    EVENTS: "events",
    "*/*": "json",
    "application/*": "json",
    "image/*": "png",
}


@dataclass(frozen=True)
class ServiceConfig:
    """Settings of the service.

    batch: rows decoded at once.
    delay: seconds to wait for further requests to fill a batch.
    devices: one for each worker: cpu, cuda:0.
    key: required in requests; None for no key.
    hosts: to answer for, without a port; empty for all.
    origins: of pages that may send requests (CORS); ``*`` for all.
    """

    batch: int = 32
    delay: float = 0.02
    devices: Sequence[str] = ("cpu",)
    key: str | None = None
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()


@dataclass(frozen=True)
class Service:
    """An application and its workers, which start and end with it."""

    app: FastAPI
    pool: Pool
    limits: Limits


def build_service(source: str | None, config: ServiceConfig, limits: Limits) -> Service:
    """Build the service without starting it.

    Raises:
        ModelError: if the model or a part of it is missing.
    """
    folder = find_folder(source)
    model, names, decoding = read_description(folder)
    for part in model.parts:
        if part != "upsampler" and not (folder / f"{part}.safetensors").exists():
            raise ModelError(f"{folder} has no {part} yet; train it with: strait train {part} --data DIR --model M")
    if "upsampler" in model.parts and not (folder / "upsampler.safetensors").exists():
        decoding = decoding.first(model.tokenizer.num_levels)  # as the workers' model decodes
    # Inherited by workers. Batches have many sizes, and oneDNN and PyTorch cache half a megabyte for each size: their
    # default of 1024 entries would grow for hours.
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, "256")
    held, threads = Held(), max(1, torch.get_num_threads() // len(config.devices))
    pool = Pool(str(folder), config.devices, limits, config.batch, config.delay, threads, held)
    metrics = Metrics((GENERATE, EDIT, CLASSES, "/health", "/metrics"), BATCH_HEADER)
    # Encoded once: a model may have many classes.
    classes = json.dumps(classes_reply(ClassNames(names), model.image_size, decoding)).encode()

    @contextlib.asynccontextmanager
    async def workers(_: FastAPI) -> AsyncIterator[None]:
        async with pool:
            yield

    app = FastAPI(title="strait", docs_url=None, redoc_url=None, lifespan=workers)
    # The middleware that is added last runs first.
    app.add_middleware(
        Gate, limits=limits, key=config.key, metrics=metrics, refuse=problem, work=(GENERATE, EDIT), held=held
    )
    if config.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=config.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-API-Key"],
            expose_headers=["Retry-After", BATCH_HEADER],
        )
    app.add_middleware(HostCheck, hosts=config.hosts)
    metrics.ready.set_function(pool.ready)
    _add_routes(app, pool, metrics, classes)
    app.openapi = lambda: describe(app, limits, config.key is not None)  # type: ignore[method-assign]

    @app.exception_handler(Refusal)
    async def refused(request: Request, refusal: Refusal) -> Response:
        return problem(refusal.status, refusal.detail, refusal.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return _invalid(error, limits)

    return Service(app, pool, limits)


def _add_routes(app: FastAPI, pool: Pool, metrics: Metrics, classes: bytes) -> None:
    @app.post(GENERATE, summary="Generate images")
    async def generate(request: Request, body: GenerateBody) -> Response:
        return await _answer(pool, body, request)

    @app.post(EDIT, summary="Edit a picture")
    async def edit(request: Request, body: EditBody) -> Response:
        return await _answer(pool, body, request)

    @app.get(CLASSES, summary="Classes of the model, and its default settings")
    async def list_classes() -> Any:
        return Response(classes, media_type="application/json")

    @app.get("/health", summary="Whether the service is ready", response_class=PlainTextResponse)
    async def show_health() -> Response:
        trouble = pool.health()
        return PlainTextResponse(trouble or "ok", 503 if trouble else 200)

    @app.get("/metrics", summary="Metrics in Prometheus' text format", response_class=PlainTextResponse)
    async def read_metrics() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/", summary="Redirect to the documentation", response_class=RedirectResponse)
    async def start() -> Response:
        return RedirectResponse("docs")

    # Not FastAPI's own page, which loads scripts from elsewhere and cannot send a key.
    @app.get("/docs", include_in_schema=False)
    async def show_docs() -> Response:
        headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(_DOCS.read_text(encoding="utf-8"), headers=headers)


async def _answer(pool: Pool, body: DecodingBody, request: Request) -> Response:
    replies = pool.ask(body, form_of(request.headers.get("accept", "")))
    first = await anext(replies)
    if not first.is_last or first.media_type == EVENTS:
        return StreamingResponse(_events(first, replies), media_type=EVENTS, headers={"Cache-Control": "no-store"})
    headers = {"Vary": "Accept"} | ({BATCH_HEADER: str(first.rows)} if first.rows else {})
    return Response(first.content, first.status, headers, first.media_type)


async def _events(reply: Reply, replies: AsyncIterator[Reply]) -> AsyncIterator[bytes]:
    """The steps, then the images or, if the work failed, a problem."""
    try:
        while True:
            yield reply.content if reply.status == 200 else event("problem", reply.content)
            if reply.is_last:
                return
            reply = await anext(replies)
    except Refusal as refusal:
        yield event("problem", problem_bytes(refusal.detail))
    finally:
        await replies.aclose()  # type: ignore[attr-defined]


def form_of(accept: str) -> Form:
    """The form that an ``Accept`` header prefers; JSON if it names none of the available forms."""
    best, form = 0.0, _FORMS["*/*"]
    for choice in accept.split(","):
        kind, *options = (part.strip().lower() for part in choice.split(";"))
        quality = 1.0
        for option in options:
            if option.startswith("q="):
                with contextlib.suppress(ValueError):
                    quality = float(option[2:])
        if kind in _FORMS and quality > best:
            best, form = quality, _FORMS[kind]
    return form


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    """A refusal."""
    return Response(problem_bytes(detail), status, headers, "application/json")


def _invalid(error: RequestValidationError, limits: Limits) -> Response:
    """A one-line error without the invalid input, which may be megabytes, or binary."""
    first = error.errors()[0]
    # Omits which alternative of a union did not match.
    name, *inner = first["loc"][1:] or ("body",)
    where = ".".join([str(name)[:100], *(str(part) for part in inner if isinstance(part, int))])
    message = first["msg"][:500]
    if (name, first["type"]) == ("labels", "too_long"):
        message = f"a request may have {limits.images} images, but this one asks for more"
    if first["type"] == "json_invalid":
        return problem(400, f"body: {message}")
    return problem(422, f"{where}: {message}")


def serve(service: Service, host: str, port: int) -> int:
    """Serve until told to stop; accepted requests are still answered.

    Returns:
        The exit status: 0 when told to stop, 1 when a worker was lost.
    """
    limits = service.limits
    config = uvicorn.Config(
        service.app,
        host,
        port,
        http=impatient_protocol(limits.upload_seconds, reply=limits.reply_seconds),
        log_level="warning",
        access_log=False,
        # The longest time that an accepted request can take.
        timeout_graceful_shutdown=math.ceil(limits.seconds + limits.work_seconds + limits.reply_seconds),
    )
    server = uvicorn.Server(config)

    def stop(*_: object) -> None:
        server.should_exit = True

    # uvicorn would raise the signal again at the end, and drop accepted requests on a second one.
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    service.pool.on_loss = stop
    server.run()
    return int(service.pool.is_lost)
