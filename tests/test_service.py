"""The HTTP service as a real process: right images, refusals with a reason, an end that loses nothing."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import itertools
import json
import multiprocessing
import os
import re
import signal
import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from conftest import make_photograph
from servers import Server, serving
from strait.apps.jobs import EditOptions, edited, passes_of
from strait.cli import main
from strait.editing.config import EditConfig
from strait.editing.edits import Edit, extend_picture, infill_picture, infilling_note, transfer_picture
from strait.editing.extension import Sides
from strait.model.strait import StraIT, random_model
from strait.pictures.images import to_pictures
from strait.pictures.reading import Picture
from test_upsampler import CLASSES, CONFIG

pytest.importorskip("fastapi", reason="the service needs pip install 'strait[serve]'")

from strait.apps.service.gate import Gate, Held
from strait.apps.service.limits import Limits
from strait.apps.service.messages import Reply, Task
from strait.apps.service.metrics import Metrics
from strait.apps.service.replies import Replier
from strait.apps.service.schema import EditBody, GenerateBody
from strait.apps.service.server import BATCH_HEADER, ServiceConfig, build_service, problem
from strait.apps.service.worker import Work

GENERATE, EDIT = "/v1/images/generate", "/v1/images/edit"
FEW = [3, 2]


def wait_until_ready(server: Server) -> Server:
    for _ in range(600):
        try:
            if server.get("/health").status_code == 200:
                return server
        except httpx.HTTPError:
            pass
        assert server.process.poll() is None, "".join(server.lines)
        time.sleep(0.2)
    raise AssertionError("the service never became ready")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("serve", "--port", 0, "--device", "cpu", "--max-megabytes", 1, "--max-upload-seconds", 2) as started:
        yield wait_until_ready(started)


@pytest.fixture(scope="module")
def model() -> StraIT:
    return StraIT.from_pretrained()


@pytest.fixture(scope="module")
def replier(model: StraIT) -> Iterator[Replier]:
    before = Image.MAX_IMAGE_PIXELS
    yield Replier(model, Limits(), 8)
    Image.MAX_IMAGE_PIXELS = before


def pictures(reply: httpx.Response) -> list[np.ndarray]:
    assert reply.status_code == 200, reply.text
    return [np.asarray(opened(image["png"])) for image in reply.json()["images"]]


def opened(png: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(png)))


def by_hand(model: StraIT, **wanted: Any) -> list[np.ndarray]:
    """What the Python call makes of a request's body."""
    names = ("steps", "temperature", "guidance", "schedule", "quality", "guidance_ramp", "guidance_start")
    names = (*names, "revise", "revise_share", "revise_passes")
    chosen = {name: wanted.pop(name) for name in names if name in wanted}
    decoding = model.default_decoding().chosen(model.config.tokenizer.num_levels, **chosen)
    images = model.generate(**wanted, decoding=decoding)
    return [np.asarray(picture) for picture in to_pictures(images)]


def same(first: list[np.ndarray], second: list[np.ndarray]) -> bool:
    return len(first) == len(second) and all(map(np.array_equal, first, second))


