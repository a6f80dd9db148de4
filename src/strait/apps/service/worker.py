"""The process that holds the model, as LitServe runs it."""

# No postponed annotations here: LitServe reads those of decode_request as they stand.

import signal
from typing import Any

import litserve
import torch
from fastapi import Response

from strait.apps.service.limits import Limits
from strait.apps.service.replies import Replier
from strait.apps.service.schema import DecodingBody, GenerateBody
from strait.model import StraIT


class ImagesAPI(litserve.LitAPI):
    """Decodes what the queue holds, as many rows together as fit.

    Args:
        source: of the model.
        limits: what a request may ask for.
        batch: rows decoded at once, and requests taken from the queue at once.
        delay: seconds to wait for further requests.
        threads: of a CPU worker.
    """

    def __init__(self, source: str | None, limits: Limits, batch: int, delay: float, threads: int) -> None:
        super().__init__(max_batch_size=batch, batch_timeout=delay, api_path="/v1/images/generate")
        self.source, self.limits, self.rows, self.threads = source, limits, batch, threads

    def setup(self, device: str) -> None:
        # Ctrl-C reaches every process of a terminal: this one goes on until what was accepted is done.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        if device.startswith("cpu"):
            torch.set_num_threads(self.threads)
        self.replier = Replier(StraIT.from_pretrained(self.source, device), self.limits, self.rows)
        self.replier.warm_up()

    def decode_request(self, request: GenerateBody, **_: Any) -> DecodingBody:
        return request

    def encode_response(self, output: Any, **_: Any) -> Response:
        return output

    def batch(self, inputs: list[DecodingBody]) -> list[DecodingBody]:
        return inputs

    def unbatch(self, output: list[Response]) -> list[Response]:
        return output

    def predict(self, x: Any, **_: Any) -> Any:
        # LitServe hands over a single one, bare, where batches hold but one.
        return self.replier.replies(x) if isinstance(x, list) else self.replier.replies([x])[0]
