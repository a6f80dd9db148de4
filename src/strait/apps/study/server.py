"""The raters' pages, one question each. Source: StraIT appendix D, Figures 11 and 12."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, select_autoescape
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from strait.apps.connection import HostCheck
from strait.apps.study.storage import Refused, Sheet, Study, Unavailable

_LONGEST_BODY = 1000
_BODY_SECONDS = 10
_PICTURE = {"Cache-Control": "private, max-age=86400", "X-Content-Type-Options": "nosniff"}
_SIDES = {
    "quality": (("Left", "Right"), ("←", "→"), ("ArrowLeft", "ArrowRight")),
    "diversity": (("Top", "Bottom"), ("↑", "↓"), ("ArrowUp", "ArrowDown")),
}


def study_app(study: Study, hosts: Sequence[str] = ()) -> Starlette:
    """The study as an ASGI application; the link of an invitation is the rater's key.

    Args:
        study: to be answered.
        hosts: to answer for, without a port; empty for all.
    """
    page = Environment(autoescape=select_autoescape(default=True), trim_blocks=True).from_string(
        (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
    )
    title = study.settings["title"]

    def show(status: int = 200, **values: Any) -> HTMLResponse:
        nonce = secrets.token_urlsafe(8)
        policy = (
            f"default-src 'none'; img-src 'self'; connect-src 'self'; style-src 'unsafe-inline'; "
            f"script-src 'nonce-{nonce}'; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )
        # The link is the rater's key: it must not leak by referrer, nor the page by a shared cache.
        headers = {
            "Content-Security-Policy": policy,
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        }
        return HTMLResponse(page.render(title=title, nonce=nonce, **values), status, headers)

    def start(request: Request) -> Response:
        return show(message="Please open the link of your invitation.")

    def questions(request: Request) -> Response:
        try:
            sheet = study.sheet(request.path_params["token"])
        except Unavailable:
            logging.getLogger(__name__).exception("a sheet could not be read")
            return show(503, message="The study cannot be read at the moment. Please try again in a minute.")
        if sheet is None:
            return show(404, message="There is no such invitation. Please check the link.")
        if sheet.submitted:
            return show(message="All your answers are in. Thank you!")
        return show(**_question(sheet, request.query_params.get("question", "")))

    async def answer(request: Request) -> Response:
        try:
            async with asyncio.timeout(_BODY_SECONDS):
                body = await _body(request)
        except TimeoutError:
            error = f"the answer did not arrive within {_BODY_SECONDS} seconds"
            return JSONResponse({"error": error}, 408, {"Connection": "close"})
        position, shown = body.get("position"), body.get("shown")
        if type(position) is not int or not 0 <= position < 2**31 or type(shown) is not int or shown not in (0, 1):
            return JSONResponse({"error": "position must be a question's number and shown 0 or 1"}, 400)
        return await run_in_threadpool(record, request.path_params["token"], position, shown)

    def record(token: str, position: int, shown: int) -> Response:
        try:
            study.record(token, position, shown)
            sheet = study.sheet(token)
        except (Refused, Unavailable) as error:
            return _refusal(error)
        assert sheet is not None
        return JSONResponse({"answered": sheet.answered, "questions": len(sheet.questions)})

    def submit(request: Request) -> Response:
        try:
            study.submit(request.path_params["token"])
        except (Refused, Unavailable) as error:
            return _refusal(error)
        return JSONResponse({"submitted": True})

    def picture(request: Request) -> Response:
        name = request.path_params["name"]
        if not re.fullmatch(r"[0-9a-f]{24}\.png", name) or not (study.pictures / name).is_file():
            return JSONResponse({"error": "there is no such picture"}, 404)
        return FileResponse(study.pictures / name, headers=_PICTURE)

    return Starlette(
        routes=[
            Route("/", start),
            Route("/r/{token}", questions),
            Route("/r/{token}/answers", answer, methods=["POST"]),
            Route("/r/{token}/submit", submit, methods=["POST"]),
            Route("/pictures/{name}", picture),
        ],
        middleware=[Middleware(HostCheck, hosts=hosts)],
    )


def _refusal(error: Refused | Unavailable) -> Response:
    if isinstance(error, Refused):
        return JSONResponse({"error": str(error)}, 409)
    # Such as a full disk: the rater must know, and may retry. The study's path must not be revealed.
    return JSONResponse({"error": f"it could not be stored: {error.__cause__}"}, 503)


def _question(sheet: Sheet, requested: str) -> dict[str, Any]:
    """The values of the page: of the question requested by number, from 1, else of the first unanswered one."""
    is_number = requested.isascii() and requested.isdecimal() and len(requested) < 6
    number = int(requested) - 1 if is_number else -1
    position = number if 0 <= number < len(sheet.questions) else sheet.first_open
    question = sheet.questions[position]
    names, arrows, keys = _SIDES[question.kind]
    return {
        "kind": question.kind,
        "question": question,
        "position": position,
        "answered": [entry.answer is not None for entry in sheet.questions],
        "all_done": sheet.answered == len(sheet.questions),
        "columns": -(-len(question.sides[0]) // 2),
        "names": names,
        "keys": arrows,
        "keys_js": keys,
    }


async def _body(request: Request) -> dict[str, Any]:
    content = b""
    async for piece in request.stream():
        content += piece
        if len(content) > _LONGEST_BODY:
            return {}
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}
