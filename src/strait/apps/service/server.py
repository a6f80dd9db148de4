"""The HTTP service: routes, documentation, start and graceful stop."""

# No postponed annotations here: FastAPI reads those of the routes as they stand.

import os
import signal
from dataclasses import asdict, dataclass
from types import FrameType
from typing import Any

import litserve
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from litserve.server import RegularRequestHandler

from strait import __version__
from strait.apps.service.gate import Gate
from strait.apps.service.limits import Limits
from strait.apps.service.metrics import Metrics
from strait.apps.service.replies import BATCH_HEADER, problem
from strait.apps.service.schema import EditBody, ImagesReply, Problem
from strait.apps.service.worker import ImagesAPI
from strait.data.classes import ClassNames
from strait.model_folder import ModelError, find_folder, read_description

GENERATE, EDIT, CLASSES = "/v1/images/generate", "/v1/images/edit", "/v1/classes"
_REFUSALS = {
    "400": "the body is not JSON",
    "401": "the API key is missing or wrong",
    "408": "the body came too slowly",
    "413": "the body is too large",
    "422": "the request does not fit the model, or the limits",
    "429": "the queue is full: come back after Retry-After seconds",
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
        devices: how many of them.
        key: that requests must carry; none if None.
    """

    batch: int = 32
    delay: float = 0.02
    workers: int = 1
    accelerator: str = "cpu"
    devices: int = 1
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
    classes = ClassNames(names)
    threads = max(1, len(os.sched_getaffinity(0)) // config.workers)
    api = ImagesAPI(source, limits, config.batch, config.delay, threads)
    metrics = Metrics((GENERATE, EDIT, CLASSES, "/health", "/metrics"), BATCH_HEADER)
    gate = {"limits": limits, "key": config.key, "metrics": metrics, "refuse": problem, "work": (GENERATE, EDIT)}
    server = litserve.LitServer(
        api,
        accelerator=config.accelerator,  # type: ignore[arg-type]
        devices=config.devices,
        workers_per_device=config.workers,
        timeout=limits.seconds,
        middlewares=[(Gate, gate)],
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
        found = [{"index": index, "name": name, "title": classes.title(index)} for index, name in enumerate(classes)]
        return {"classes": found, "image_size": model.image_size, "decoding": asdict(decoding)}

    @app.get("/metrics", summary="Counters in Prometheus' text format")
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

    app.openapi = lambda: _described(app)  # type: ignore[method-assign]
    return server


def _described(app: Any) -> dict[str, Any]:
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
        app.openapi_schema = about
    return app.openapi_schema


def serve(server: litserve.LitServer, host: str, port: int, limits: Limits) -> None:
    """Serve until told to stop; what was accepted by then is still answered."""
    main = os.getpid()
    server.uvicorn_graceful_timeout = int(2 * limits.seconds)

    def stop(number: int, frame: FrameType | None) -> None:
        # The HTTP process inherits this, and passes its own signal on when it is done.
        if os.getpid() == main:
            for again in (signal.SIGINT, signal.SIGTERM):
                signal.signal(again, signal.SIG_IGN)
            # On this LitServe first ends the HTTP process, which waits for its replies, and then the workers; on a
            # plain SIGTERM nobody would end them.
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    # One HTTP process: its queue's bound and its counters are those of the service.
    server.run(
        host=host, port=port, num_api_servers=1, generate_client_file=False, log_level="warning", access_log=False
    )
