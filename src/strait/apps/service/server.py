"""The HTTP service: routes, documentation, start and graceful stop."""

# No postponed annotations here: FastAPI reads those of the routes as they stand.

import math
import multiprocessing
import os
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import litserve
import torch
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, PlainTextResponse
from litserve.callbacks import Callback
from litserve.server import RegularRequestHandler

from strait import __version__
from strait.apps.connection import impatient_protocol
from strait.apps.service.gate import Gate
from strait.apps.service.limits import Limits
from strait.apps.service.metrics import Metrics
from strait.apps.service.replies import BATCH_HEADER, classes_reply, problem
from strait.apps.service.schema import EditBody, ImagesReply, Problem
from strait.apps.service.worker import END, ImagesAPI
from strait.data.classes import ClassNames
from strait.model.config import ModelError
from strait.model.folder import read_description
from strait.model.hub import find_folder

GENERATE, EDIT, CLASSES = "/v1/images/generate", "/v1/images/edit", "/v1/classes"
_DOCS = Path(__file__).parent / "docs.html"
_OWN_DOCS = ("/docs", "/docs/oauth2-redirect", "/redoc")
_POLICY = (
    "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_REFUSALS = {
    "400": "the body is not JSON",
    "401": "the API key is missing or wrong",
    "408": "the body came too slowly",
    "413": "the body is too large",
    "422": "the request does not fit the model, or the limits",
    "429": "the queue is full: come back after Retry-After seconds",
    "500": "a fault of the service's",
    "503": "the service ends",
    "504": "the request waited too long",
}


@dataclass(frozen=True)
class ServiceConfig:
    """Settings of the service.

    Args:
        batch: rows decoded at once.
        delay: seconds to wait for further requests to fill a batch.
        workers: processes for each device.
        accelerator: cpu or cuda.
        devices: how many of them, or which.
        key: that requests must carry; none if None.
    """

    batch: int = 32
    delay: float = 0.02
    workers: int = 1
    accelerator: str = "cpu"
    devices: int | list[int] = 1
    key: str | None = None


def build_server(source: str | None, config: ServiceConfig, limits: Limits) -> litserve.LitServer:
    """The service, not yet started.

    Raises:
        ModelError: if the model is not there, or a part of it is missing.
    """
    folder = find_folder(source)
    model, names, decoding = read_description(folder)
    for part in model.parts:
        if part != "upsampler" and not (folder / f"{part}.safetensors").exists():
            raise ModelError(f"{folder} has no {part} yet; make it with: strait train {part} --data DIR --model M")
    if "upsampler" in model.parts and not (folder / "upsampler.safetensors").exists():
        decoding = decoding.first(model.tokenizer.num_levels)  # as the workers' model decodes
    classes = ClassNames(names)
    threads = max(1, torch.get_num_threads() // config.workers)
    # Workers inherit this. Batches come in all sizes, and what is prepared for the products of each is kept, half a
    # megabyte apiece: in oneDNN's 1024 places and PyTorch's, which would take hours to fill.
    for cache in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):
        os.environ.setdefault(cache, "256")
    api = ImagesAPI(str(folder), limits, config.batch, config.delay, threads)
    metrics = Metrics((GENERATE, EDIT, CLASSES, "/health", "/metrics"), BATCH_HEADER)
    gate: dict[str, Any] = {
        "limits": limits,
        "key": config.key,
        "metrics": metrics,
        "refuse": problem,
        "work": (GENERATE, EDIT),
    }
    # Asked when the HTTP process is there: it knows the workers, which started before it.
    gate["workers"] = lambda: [worker.sentinel for worker in server.inference_workers]
    server = litserve.LitServer(
        api,
        accelerator=config.accelerator,  # type: ignore[arg-type]
        devices=config.devices,  # type: ignore[arg-type]
        workers_per_device=config.workers,
        timeout=limits.seconds,
        middlewares=[(Gate, gate)],
        callbacks=[_TellWorkers()],
        info_path="/info",
    )
    app = server.app
    edits = RegularRequestHandler(api, server)

    @app.post(EDIT, summary="Edit a picture")
    async def edit(request: EditBody) -> Response:
        # Through the same queue to the same workers: no second copy of the model.
        return await edits.handle_request(request, EditBody)

    @app.get(CLASSES, summary="Classes of the model, and its settings")
    async def list_classes() -> dict[str, Any]:
        return classes_reply(classes, model.image_size, decoding)

    # FastAPI's own pages load their scripts from elsewhere, and cannot send a key.
    app.router.routes = [route for route in app.router.routes if getattr(route, "path", "") not in _OWN_DOCS]

    @app.get("/docs", include_in_schema=False)
    async def show_docs() -> Response:
        headers = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff"}
        return HTMLResponse(_DOCS.read_text(encoding="utf-8"), headers=headers)

    @app.get("/metrics", summary="Counters in Prometheus' text format", response_class=PlainTextResponse)
    async def read_metrics() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4")

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        # One line, without what was sent: that may be megabytes, or no text at all.
        first = error.errors()[0]
        # Which of several kinds of value did not fit is pydantic's affair.
        places = [str(part) for part in first["loc"][1:] if not str(part).startswith("constrained-")]
        where = ".".join(places)[:100]
        return problem(400 if first["type"] == "json_invalid" else 422, f"{where or 'body'}: {first['msg'][:500]}")

    app.openapi = lambda: _described(app, config.key is not None)  # type: ignore[method-assign]
    return server