def png(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_images_are_those_of_the_python_call(server: Server, model: StraIT) -> None:
    for body in (
        {"labels": ["lemon", "daisy", 3], "seed": 5, "steps": FEW},
        {"count": 3, "seed": -(2**63), "steps": FEW},
        {"labels": ["RED_APPLE"], "steps": [4, 2], "temperature": [1, 0.5], "guidance": 0, "schedule": "linear"},
        {},
    ):
        reply = server.post(GENERATE, json=body)
        assert same(pictures(reply), by_hand(model, **dict(body))), body
        content = reply.json()
        assert content["model"] == model.weights_hash()
        labels = model.labels(body.get("labels"), body.get("count", 1), body.get("seed", 0))
        for index, image in enumerate(content["images"]):
            told = {"label": model.classes[labels[index]], "seed": body.get("seed", 0), "index": index}
            assert {name: image[name] for name in told} == told
            assert set(image) == {"png", "label", "seed", "index"}
            inside = json.loads(opened(image["png"]).info["strait"])
            assert {name: inside[name] for name in told} == told
            assert inside["model"] == content["model"]


def test_requests_of_other_labels_seeds_and_settings_share_a_batch(server: Server, model: StraIT) -> None:
    bodies: list[dict[str, Any]] = [
        {
            "labels": [number],
            "seed": number,
            "steps": FEW,
            "temperature": 1 + number % 3,
            "guidance": 0.5 + number % 2,
        }
        for number in range(12)
    ]
    bodies += [{"labels": [number], "steps": [2, 1]} for number in range(4)]
    with ThreadPoolExecutor(len(bodies)) as clients:
        replies = list(clients.map(lambda body: server.post(GENERATE, json=body), bodies))
    for body, reply in zip(bodies, replies, strict=True):
        assert same(pictures(reply), by_hand(model, **dict(body))), body
    assert max(int(reply.headers["x-strait-batch"]) for reply in replies) >= 4


def test_a_count_is_of_each_label_as_on_the_command_line(server: Server, model: StraIT, tmp_path: Path) -> None:
    reply = server.post(GENERATE, json={"labels": ["lemon", "daisy"], "count": 2, "seed": 5, "steps": FEW})
    words = ["--labels", "lemon,daisy", "--count", "2", "--seed", "5", "--output", str(tmp_path)]
    assert main(["generate", *words, "--steps", "3+2"]) == 0
    for name, images in (("lemon", reply.json()["images"][:2]), ("daisy", reply.json()["images"][2:])):
        for index, image in enumerate(images):
            written = Image.open(tmp_path / f"{name}-seed5-{index:04d}.png")
            assert np.array_equal(np.asarray(opened(image["png"])), np.asarray(written))
            assert image["index"] == index
    alone = server.post(GENERATE, json={"labels": ["daisy"], "count": 1, "seed": 5, "steps": FEW}).json()
    assert alone["images"] == reply.json()["images"][2:3]


def test_one_image_comes_as_a_file_to_those_who_accept_one(server: Server, model: StraIT) -> None:
    small = png(make_photograph("stripes", 1))
    for path, body in (
        (GENERATE, {"labels": ["lemon"], "seed": 5, "steps": FEW}),
        (EDIT, {"action": "extend", "image": small, "left": 1, "steps": FEW}),
    ):
        as_json = server.post(path, json=body)
        assert pictures(as_json)
        for accept in ("image/png", "text/html, image/*;q=0.9, */*;q=0.1"):
            reply = server.post(path, json=body, headers={"Accept": accept})
            assert (reply.status_code, reply.headers["content-type"]) == (200, "image/png")
            assert base64.b64encode(reply.content).decode() == as_json.json()["images"][0]["png"]
        for accept in ("*/*", "application/json", "image/png;q=0.5, application/json", "text/html", "image/png;q=x"):
            reply = server.post(path, json=body, headers={"Accept": accept})
            if "q=x" not in accept:
                assert reply.headers["content-type"] == "application/json", accept
    for path, body in ((GENERATE, {"count": 2}), (EDIT, {"action": "extend", "image": small, "left": 1, "count": 2})):
        reply = server.post(path, json=body, headers={"Accept": "image/png"})
        assert (reply.status_code, "a single image" in reply.json()["detail"]) == (422, True)


def events(reply: httpx.Response) -> Iterator[tuple[str, Any]]:
    """Server-sent events as the standard has them."""
    name = ""
    for line in reply.iter_lines():
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)


def watched(server: Server, path: str, body: dict[str, Any]) -> list[tuple[str, Any, float]]:
    """Each event, with the time at which it came."""
    with httpx.stream(
        "POST", server.url + path, json=body, headers={"Accept": "text/event-stream"}, timeout=60
    ) as reply:
        assert (reply.status_code, reply.headers["content-type"].split(";")[0]) == (200, "text/event-stream")
        return [(name, data, time.monotonic()) for name, data in events(reply)]


def test_steps_come_as_events_while_they_are_decoded(server: Server, model: StraIT) -> None:
    body = {"labels": ["lemon", "daisy"], "seed": 5, "steps": [12, 6]}
    *steps, (name, last, end) = watched(server, GENERATE, body)
    assert name == "images"
    assert last["images"] == server.post(GENERATE, json=body).json()["images"]
    assert {name for name, _, _ in steps} == {"step"}
    order = [(data["level"], data["step"], data["steps"]) for _, data, _ in steps]
    # Of steps that come faster than they are taken the newest is sent: some may be missing, none comes twice or late.
    whole = [("top", number, 12) for number in range(1, 13)] + [("bottom", number, 6) for number in range(1, 7)]
    assert order == [step for step in whole if step in order]
    assert len(order) >= 5
    assert steps[0][2] < end
    assert all(len(data["images"]) == 2 for _, data, _ in steps)
    if order[-1] == ("bottom", 6, 6):
        shown = [np.asarray(opened(image)) for image in steps[-1][1]["images"]]
        assert same(shown, by_hand(model, **body))
    photograph = png(make_photograph("stripes", 1))
    body = {"action": "extend", "image": photograph, "right": 1, "count": 2}
    *steps, (name, last, _) = watched(server, EDIT, body)
    assert (name, len(last["images"])) == ("images", 2)
    assert steps
    assert all(opened(image).width >= 128 for _, data, _ in steps for image in data["images"])
    # What is refused before it begins is refused as always.
    reply = server.post(GENERATE, json={"labels": ["lemn"]}, headers={"Accept": "text/event-stream"})
    assert (reply.status_code, reply.headers["content-type"]) == (422, "application/json")


