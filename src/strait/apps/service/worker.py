"""The process that holds the model, as LitServe runs it, and the loop that feeds the model.

LitServe's own loop gives all replies of a batch together, when the last is done, and asks the queue a thousand times a
second. This one gives each reply as soon as it is there, encodes it on a second thread, and lets no image to generate
wait for more than one edit.
"""

# No postponed annotations here: LitServe reads those of decode_request as they stand.

import logging
import os
import signal
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Empty
from typing import Any, NamedTuple

import litserve
import torch
from fastapi import Response
from litserve.loops.base import LitLoop
from litserve.utils import LitAPIStatus, LoopResponseType

from strait.apps.service.limits import Limits
from strait.apps.service.replies import Replier, problem, refusal
from strait.apps.service.schema import DecodingBody, EditBody, GenerateBody
from strait.model.strait import StraIT
from strait.runtime.devices import give_back_memory

END = (None, None, None, None)
"""What a worker takes from the queue to know that nothing will come any more."""

_LOOK_AROUND = 1.0
"""Seconds after which an idle worker looks whether the service is still there."""

_TRIM_EVERY = 32
"""Rounds of work after which memory that is free is given back: batches of all sizes leave it in pieces, and more of
them every hour."""


class Request(NamedTuple):
    """What the HTTP process put into the queue."""

    consumer: int
    uid: str
    at: float
    body: DecodingBody


class ImagesAPI(litserve.LitAPI):
    """Decodes what the queue holds, as many rows together as fit.

    Args:
        source: the model's folder.
        limits: what a request may ask for.
        batch: rows decoded at once.
        delay: seconds to wait for further requests.
        threads: of a CPU worker.
    """

    def __init__(self, source: str, limits: Limits, batch: int, delay: float, threads: int) -> None:
        super().__init__(max_batch_size=1, loop=ImagesLoop(), api_path="/v1/images/generate")
        self.source, self.limits, self.rows, self.delay, self.threads = source, limits, batch, delay, threads

    def setup(self, device: str) -> None:
        # Ctrl-C reaches every process of a terminal, and a signal to the group every process of the service: this one
        # goes on until what was accepted is done, and ends when it is told so through the queue.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if device.startswith("cpu"):
            torch.set_num_threads(self.threads)
        self.replier = Replier(StraIT.from_pretrained(self.source, device), self.limits, self.rows)
        self.replier.warm_up()

    def decode_request(self, request: GenerateBody, **_: Any) -> DecodingBody:
        return request

    def encode_response(self, output: Any, **_: Any) -> Response:
        return output

    def predict(self, x: Any, **_: Any) -> Any:
        raise NotImplementedError("ImagesLoop asks the replier itself")


class ImagesLoop(LitLoop):
    """What a worker does from its start to its end."""

    def __call__(self, lit_api: Any, device: str, worker_id: int, request_queue: Any, *rest: Any) -> None:
        transport, parent = rest[0], os.getppid()
        edits: deque[Request] = deque()
        is_open, rounds = True, 0
        with ThreadPoolExecutor(1) as finishing:

            def work(requests: list[Request]) -> None:
                """Do some requests together; replies are encoded and sent while the next are decoded."""
                late = [request for request in requests if time.monotonic() - request.at > lit_api.limits.seconds]
                for request in late:
                    self._send(transport, request, lambda: problem(504, "the request waited too long for its turn"))
                some = [request for request in requests if request not in late]
                for number, finish in lit_api.replier.results([request.body for request in some]):
                    finishing.submit(self._send, transport, some[number], finish)

            while is_open or edits:
                taken: list[Request] = []
                if is_open:
                    taken, is_open = _take(request_queue, lit_api, 0 if edits else _LOOK_AROUND)
                    is_open = is_open and os.getppid() == parent
                edits += [request for request in taken if isinstance(request.body, EditBody)]
                work([request for request in taken if not isinstance(request.body, EditBody)])
                if edits:
                    work([edits.popleft()])
                if taken:
                    rounds += 1
                    if rounds % _TRIM_EVERY == 0:
                        give_back_memory()

    def _send(self, transport: Any, request: Request, finish: Callable[[], Response]) -> None:
        try:
            reply = finish()
        except Exception as error:  # no memory for the PNGs, for one; without a reply the client would wait for ever
            reply = refusal(error)()
        try:
            is_ok: Any = LitAPIStatus.OK
            self.put_response(transport, request.consumer, request.uid, reply, is_ok, LoopResponseType.REGULAR)
        except (OSError, EOFError):
            logging.getLogger(__name__).warning("a reply could not be given: the service is gone")


def _take(queue: Any, api: ImagesAPI, patience: float) -> tuple[list[Request], bool]:
    """Requests from the queue, and whether more may come.

    Waits ``patience`` seconds for the first; then, as long as images to generate do not fill a batch, the delay of the
    service for others.
    """
    taken: list[Request] = []
    rows, wait = 0, patience
    end = 0.0
    try:
        while rows < api.rows:
            found = queue.get(timeout=wait) if wait > 0 else queue.get_nowait()
            if found == END:
                return taken, False
            taken.append(Request(*found))
            body = taken[-1].body
            if isinstance(body, GenerateBody):
                rows += body.count if body.labels is None else len(body.labels)
            end = end or time.monotonic() + api.delay
            wait = max(0.0, end - time.monotonic())
    except Empty:
        pass
    except (OSError, EOFError):
        return taken, False
    return taken, True