class _TellWorkers(Callback):
    """When the HTTP process has given its last reply, the workers are told through the queue that all is over."""

    def on_server_end(self, litserver: litserve.LitServer) -> None:
        for queue in litserver.litapi_request_queues.values():
            for _ in litserver.inference_workers:
                queue.put(END)


def _described(app: Any, has_key: bool) -> dict[str, Any]:
    """The OpenAPI description with what the workers reply and the gate refuses."""
    if app.openapi_schema is None:
        about = get_openapi(title="strait", version=__version__, routes=app.routes)
        parts = about["components"]["schemas"]
        for model in (ImagesReply, Problem):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            parts.update(schema.pop("$defs", {}))
            parts[model.__name__] = schema
        for path in (GENERATE, EDIT):
            replies = {"200": ("images", "ImagesReply")} | {code: (why, "Problem") for code, why in _REFUSALS.items()}
            about["paths"][path]["post"]["responses"] = {
                code: {
                    "description": why,
                    "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}},
                }
                for code, (why, name) in replies.items()
            }
        about["paths"][GENERATE]["post"]["summary"] = "Generate images"
        for path, summary in (("/", "A line of text"), ("/info", "How the service was started")):
            about["paths"][path]["get"]["summary"] = summary
        text = {"text/plain": {"schema": {"type": "string"}}}
        about["paths"]["/"]["get"]["responses"] = {"200": {"description": "it is there", "content": text}}
        about["paths"]["/health"]["get"] |= {
            "summary": "Whether the service can work",
            "security": [],
            "responses": {
                "200": {"description": "it can", "content": text},
                "503": {"description": "not yet, or no more", "content": text},
            },
        }
        if has_key:
            parts_of_key = {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "bearer": {"type": "http", "scheme": "bearer"},
            }
            about["components"]["securitySchemes"] = parts_of_key
            about["security"] = [{name: []} for name in parts_of_key]
            for operations in about["paths"].values():
                for operation in operations.values():
                    if "security" not in operation:
                        refused = {"schema": {"$ref": "#/components/schemas/Problem"}}
                        operation["responses"]["401"] = {
                            "description": _REFUSALS["401"],
                            "content": {"application/json": refused},
                        }
        app.openapi_schema = about
    return app.openapi_schema


def serve(server: litserve.LitServer, host: str, port: int, limits: Limits) -> int:
    """Serve until told to stop; what was accepted by then is still answered.

    Returns:
        The exit status: 0 when told to stop, 1 when a process of the service was lost.
    """
    main = os.getpid()
    # A batch in work is finished, however little a request may wait.
    server.uvicorn_graceful_timeout = max(60, math.ceil(2 * limits.seconds))
    # Its own answer to a lost worker waits for replies that will not come.
    server._monitor_workers = False
    is_lost, is_told = threading.Event(), threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        # The HTTP process and the queue's inherit this: a signal to the whole group must not end the queue, and the
        # HTTP process passes its own on when it is done.
        if os.getpid() == main:
            is_told.set()
            for again in (signal.SIGINT, signal.SIGTERM):
                signal.signal(again, signal.SIG_IGN)
            # On this LitServe first ends the HTTP process, which waits for its replies, and then the workers; on a
            # plain SIGTERM nobody would end them.
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    threading.Thread(target=_watch_processes, args=(is_told, is_lost), daemon=True).start()
    try:
        # One HTTP process: its queue's bound and its counters are those of the service.
        server.run(
            host=host,
            port=port,
            num_api_servers=1,
            generate_client_file=False,
            log_level="warning",
            access_log=False,
            http=impatient_protocol(limits.upload_seconds),
        )
    except KeyboardInterrupt:
        pass  # before its start was over: nothing is left to be answered
    except (RuntimeError, OSError, EOFError):
        is_lost.set()  # a worker could not start, or the queue is gone
    finally:
        for child in multiprocessing.active_children():
            child.kill()
    return int(is_lost.is_set())


def _watch_processes(is_told: threading.Event, is_lost: threading.Event) -> None:
    """End the service when one of its processes has ended: half a service would keep its clients waiting."""
    known: set[int | None] = set()
    while not is_told.is_set():
        alive = {child.pid for child in multiprocessing.active_children()}
        if known - alive and not is_told.is_set():
            is_lost.set()
            os.kill(os.getpid(), signal.SIGTERM)
            return
        known |= alive
        time.sleep(0.2)