def test_one_who_watches_and_leaves_disturbs_no_one(server: Server, model: StraIT) -> None:
    body, headers = {"count": 16, "steps": FEW}, {"Accept": "text/event-stream"}
    with httpx.stream("POST", server.url + GENERATE, json=body, headers=headers, timeout=60) as reply:
        assert next(events(reply))[0] == "step"
    assert same(pictures(server.post(GENERATE, json={"seed": 3})), by_hand(model, seed=3))
    for _ in range(100):
        if "strait_accepted 0.0" in server.get("/metrics").text:
            return
        time.sleep(0.1)
    pytest.fail("the place of one who left was not given back")


def test_edits_are_those_of_the_python_call(server: Server, model: StraIT) -> None:
    photograph = make_photograph("stripes", 1).resize((90, 70))
    mask = Image.new("L", photograph.size)
    mask.paste(255, (30, 20, 60, 50))
    picture, region = Picture(np.asarray(photograph)), np.asarray(mask) > 0
    base = {"image": png(photograph), "seed": 4, "count": 2, "steps": FEW}
    decoding = model.default_decoding().chosen(2, steps=FEW)
    lemon = Edit(model, model.classes.find("lemon"), 2, 4, decoding)
    none = Edit(model, count=2, seed=4, decoding=decoding)
    for body, expected in (
        ({"action": "infill", "mask": png(mask)}, infill_picture(none, picture, region)),
        ({"action": "relabel", "mask": png(mask), "label": "lemon"}, infill_picture(lemon, picture, region)),
        ({"action": "extend", "left": 1, "down": 1}, extend_picture(none, picture, Sides(left=1, down=1))),
        ({"action": "transfer", "label": "lemon", "keep": 0.25}, transfer_picture(lemon, picture, 0.25)),
        (
            {"action": "transfer", "label": "lemon", "mask": png(mask), "keep_bottom": True},
            transfer_picture(lemon, picture, region=region, keep_bottom=True),
        ),
    ):
        reply = server.post(EDIT, json={**base, **body})
        assert same(pictures(reply), list(expected)), body
        inside = json.loads(opened(reply.json()["images"][1]["png"]).info["strait"])
        assert (inside["edit"], inside["seed"], inside["index"]) == (body["action"], 4, 1)
        if body["action"] == "transfer":
            assert inside["keep"] == body.get("keep", "region")
        assert reply.json()["note"] is None


def test_a_reply_says_when_a_filling_cannot_follow_the_picture(server: Server, model: StraIT) -> None:
    photograph = make_photograph("stripes", 1).resize((64, 64))
    mask = np.full((64, 64), 255, np.uint8)
    note = infilling_note(model, mask > 0, EditConfig())
    assert note is not None
    body = {"action": "infill", "image": png(photograph), "mask": png(Image.fromarray(mask))}
    assert server.post(EDIT, json=body).json()["note"] == note
    reply = server.post(EDIT, json=body, headers={"Accept": "image/png"})
    assert (reply.headers["x-strait-note"], reply.headers["content-type"]) == (note, "image/png")
    events = server.post(EDIT, json=body, headers={"Accept": "text/event-stream"}).text
    last = events.strip().rpartition("data: ")[2]
    assert json.loads(last)["note"] == note
    transfer = {**body, "action": "transfer", "label": "lemon"}
    assert server.post(EDIT, json=transfer).json()["note"] is None


@given(st.data())
def test_every_picture_is_edited_or_refused(replier: Replier, data: st.DataObject) -> None:
    width, height = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40))
    mode = data.draw(st.sampled_from(["RGB", "RGBA", "L", "1", "P", "I;16", "LA"]))
    picture, mask = Image.new(mode, (width, height)), Image.new("L", (width, height))
    corner = data.draw(st.integers(0, width)), data.draw(st.integers(0, height))
    mask.paste(255, (*corner, *(data.draw(st.integers(least, least + 40)) for least in corner)))
    tokens, share = st.integers(0, 2), st.floats(0, 1)
    body = EditBody(
        action=data.draw(st.sampled_from(["infill", "extend", "relabel", "transfer"])),
        image=png(picture),
        mask=data.draw(st.sampled_from([png(mask), None])),
        label=data.draw(st.sampled_from(["lemon", None])),
        steps=[2, 1],
        strength=data.draw(st.floats(0.01, 1)),
        margin=data.draw(st.integers(0, 64)),
        context=data.draw(st.floats(1, 100)),
        feather=data.draw(st.integers(0, 64)),
        composite=data.draw(st.booleans()),
        left=data.draw(tokens),
        down=data.draw(tokens),
        keep=data.draw(share),
        choose=data.draw(st.sampled_from(["random", "confidence"])),
        keep_bottom=data.draw(st.booleans()),
    )
    (reply,) = replier.replies([body])
    assert reply.status in (200, 422), reply.content
    if reply.status == 200 and body.action in ("infill", "relabel"):
        assert opened(json.loads(reply.content)["images"][0]["png"]).size == (width, height)


