"""The service on Ray Serve, for more than one machine: the same requests, the same replies.

pip install ".[serve]" "ray[serve]"
serve run docs.ray_serve:service          from the repository, or with its path in PYTHONPATH

Ray places the replicas, restarts those that die and balances the load. Its own settings take the place of ours:
max_queued_requests for the queue's bound (Ray then answers 503), and a proxy in front for keys and sizes of uploads.
A body that is no request at all is refused in FastAPI's own words.
"""

# No postponed annotations here: FastAPI reads those of the class before Ray has made it.

from typing import Any

from fastapi import FastAPI
from ray import serve
from starlette.responses import PlainTextResponse, Response

from strait.apps.service.limits import Limits
from strait.apps.service.messages import Reply
from strait.apps.service.replies import Replier, classes_reply
from strait.apps.service.schema import DecodingBody, EditBody, GenerateBody
from strait.model.strait import StraIT

app = FastAPI(title="strait on Ray Serve")


@serve.deployment(
    num_replicas=1,  # as many as there are machines or GPUs
    ray_actor_options={"num_cpus": 1},  # on GPUs: {"num_gpus": 1}, and below Images.bind(device="cuda")
    max_ongoing_requests=64,
    max_queued_requests=64,
)
@serve.ingress(app)
class Images:
    """One replica: a model, and a queue that fills its batches."""

    def __init__(self, source: str | None = None, device: str = "cpu") -> None:
        self.replier = Replier(StraIT.from_pretrained(source, device), Limits(), rows=32)
        self.replier.warm_up()

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.02)
    async def reply(self, bodies: list[DecodingBody]) -> list[Any]:
        return self.replier.replies(bodies)

    @app.post("/v1/images/generate")
    async def generate(self, body: GenerateBody) -> Response:
        return as_response(await self.reply(body))

    @app.get("/v1/classes")
    async def classes(self) -> dict[str, Any]:
        model = self.replier.model
        return classes_reply(model.classes, model.config.image_size, model.default_decoding())

    @app.get("/health")
    async def health(self) -> Response:
        return PlainTextResponse("ok")

    @app.post("/v1/images/edit")
    async def edit(self, body: EditBody) -> Response:
        return as_response(await self.reply(body))


def as_response(reply: Reply) -> Response:
    return Response(reply.content, reply.status, media_type=reply.media_type)


service = Images.bind()