def test_revision_and_adaptive_steps_are_those_of_the_python_call(replier: Replier, model: StraIT) -> None:
    bodies: list[dict[str, Any]] = [
        {"labels": [1], "steps": [4, 3], **more}
        for more in (
            {"revise": "remask", "revise_share": 0.4},
            {"revise": "redraw", "revise_passes": 2},
            {"quality": 0.6},
            {"guidance_ramp": "power_cosine", "guidance_start": 0.4},
        )
    ]
    for body, reply in zip(bodies, replier.replies([GenerateBody(**body) for body in bodies]), strict=True):
        images = [np.asarray(opened(image["png"])) for image in json.loads(reply.content)["images"]]
        assert same(images, by_hand(model, **body))
    for wrong, reason in (
        ({"revise": "remask"}, "decoding.revise_share"),
        ({"revise": "redraw", "revise_passes": 2**31}, "steps: "),
        ({"revise_passes": 2}, "decoding.revise_passes"),
    ):
        (reply,) = replier.replies([GenerateBody(**wrong)])
        assert reply.status == 422
        assert json.loads(reply.content)["detail"].startswith(reason)


def test_what_shares_a_batch_and_what_does_not(replier: Replier, model: StraIT) -> None:
    bodies = [
        {"seed": seed, "labels": [seed], "steps": [3, steps], "guidance": guidance, "schedule": schedule}
        for seed, (steps, guidance, schedule) in enumerate(
            itertools.product((1, 2), (0.0, 0.5, 2.0), ("cosine", "linear"))
        )
    ]
    replies = replier.replies([GenerateBody(**body) for body in bodies])
    for body, reply in zip(bodies, replies, strict=True):
        images = [np.asarray(opened(image["png"])) for image in json.loads(reply.content)["images"]]
        assert same(images, by_hand(model, **dict(body)))
        # Both guided ones of like steps and the same schedule together, the one without guidance by itself.
        assert reply.rows == (1 if body["guidance"] == 0 else 2)
    mixed = [{"seed": seed, "labels": [seed], "steps": [5 + seed, 1 + (seed > 1)]} for seed in range(4)]
    replies = replier.replies([GenerateBody(**body) for body in mixed])
    for body, reply in zip(mixed, replies, strict=True):
        images = [np.asarray(opened(image["png"])) for image in json.loads(reply.content)["images"]]
        assert same(images, by_hand(model, **dict(body)))
        # 5 to 8 steps round up to 8; one step of the bottom is not two.
        assert reply.rows == 2
    many = replier.replies([GenerateBody(count=12, steps=[1, 1])])
    assert len(json.loads(many[0].content)["images"]) == 12
    assert many[0].rows == 8  # no more rows at once than the replier may decode


def test_one_that_goes_wrong_leaves_its_batch_alone(replier: Replier, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr("strait.apps.service.replies.edited", broken)
    picture = png(Image.new("RGB", (64, 64)))
    bodies = [GenerateBody(seed=1), EditBody(action="extend", image=picture, left=1), GenerateBody(labels=["nobody"])]
    replies = replier.replies(bodies)
    assert [reply.status for reply in replies] == [200, 500, 422]
    assert b"a fault of ours" not in replies[1].content


def test_a_reply_that_cannot_be_encoded_is_still_a_reply(replier: Replier) -> None:
    def broken() -> Any:
        raise MemoryError

    receiver, sender = multiprocessing.Pipe()
    Work(replier, sender)._send(7, broken)
    reply = receiver.recv()
    assert isinstance(reply, Reply)
    assert (reply.number, reply.status, reply.is_last) == (7, 500, True)


def test_the_work_of_an_edit_is_counted_before_it_begins(server: Server, model: StraIT) -> None:
    small = png(Image.new("RGB", (16, 16)))

    def extended(sides: int, **more: Any) -> tuple[httpx.Response, float]:
        start = time.monotonic()
        body = {"action": "extend", "image": small, **dict.fromkeys(("left", "right", "up", "down"), sides), **more}
        return server.post(EDIT, json=body), time.monotonic() - start

    with ThreadPoolExecutor(2) as clients:
        too_far, beside = (
            clients.submit(extended, 32),
            clients.submit(server.post, GENERATE, json={"seed": 8, "steps": FEW}),
        )
        assert too_far.result()[0].status_code == 422
        assert same(pictures(beside.result()), by_hand(model, seed=8, steps=FEW))
    # As far as it goes, but through 48 windows of 24 steps each.
    with ThreadPoolExecutor(2) as clients:
        too_much, beside = (
            clients.submit(extended, 16),
            clients.submit(server.post, GENERATE, json={"seed": 9, "steps": FEW}),
        )
        reply, seconds = too_much.result()
        assert same(pictures(beside.result()), by_hand(model, seed=9, steps=FEW))
    assert (reply.status_code, "513 passes" in reply.text) == (422, True)
    assert seconds < 10


@pytest.mark.parametrize(
    ("size", "sides"), [((16, 16), (4, 0, 2, 6)), ((64, 200), (0, 10, 0, 0)), ((90, 70), (2, 2, 8, 4))]
)
def test_passes_are_those_that_are_taken(model: StraIT, size: tuple[int, int], sides: tuple[int, ...]) -> None:
    picture, options = Picture(np.zeros((*size, 3), np.uint8)), EditOptions(sides=Sides(*sides))
    decoding = model.default_decoding().chosen(2, steps=[2, 1])
    edit = Edit(model, count=2, decoding=decoding)
    rows: list[int] = []
    original = StraIT.decoding_steps

    def counted(self: StraIT, labels: torch.Tensor, *values: Any) -> Iterator[Any]:
        for step in original(self, labels, *values):
            rows.append(len(labels))
            yield step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StraIT, "decoding_steps", counted)
        assert len(list(edited(edit, "extend", picture, None, options))) == 2
    assert sum(rows) == passes_of(edit, "extend", picture, None, options, 10**6)
    assert passes_of(edit, "extend", picture, None, options, 7) == 8


def test_images_come_before_edits_and_as_soon_as_they_are_there(replier: Replier) -> None:
    picture = png(Image.new("RGB", (64, 64)))
    edit = EditBody(action="extend", image=picture, left=1, steps=[1, 1])
    bodies = [edit, GenerateBody(seed=1, steps=[2, 1]), GenerateBody(count=99), GenerateBody(seed=2, steps=[12, 6])]
    tasks = [Task(number, body, "json") for number, body in enumerate(bodies)]
    order = [number for number, _ in replier.results(tasks)]
    assert order == [2, 1, 3, 0]


def bomb(side: int) -> str:
    """A PNG of a few bytes that says it is ``side`` pixels wide and high."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    content = (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(2**20))) + chunk(b"IEND", b"")
    )
    return base64.b64encode(content).decode()


def files_here(server: Server) -> set[Path]:
    root = Path(f"/proc/{server.process.pid}/cwd").resolve()
    return {path for path in root.glob("*") if path.name != "__pycache__"}


def test_what_cannot_be_done_is_refused_with_a_reason(server: Server, model: StraIT) -> None:
    small = png(Image.new("RGB", (16, 16)))
    before = files_here(server)
    for path, body, status, reason in (
        (GENERATE, {"labels": ["lemn"]}, 422, "no class is called 'lemn'; the nearest are lemon"),
        (GENERATE, {"labels": ["../../etc/passwd"]}, 422, "no class is called"),
        (GENERATE, {"labels": [30]}, 422, "index 30 is not among the 30 classes"),
        (GENERATE, {"labels": []}, 422, "labels"),
        (GENERATE, {"labels": ["lemon", "mountain"], "count": 9}, 422, "a request may have 16"),
        (GENERATE, {"labels": ["lemon"] * 17}, 422, "a request may have 16"),
        (GENERATE, {"labels": ["lemon"] * 10_001}, 422, "labels: a request may have 16"),
        (GENERATE, {"labels": [10**9]}, 422, "index 1000000000 is not among the 30 classes"),
        (GENERATE, {"count": 17}, 422, "a request may have 16"),
        (GENERATE, {"count": 1_000_000}, 422, "a request may have 16"),
        (GENERATE, {"count": 10**1000}, 422, "a request may have 16"),
        (GENERATE, {"steps": [10**1000, 6]}, 422, "a request may have 64"),
        (GENERATE, {"steps": [10**6, 6]}, 422, "steps: 1000006 in total, but a request may have 64"),
        (GENERATE, {"count": True}, 422, "count"),
        (GENERATE, {"steps": [60, 6]}, 422, "steps: 66 in total"),
        (GENERATE, {"steps": [4]}, 422, "steps: 4 must give 2"),
        (GENERATE, {"temperature": [1]}, 422, "temperature"),
        (GENERATE, {"schedule": "nope"}, 422, "schedule"),
        (GENERATE, {"seed": 2**63}, 422, "seed"),
        (GENERATE, {"unknown": 1}, 422, "unknown: Extra inputs"),
        (EDIT, {"action": "infill", "image": "%%%"}, 422, "image: it is not base64"),
        (EDIT, {"action": "infill", "image": ""}, 422, "image is empty"),
        (
            EDIT,
            {"action": "infill", "image": base64.b64encode(b"GIF89a").decode()},
            422,
            "image is not a picture, or is damaged (supported formats: PNG, JPEG, WEBP)",
        ),
        (EDIT, {"action": "infill", "image": small}, 422, "mask: infill needs"),
        (EDIT, {"action": "infill", "image": small, "mask": png(Image.new("L", (9, 9)))}, 422, "mask is 9x9 pixels"),
        (EDIT, {"action": "relabel", "image": small, "mask": small}, 422, "label: relabel needs the new class"),
        (EDIT, {"action": "extend", "image": small}, 422, "extend: give a number of top tokens"),
        (EDIT, {"action": "extend", "image": png(Image.new("RGB", (900, 2))), "left": 1}, 422, "aspect ratio"),
        (EDIT, {"action": "extend", "image": bomb(60000), "left": 1}, 422, "too many pixels"),
        (EDIT, {"action": "extend", "image": bomb(2500), "left": 1}, 422, "too many pixels"),
        (EDIT, {"action": "../../x", "image": small}, 422, "action"),
    ):
        reply = server.post(path, json=body)
        assert (reply.status_code, reason in reply.json()["detail"]) == (status, True), (body, reply.text)
    for content in (
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b'{"seed": 1' + b"0" * 5000 + b"}",
        b'{"labels": ["\\ud800"]}',
    ):
        reply = server.post(GENERATE, content=content, headers={"Content-Type": "application/json"})
        assert 400 <= reply.status_code < 500, content[:20]
    assert server.post(GENERATE, content=b"x", headers={"Content-Type": "text/plain"}).status_code == 422
    assert server.get("/v1/../../etc/passwd").status_code == 404
    assert server.get("/v1/images/generate").status_code == 405
    assert files_here(server) == before
    assert same(pictures(server.post(GENERATE, json={})), by_hand(model))


def raw(server: Server, head: str) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    connection.sendall(
        f"POST {GENERATE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{head}\r\n".encode()
    )
    return connection


def test_oversized_slow_and_abandoned_uploads_hold_nobody_up(server: Server, model: StraIT) -> None:
    big = server.post(GENERATE, content=b"x" * (2**20 + 1))
    assert (big.status_code, "more than 1 megabytes" in big.text) == (413, True)

    def endless() -> Iterator[bytes]:
        while True:
            yield b"x" * 2**16

    # The connection may be closed while the client still writes.
    with contextlib.suppress(httpx.HTTPError):
        assert server.post(GENERATE, content=endless()).status_code == 413
    assert server.post("/health", content=b"x" * 2**21).status_code in (405, 413)
    slow = raw(server, "Content-Length: 100\r\n")
    abandoned = [raw(server, "Content-Length: 100\r\n") for _ in range(20)]
    for connection in abandoned:
        connection.sendall(b'{"seed"')
        connection.close()
    start = time.monotonic()
    assert same(pictures(server.post(GENERATE, json={"seed": 1})), by_hand(model, seed=1))
    slow.sendall(b"{")
    assert slow.recv(100).startswith(b"HTTP/1.1 408")
    assert time.monotonic() - start < 20
    # One who leaves while the work is done disturbs no one.
    body = b'{"count": 16, "steps": [3, 2]}'
    left = raw(server, f"Content-Length: {len(body)}\r\n")
    left.sendall(body)
    left.close()
    assert same(pictures(server.post(GENERATE, json={"seed": 2})), by_hand(model, seed=2))
    for _ in range(100):
        if "strait_accepted 0.0" in server.get("/metrics").text:
            break
        time.sleep(0.1)
    else:
        pytest.fail("places in the queue were not given back")


def test_bodies_are_bounded_in_memory_all_together() -> None:
    gate = Gate(
        app=None,  # type: ignore[arg-type]
        limits=Limits(megabytes=1),
        key=None,
        metrics=Metrics((), BATCH_HEADER),
        refuse=problem,
        work=(GENERATE,),
        held=Held(),
    )

    async def upload(megabytes: float) -> list[Any]:
        """What comes of 40 clients who send so much each and then nothing."""

        async def one() -> None:
            sent = False

            async def receive() -> dict[str, Any]:
                nonlocal sent
                if sent:
                    await asyncio.sleep(3600)
                sent = True
                return {"type": "http.request", "body": b"x" * int(megabytes * 2**20), "more_body": True}

            await gate._work({"type": "http", "method": "POST", "path": GENERATE, "headers": []}, receive, None)  # type: ignore[arg-type]

        tasks = [asyncio.create_task(one()) for _ in range(40)]
        await asyncio.sleep(0.1)
        held = gate.held.bodies
        for task in tasks:
            task.cancel()
        return [held, *await asyncio.gather(*tasks, return_exceptions=True)]

    held, *ends = asyncio.run(upload(0.9))
    assert held <= 16 * 2**20
    assert sum(getattr(end, "status", 0) == 429 for end in ends) == 40 - 17
    assert gate.held.bodies == 0


def test_a_head_that_does_not_come_is_not_waited_for(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    start = time.monotonic()
    for words in (b"", b"GET /health HTTP/1.1\r\nHost"):
        with socket.create_connection((host, int(port)), timeout=30) as connection:
            connection.sendall(words)
            assert connection.recv(100) == b""
    assert time.monotonic() - start < 20


def test_a_fault_of_ours_is_counted() -> None:
    metrics, sent = Metrics(("/x",), BATCH_HEADER), []

    async def broken(*_: Any) -> None:
        raise RuntimeError("a fault of ours")

    async def send(message: Any) -> None:
        sent.append(message)

    async def ask() -> None:
        gate = Gate(broken, Limits(), None, metrics, problem, (), Held())
        await gate({"type": "http", "method": "GET", "path": "/x", "headers": []}, None, send)  # type: ignore[arg-type]

    asyncio.run(ask())
    assert sent[0]["status"] == 500
    assert b'strait_replies_total{path="/x",status="500"} 1.0' in metrics.text()


def children(process: int) -> list[int]:
    """The processes below one, with their words."""
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def worker_of(server: Server) -> int:
    """The one that holds the model."""
    sizes = {
        number: int(Path(f"/proc/{number}/statm").read_text().split()[1])
        for number in children(server.process.pid)
        if b"spawn_main" in Path(f"/proc/{number}/cmdline").read_bytes()
    }
    return max(sizes, key=lambda number: sizes[number])


def waiting_clients(server: Server, count: int) -> tuple[list[threading.Thread], list[httpx.Response]]:
    """Clients whose requests are accepted, and where their replies will be."""
    replies: list[httpx.Response] = []

    def ask(seed: int) -> None:
        replies.append(server.post(GENERATE, json={"count": 8, "seed": seed, "steps": FEW}))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(count)]
    for thread in threads:
        thread.start()
    while f"strait_accepted {count}.0" not in server.get("/metrics").text:
        assert not replies, "answered before all were accepted; make the requests longer"
    return threads, replies


def test_a_dead_worker_is_said_at_once_and_ends_the_service() -> None:
    with serving("serve", "--port", 0, "--device", "cpu") as server:
        wait_until_ready(server)
        threads, replies = waiting_clients(server, 4)
        start = time.monotonic()
        os.kill(worker_of(server), signal.SIGKILL)
        for thread in threads:
            thread.join()
        assert [reply.status_code for reply in replies] == [503] * 4
        assert "lost a worker" in replies[0].json()["detail"]
        assert server.process.wait(60) == 1
        assert time.monotonic() - start < 30
        assert "Traceback" not in "".join(server.lines)


def test_an_end_before_the_start_is_over_is_no_loss() -> None:
    with serving("serve", "--port", 0, "--device", "cpu") as server:
        words = b""
        while b"spawn_main" not in words:  # a worker, which has not loaded its model yet
            time.sleep(0.01)
            with contextlib.suppress(OSError):
                words = b"".join(Path(f"/proc/{child}/cmdline").read_bytes() for child in children(server.process.pid))
        server.process.terminate()
        assert server.process.wait(60) == 0
        assert "lost" not in "".join(server.lines)


def lives(process: int) -> bool:
    """Whether a process is there and not just waiting to be taken note of."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_signal_to_the_whole_group_loses_nothing(model: StraIT) -> None:
    with serving("serve", "--port", 0, "--device", "cpu", own_group=True) as server:
        wait_until_ready(server)
        below = children(server.process.pid)
        threads, replies = waiting_clients(server, 3)
        os.killpg(server.process.pid, signal.SIGTERM)
        for thread in threads:
            thread.join()
        assert [reply.status_code for reply in replies] == [200] * 3
        by_seed = {image["seed"]: reply for reply in replies for image in reply.json()["images"][:1]}
        for seed, reply in by_seed.items():
            assert same(pictures(reply), by_hand(model, count=8, seed=seed, steps=FEW))
        assert server.process.wait(60) == 0
        # Their last parent is gone: they end by themselves, a moment later.
        end = time.monotonic() + 20
        while any(map(lives, below)) and time.monotonic() < end:
            time.sleep(0.1)
        assert not any(map(lives, below))


def test_classes_metrics_and_description(server: Server, model: StraIT) -> None:
    classes = server.get("/v1/classes").json()
    assert [entry["name"] for entry in classes["classes"]] == list(model.classes)
    assert classes["image_size"] == 128
    server.post(GENERATE, json={"labels": ["nope"]})
    server.get("/no/such/path")
    text = server.get("/metrics").text
    counts = {line.split()[0]: float(line.split()[1]) for line in text.splitlines() if not line.startswith("#")}
    assert counts[f'strait_replies_total{{path="{GENERATE}",status="422"}}'] >= 1
    assert counts['strait_replies_total{path="other",status="404"}'] >= 1
    assert "/no/such/path" not in text
    assert counts["strait_accepted"] == 0
    about = server.get("/openapi.json").json()
    assert {GENERATE, EDIT, "/v1/classes", "/health", "/metrics"} <= set(about["paths"])
    assert set(about["paths"][EDIT]["post"]["responses"]) >= {"200", "401", "413", "422", "429"}
    # Limits as they are, and examples that work as they stand.
    schemas = about["components"]["schemas"]
    assert schemas["EditBody"]["properties"]["count"]["maximum"] == 16
    assert schemas["GenerateBody"]["properties"]["labels"]["anyOf"][0]["maxItems"] == 16
    assert about["info"]["x-limits"]["megabytes"] == 1
    for path in (GENERATE, EDIT):
        example = about["paths"][path]["post"]["requestBody"]["content"]["application/json"]["example"]
        assert server.post(path, json=example).status_code == 200
    start = server.get("/")
    assert (start.status_code, start.headers["location"]) == (307, "docs")
    page = server.get("/docs")
    assert page.status_code == 200
    assert not re.search(r"https?://", page.text)
    assert server.get("/redoc").status_code == 404
    assert all(operation.get("summary") for path in about["paths"].values() for operation in path.values())
    assert set(about["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == {"text/plain"}
    assert "securitySchemes" not in about["components"]


def test_settings_are_those_of_a_model_that_waits_for_its_upsampler(tmp_path: Path) -> None:
    saved_model = random_model(CONFIG, CLASSES)
    saved_model.save_pretrained(tmp_path, ["tokenizer", "top", "bottom"])
    app = build_service(str(tmp_path), ServiceConfig(), Limits()).app
    (ask,) = [route.endpoint for route in app.routes if getattr(route, "path", "") == "/v1/classes"]
    steps = json.loads(asyncio.run(ask()).body)["decoding"]["steps"]
    assert tuple(steps) == saved_model.decoding.steps[:2]


def test_a_full_queue_sends_away_and_an_end_keeps_its_word(model: StraIT, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("secret-key\n")
    words = ("serve", "--port", 0, "--device", "cpu", "--key-file", key, "--max-queue", 3)
    with serving(*words) as server:
        wait_until_ready(server)
        for wrong in ({}, {"X-API-Key": "secret"}, {"Authorization": "Bearer x"}, {"X-API-Key": "ü".encode()}):
            reply = server.post(GENERATE, json={}, headers=wrong)
            assert (reply.status_code, "secret-key" in reply.text) == (401, False)
            assert server.get("/metrics", headers=wrong).status_code == 401
        assert server.get("/docs").status_code == 200
        about = server.get("/openapi.json").json()
        assert about["components"]["securitySchemes"]["key"]["name"] == "X-API-Key"
        assert about["security"] == [{"key": []}, {"bearer": []}]
        assert about["paths"]["/health"]["get"]["security"] == []
        assert server.post(GENERATE, json={}, headers={"Authorization": "Bearer secret-key"}).status_code == 200
        headers = {"X-API-Key": "secret-key"}

        def ask(seed: int) -> httpx.Response:
            return server.post(GENERATE, json={"count": 8, "seed": seed, "steps": FEW}, headers=headers)

        with ThreadPoolExecutor(12) as clients:
            replies = list(clients.map(ask, range(12)))
        away = [reply for reply in replies if reply.status_code == 429]
        assert len(away) >= 3
        assert all(1 <= int(reply.headers["Retry-After"]) <= 600 for reply in away)
        for seed, reply in enumerate(replies):
            if reply.status_code != 429:
                assert same(pictures(reply), by_hand(model, count=8, seed=seed, steps=FEW))

        # Asked to stop in the middle of work: what was accepted is still answered.
        ended: list[httpx.Response] = []
        asking = [threading.Thread(target=lambda seed=seed: ended.append(ask(seed))) for seed in range(3)]
        for thread in asking:
            thread.start()
        while "strait_accepted 3.0" not in server.get("/metrics", headers=headers).text:
            assert len(ended) == 0, "answered before the queue was seen full; make the requests longer"
        server.process.send_signal(signal.SIGTERM)
        for thread in asking:
            thread.join()
        assert [reply.status_code for reply in ended] == [200] * 3
        assert server.process.wait(60) == 0
        assert "secret-key" not in "".join(server.lines)


@pytest.mark.slow
def test_a_request_that_waited_too_long_is_told_so() -> None:
    with serving("serve", "--port", 0, "--device", "cpu", "--batch-size", 1, "--max-seconds", 0.5) as server:
        wait_until_ready(server)
        with ThreadPoolExecutor(12) as clients:
            bodies = [{"count": 16, "seed": seed, "steps": FEW} for seed in range(12)]
            replies = list(clients.map(lambda body: server.post(GENERATE, json=body), bodies))
        assert {reply.status_code for reply in replies} == {200, 504}
        assert server.post(GENERATE, json={}).status_code == 200


def test_the_verb_says_what_is_wrong_before_it_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "key").write_text("\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    taken = socket.create_server(("127.0.0.1", 0))
    used = str(taken.getsockname()[1])
    for words in (
        ["--port", "80"],
        ["--workers", "0"],
        ["--max-queue", "0"],
        ["--model", str(tmp_path)],
        ["--key-file", str(tmp_path / "key")],
        ["--key-file", str(tmp_path / "binary")],
        ["--host", "example.org"],
        ["--port", "99999"],
        ["--port", "-1"],
        ["--port", used],
        ["--device", "cpu", "--devices", "4"],
        ["--max-passes", "0"],
    ):
        assert main(["serve", *words]) == 2
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        assert "serving on" not in message
