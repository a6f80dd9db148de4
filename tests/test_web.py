"""What stands behind the web page: settings there and back, images step by step, refusals."""

from __future__ import annotations

import dataclasses
import http.server
import io
import json
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from starlette.exceptions import HTTPException

from servers import Server, serving
from strait.apps.jobs import EditOptions, edit_settings, settings_inside
from strait.cli import main
from strait.editing.edits import Edit, infill_picture
from strait.editing.extension import Sides
from strait.model.strait import StraIT, random_model
from strait.pictures.images import to_pictures
from strait.pictures.reading import Picture
from strait.pictures.recipe import png_bytes
from test_model_folder import CONFIG as TWO_LEVELS
from test_upsampler import CLASSES, CONFIG, DECODING

gr = pytest.importorskip("gradio", reason="the page needs pip install 'strait[app]'")

from gradio.components.image_editor import AcceptBlobs, EditorData  # noqa: E402

from strait.apps.web import limits  # noqa: E402
from strait.apps.web.controls import Controls  # noqa: E402
from strait.apps.web.edit_controls import CONTROLS, NAMES, EditControls  # noqa: E402
from strait.apps.web.editor import Drawing, Editor  # noqa: E402
from strait.apps.web.limits import MOST_IMAGES, check_edit, check_generation  # noqa: E402
from strait.apps.web.page import build_page, launch  # noqa: E402
from strait.apps.web.stored import settings_in, stored_in  # noqa: E402
from strait.apps.web.studio import Step, Studio, sheet, sureness_of  # noqa: E402


@pytest.fixture(scope="module")
def model() -> StraIT:
    return StraIT.from_pretrained()


@pytest.fixture(scope="module")
def controls(model: StraIT) -> Controls:
    page_controls = Controls(model)
    with gr.Blocks(analytics_enabled=False):
        page_controls.build()
    return page_controls


@pytest.fixture(scope="module")
def small() -> StraIT:
    """16 top tokens, fewer than the steps that the page takes."""
    return random_model(TWO_LEVELS, CLASSES)


@pytest.fixture(scope="module")
def small_controls(small: StraIT) -> Controls:
    page_controls = Controls(small)
    with gr.Blocks(analytics_enabled=False):
        page_controls.build()
    return page_controls


def defaults(controls: Controls) -> list:
    return [part.value for part in controls.parts]


def test_the_page_starts_on_the_models_own_settings(controls: Controls, model: StraIT) -> None:
    values = controls.values(tuple(defaults(controls)))
    assert values.decoding == model.default_decoding()
    assert (values.label, values.seed, values.count) == (-1, 0, 4)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_settings_inside_a_picture_come_back_exactly(controls: Controls, tmp_path: Path, data: st.DataObject) -> None:
    number = st.floats(0, 20)
    steps = st.integers(1, 64)
    inputs = (
        data.draw(st.integers(-1, len(controls.model.classes) - 1)),
        str(data.draw(st.integers(-(2**63), 2**63 - 1))),
        data.draw(st.integers(1, 16)),
        0,
        data.draw(st.floats(0, 5)),
        *(data.draw(kind) for kind in (steps, steps, number, number)),
        data.draw(st.sampled_from(["cosine", "linear", "square"])),
        data.draw(st.sampled_from(["confidence", "halton"])),
        data.draw(st.sampled_from(["constant", "linear", "power_cosine"])),
    )
    values = controls.values(inputs)
    last = values.requests(controls.model)[-1]
    path = tmp_path / "picture.png"
    path.write_bytes(png_bytes(Image.new("RGB", (4, 4)), settings_inside(controls.model, "", last)))
    again = controls.values(tuple(controls.restored(stored_in(settings_in(str(path)), MOST_IMAGES))))
    assert (again.seed, again.decoding, again.count) == (values.seed, values.decoding, values.count)
    assert again.label == last.label


def test_settings_that_cannot_be_say_so(controls: Controls, tmp_path: Path) -> None:
    good = defaults(controls)
    for place, value, reason in (
        (1, "x", "^seed: 'x' must be a whole number"),
        (1, str(2**63), "^seed"),
        (1, "²", "^seed"),
        (2, None, "^settings: a number is missing"),
        (3, None, "^settings: a number is missing"),
        (5, 0, "^decoding.steps"),
        (7, -1, "^decoding.temperature"),
    ):
        with pytest.raises(ValueError, match=reason):
            controls.values((*good[:place], value, *good[place + 1 :]))
    for name, content, reason in (
        ("a.png", png_bytes(Image.new("RGB", (4, 4)), {}), "^picture: its settings are damaged"),
        ("b.png", b"nothing", "^picture: it is not a PNG"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=reason):
            controls.restored(stored_in(settings_in(str(tmp_path / name)), MOST_IMAGES))
    values = controls.values(good)
    for name, changes in (
        ("revise", {"revise": "remask", "revise_share": 0.1}),
        ("quality", {"quality": 0.9}),
        ("guidance_start", {"guidance_start": 0.5}),
    ):
        request = dataclasses.replace(values, decoding=dataclasses.replace(values.decoding, **changes))
        settings = settings_inside(controls.model, "", request.requests(controls.model)[-1])
        (tmp_path / "d.png").write_bytes(png_bytes(Image.new("RGB", (4, 4)), settings))
        with pytest.raises(ValueError, match=f"^picture: its {name} is .*, but this page offers no {name}"):
            controls.restored(stored_in(settings_in(str(tmp_path / "d.png")), MOST_IMAGES))
    Image.new("RGB", (4, 4)).save(tmp_path / "c.png")
    with pytest.raises(ValueError, match=r"^picture: it has no settings"):
        settings_in(str(tmp_path / "c.png"))


def restored(controls: Controls, path: Path) -> Any:
    """What the page is set to when a picture is dropped in, and the settings of its edit."""
    stored = stored_in(settings_in(str(path)), MOST_IMAGES)
    if stored.edit is None:
        return controls.values(tuple(controls.restored(stored))), {}, stored
    settings = EditControls()
    with gr.Blocks(analytics_enabled=False):
        settings.build(NAMES)
    edit = dict(zip(NAMES, settings.restored(stored.edit), strict=True))
    assert settings.options(list(edit.values())) == stored.edit.options
    return controls.values(tuple(controls.restored(stored))), {"action": stored.edit.action, **edit}, stored


def test_every_setting_of_an_edit_has_a_control_in_its_range() -> None:
    assert set(NAMES) == set(CONTROLS)
    settings = EditControls()
    with gr.Blocks(analytics_enabled=False):
        settings.build(NAMES)
    options = settings.options([part.value for part in settings.parts.values()])
    # Extending by nothing is no use; everything else starts as on the command line.
    assert options == dataclasses.replace(EditOptions(), sides=Sides(left=1, right=1))
    with pytest.raises(ValueError, match=r"^Margin \(model pixels\): a number is missing"):
        settings.options([None if name == "margin" else part.value for name, part in settings.parts.items()])


def test_every_png_of_ours_comes_back(controls: Controls, model: StraIT, tmp_path: Path) -> None:
    photo, out = tmp_path / "photo.png", tmp_path / "out"
    Image.new("RGB", (64, 64), (90, 140, 30)).save(photo)
    common = ["--label", "lemon", "--seed", "7", "--steps", "2+1", "--count", "2", "--output", str(out)]
    for words, action, places in (
        (
            ["infill", photo, "--box", "0,0,20,20", "--feather", "5", "--no-composite"],
            "infill",
            {"feather": 5, "composite": False},
        ),
        (
            ["relabel", photo, "--box", "0,0,20,20", "--strength", "0.5"],
            "relabel",
            {"strength": 0.5, "composite": True},
        ),
        (["extend", photo, "--left", "1", "--up", "2"], "extend", {"left": 1, "right": 0, "up": 2}),
        (
            ["transfer", photo, "--keep", "0.25", "--choose", "confidence"],
            "transfer",
            {"keep": 0.25, "choose": "confidence"},
        ),
        (["transfer", photo, "--box", "0,0,20,20", "--keep-bottom"], "transfer", {"keep_bottom": True}),
    ):
        assert main(["edit", *map(str, words), *common, "--overwrite"]) == 0
        values, edit, _ = restored(controls, out / f"photo-{action}-seed7-0001.png")
        assert (values.label, values.seed, values.first, values.count) == (model.classes.find("lemon"), 7, 0, 2)
        assert values.decoding.steps == (2, 1)
        assert edit["action"] == action
        assert {place: edit[place] for place in places} == places

    grid = tmp_path / "grid.png"
    assert main(["generate", "--labels", "mountain", "--count", "20", "--steps", "1+1", "--grid", str(grid)]) == 0
    values, _, stored = restored(controls, grid)
    assert (values.label, values.first, values.count) == (model.classes.find("mountain"), 0, 16)
    assert "20 images" in stored.notes[0]
    words = ["generate", "--labels", "mountain", "--count", "20", "--steps", "1+1", "--seed", "3"]
    assert main([*words, "--output", str(out)]) == 0
    values, _, _ = restored(controls, out / "mountain-seed3-0019.png")
    assert (values.first, values.count) == (4, 16)
    *_, process = Studio(model, tmp_path / "page").generate(values.requests(model))
    dropped = np.asarray(Image.open(out / "mountain-seed3-0019.png"))
    assert np.array_equal(np.asarray(Image.open(process.files[-1])), dropped)


def test_an_edit_comes_back_where_the_model_goes_on_to_upsample() -> None:
    model = random_model(CONFIG, CLASSES)
    model.decoding = DECODING
    controls = Controls(model)
    with gr.Blocks(analytics_enabled=False):
        controls.build()
    edit = Edit(model, 1, seed=3, decoding=DECODING.first(2))
    stored = stored_in(edit_settings(edit, "", "extend", None, EditOptions(), 0), MOST_IMAGES)
    values = controls.values(tuple(controls.restored(stored)))
    assert (values.label, values.seed, values.decoding) == (1, 3, DECODING)
    with pytest.raises(ValueError, match="decoded at 2 levels, but this page uses 4"):
        controls.restored(dataclasses.replace(stored, edit=None))


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000 + "]" * 100_000,
        '{"seed": Infinity, "index": 0, "label": null, "decoding": DECODING}',
        '{"seed": 1, "index": 1e400, "label": null, "decoding": DECODING}',
        '{"seed": 1, "index": 0, "label": ["x"], "decoding": DECODING}',
        '{"seed": 1, "index": 0, "label": null, "decoding": {"steps": 4}}',
        '{"seed": 1, "index": 0, "label": null, "decoding": [1]}',
        '{"seed": 1, "index": 0, "label": null, "decoding": {"steps": [1], "temperature": ["x"], "guidance": 0}}',
        '{"seed": 1, "labels": {}, "count": 2, "decoding": DECODING}',
        '{"seed": 1, "labels": [], "count": 2, "decoding": DECODING}',
        '{"seed": 1, "index": 0, "label": null, "decoding": DECODING, "edit": "infill", "config": 3}',
        '{"seed": 1, "index": 0, "label": null, "decoding": DECODING, "edit": "extend", "left": -1}',
    ],
)
def test_damaged_settings_are_one_line(model: StraIT, controls: Controls, tmp_path: Path, text: str) -> None:
    info = PngInfo()
    decoding = json.dumps(dataclasses.asdict(model.default_decoding()))
    info.add_text("strait", text.replace("DECODING", decoding))
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png", pnginfo=info)
    with pytest.raises(ValueError, match=r"^picture: .*(of another kind|no PNG)"):
        restored(controls, tmp_path / "x.png")


def test_a_decompression_bomb_is_one_line(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
    (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    with pytest.raises(ValueError, match=r"^picture: it has too many pixels"):
        settings_in(str(tmp_path / "bomb.png"))


def test_an_edit_shows_its_steps_and_ends_when_nobody_looks_on(model: StraIT, tmp_path: Path) -> None:
    picture = Picture(np.full((64, 64, 3), 90, np.uint8))
    mask = np.zeros((64, 64), bool)
    mask[:32] = True
    decoding = dataclasses.replace(model.default_decoding(), steps=(6, 3))
    edit = Edit(model, count=2, seed=3, first=5, decoding=decoding)
    news = list(Studio(model, tmp_path).edit(edit, "infill", picture, mask, EditOptions()))
    steps, files = [item for item in news if isinstance(item, Step)], [item for item in news if isinstance(item, str)]
    assert len(steps) >= 2
    assert steps[0].images.shape == (2, 128, 128, 3)
    expected = list(infill_picture(Edit(model, count=7, seed=3, decoding=decoding), picture, mask))[5:]
    for index, (path, pixels) in enumerate(zip(files, expected, strict=True)):
        assert np.array_equal(np.asarray(Image.open(path)), pixels)
        assert json.loads(Image.open(path).info["strait"])["index"] == 5 + index

    before = threading.active_count()
    going = Studio(model, tmp_path).edit(Edit(model, count=16), "infill", picture, mask, EditOptions())
    next(going)
    going.close()
    for _ in range(200):
        if threading.active_count() <= before:
            break
        time.sleep(0.1)
    assert threading.active_count() <= before


def test_totals_follow_the_steps_that_are_taken(small_controls: Controls, small: StraIT, tmp_path: Path) -> None:
    """16 top tokens take at most 16 steps, whatever was asked for."""
    values = small_controls.values((1, "12", 1, 0, 1.0, 40, 3, *defaults(small_controls)[7:]))
    *_, process = Studio(small, tmp_path).generate(values.requests(small))
    assert [step.text.split(":")[0] for step in process.steps][-1] == f"step {len(process.steps)} of 19"
    assert len(process.steps) == 19


def test_generation_step_by_step_ends_in_the_images_of_the_python_call(
    controls: Controls, model: StraIT, tmp_path: Path
) -> None:
    values = controls.values((7, "12", 3, *defaults(controls)[3:5], 6, 3, *defaults(controls)[7:]))
    seen, studio = 0, Studio(model, tmp_path)
    for process in studio.generate(values.requests(model)):
        assert len(process.steps) == min(seen + 1, 9)
        seen += 1
    assert seen == 10
    decoding = dataclasses.replace(model.default_decoding(), steps=(6, 3))
    images = model.generate([7] * 3, seed=12, decoding=decoding)
    expected = [np.asarray(picture) for picture in to_pictures(images)]
    for index, (path, pixels) in enumerate(zip(process.files, expected, strict=True)):
        assert np.array_equal(np.asarray(Image.open(path)), pixels)
        assert np.array_equal(process.steps[-1].images[index], pixels)
        assert json.loads(Image.open(path).info["strait"])["index"] == index
    assert process.steps[0].text.startswith("step 1 of 9: top 1, ")
    assert process.steps[6].text.startswith("step 7 of 9: bottom 1, ")
    assert process.steps[8].text == "step 9 of 9: bottom 3, 256 of 256 tokens kept"
    assert sheet(process.steps[0]).width >= 512
    assert sureness_of(process.steps[0], 2).size == (512, 512)
    assert process.steps[0].sure.shape == (3, 8, 8)


def test_steps_are_counted_as_they_are_taken(small_controls: Controls, small: StraIT, tmp_path: Path) -> None:
    """A level takes no more steps than it has tokens: 16 of 40, and with the bottom's 3 there are 19."""
    values = small_controls.values((1, "12", 1, 0, 0, 40, 3, *defaults(small_controls)[7:]))
    studio = Studio(small, tmp_path)
    *_, process = studio.generate(values.requests(small))
    texts = [step.text.partition(",")[0] for step in process.steps]
    levels = [*(f"top {index + 1}" for index in range(16)), *(f"bottom {index + 1}" for index in range(3))]
    assert texts == [f"step {number + 1} of 19: {level}" for number, level in enumerate(levels)]
    (begin,) = [function.fn for function in build_page(studio).fns.values() if function.name == "begin"]
    which, number = begin(process)
    assert (number.maximum, number.visible, which.visible) == (19, True, False)


# Hostile hands


@pytest.fixture(scope="module")
def served() -> Iterator[Server]:
    with serving("web") as server:
        yield server


class Stranger(http.server.BaseHTTPRequestHandler):
    """A server that a page must never be made to ask."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def stranger() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Stranger) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        Stranger.asked.clear()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def joined(server: Server, name: str, data: list[Any]) -> httpx.Response:
    """Ask for a function of the page as its script does."""
    config = server.get("/config").json()
    (number,) = [
        dependency["id"]
        for dependency in config["dependencies"]
        if dependency["targets"][0] == [_component(config, name), "click"]
    ]
    body = {"data": data, "fn_index": number, "session_hash": "s", "event_data": None, "trigger_id": None}
    return server.post("/gradio_api/queue/join", json=body)


def _component(config: dict[str, Any], name: str) -> int:
    (number,) = [component["id"] for component in config["components"] if component["props"].get("elem_id") == name]
    return number


def answer(server: Server) -> dict[str, Any]:
    """What the page is told at the end of what was asked."""
    with httpx.stream("GET", f"{server.url}/gradio_api/queue/data?session_hash=s", timeout=120) as stream:
        for line in stream.iter_lines():
            if '"process_completed"' in line:
                return json.loads(line.removeprefix("data: "))
    raise AssertionError("the stream ended")


def asked_to_edit(server: Server, background: Any, layers: list[Any], count: int = 1) -> list[Any]:
    """The values of the page, as they are when it is opened, with this picture in its editor."""
    config = server.get("/config").json()
    parts = {item["id"]: item["props"].get("value") for item in config["components"]}
    (dependency,) = [
        item for item in config["dependencies"] if item["targets"][0] == [_component(config, "edit-button"), "click"]
    ]
    values = [parts[number] for number in dependency["inputs"]]
    values[0] = {"background": background, "layers": layers, "composite": None, "id": None}
    values[dependency["inputs"].index(_component(config, "count"))] = count
    return values


def uploaded(server: Server, name: str, content: bytes) -> dict[str, Any]:
    (path,) = server.post("/gradio_api/upload", files={"files": (name, content)}).json()
    return {"path": path, "orig_name": name, "meta": {"_type": "gradio.FileData"}}


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def test_no_address_is_fetched(served: Server, stranger: str) -> None:
    for path in (f"{stranger}/x.png", f" {stranger.upper().replace('HTTP', 'hTTp')}/x.png", "file:///etc/passwd"):
        file = {"path": path, "meta": {"_type": "gradio.FileData"}}
        assert joined(served, "edit-button", asked_to_edit(served, file, [])).status_code == 400
        assert joined(served, "edit-button", asked_to_edit(served, None, [file])).status_code == 400
    for path in (
        f"/gradio_api/file={stranger}/x",
        f"/gradio_api/file/{stranger}/x",
        f"/gradio_api/proxy={stranger}/x",
    ):
        assert served.get(path, follow_redirects=False).status_code == 400
    deep = "[" * 100_000 + "]" * 100_000
    headers = {"content-type": "application/json"}
    assert served.post("/gradio_api/queue/join", content=deep, headers=headers).status_code == 400
    assert Stranger.asked == []


def test_pictures_of_other_formats_sizes_and_layers_are_refused(served: Server) -> None:
    """An EPS under another name would start Ghostscript."""
    good = uploaded(served, "photo.png", png(Image.new("RGB", (64, 64), "red")))
    layer = uploaded(served, "layer.png", png(Image.new("RGBA", (64, 64), (255, 0, 0, 255))))
    eps = uploaded(served, "x.png", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n")
    large = uploaded(served, "large.png", png(Image.new("L", (8000, 4000))))
    for background, layers, reason in (
        (eps, [], "is not a picture, or is damaged"),
        (large, [], "has too many pixels"),
        (good, [eps], "is not a picture, or is damaged"),
        (good, [layer, layer], "layers, but the page accepts one"),
        (None, [layer], "put a picture into the editor first"),
    ):
        assert joined(served, "edit-button", asked_to_edit(served, background, layers)).status_code == 200
        told = answer(served)
        assert not told["success"]
        assert reason in told["output"]["error"]
    assert joined(served, "edit-button", asked_to_edit(served, good, [layer])).status_code == 200
    assert answer(served)["success"]


def test_bodies_numbers_and_work_are_bounded(served: Server) -> None:
    values = asked_to_edit(served, None, [], count=100)
    joined(served, "edit-button", values)
    assert answer(served)["output"]["error"] == "Images: 100 must lie between 1 and 16"
    with httpx.Client(timeout=60) as client:
        body = b'{"data": ["' + b"x" * 2**21 + b'"]}'
        headers = {"content-type": "application/json"}
        assert client.post(f"{served.url}/gradio_api/queue/join", content=body, headers=headers).status_code == 413
        many = [("files", (f"{number}.png", bytes(5 * 2**20))) for number in range(6)]
        assert client.post(f"{served.url}/gradio_api/upload", files=many).status_code == 413
    assert not any("Traceback" in line for line in served.lines)


def test_work_is_bounded_before_it_begins(model: StraIT, controls: Controls) -> None:
    values = controls.values((7, "12", 16, 0, 0, 60, 3, *defaults(controls)[7:]))
    with pytest.raises(ValueError, match=r"^steps: 1008 passes through the model"):
        check_generation(values.requests(model))
    with pytest.raises(ValueError, match=r"^steps: 67 for an image, but the page accepts at most 64"):
        check_generation(controls.values((7, "12", 1, 0, 0, 64, 3, *defaults(controls)[7:])).requests(model))
    picture, mask = Picture(np.zeros((4000, 5000, 3), np.uint8)), np.ones((4000, 5000), bool)
    edit = Edit(model, count=6, decoding=model.default_decoding())
    check_edit(dataclasses.replace(edit, count=5), "infill", picture, mask, EditOptions())
    with pytest.raises(ValueError, match="6 results of 5000x4000 pixels exceed 100 million"):
        check_edit(edit, "infill", picture, mask, EditOptions())
    wide = EditOptions(sides=Sides(left=16, right=16))
    with pytest.raises(ValueError, match=r"^steps: at least 513 passes"):
        check_edit(dataclasses.replace(edit, count=16), "extend", Picture(np.zeros((64, 64, 3), np.uint8)), None, wide)


def test_queue_sessions_and_cache_are_bounded(model: StraIT, tmp_path: Path) -> None:
    page = build_page(Studio(model, tmp_path))
    assert page.delete_cache is not None
    assert page.delete_cache[1] <= 3600
    launched: dict[str, Any] = {}
    page.launch = lambda **options: launched.update(options)  # type: ignore[method-assign]
    before = Image.MAX_IMAGE_PIXELS
    try:
        launch(page, "127.0.0.1", None, False)
    finally:
        Image.MAX_IMAGE_PIXELS = before
    assert page._queue.max_size == 32
    assert launched["state_session_capacity"] == 32
    assert launched["max_file_size"] == "20mb"


def test_gradio_writes_nothing_into_the_package() -> None:
    assert list(Path(limits.__file__).parent.glob("*.pyi")) == []


def test_another_host_is_refused(served: Server) -> None:
    """A page elsewhere may make its own name point here (DNS rebinding)."""
    port = served.url.rpartition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example"):
        assert served.get("/config", headers={"host": host}).status_code == 400
        assert served.post("/gradio_api/queue/join", json={}, headers={"host": host}).status_code == 400
    for host in (f"localhost:{port}", f"127.0.0.1:{port}"):
        assert served.get("/config", headers={"host": host}).status_code == 200


def test_blobs_that_nobody_asks_for_are_forgotten() -> None:
    with gr.Blocks(analytics_enabled=False):
        editor = Editor(layers=False)

    def blob(number: int, index: str | None = None) -> AcceptBlobs:
        data = {
            "type": "background" if index is None else "layer",
            "index": index,
            "file": b"",
            "id": str(number),
        }
        return AcceptBlobs.model_construct(data=data, files=[("x", b"content")])

    for number in range(100):
        editor.accept_blobs(blob(number))
    assert list(editor.blob_storage) == [str(number) for number in range(68, 100)]
    editor.accept_blobs(blob(99, "0"))
    with pytest.raises(HTTPException):
        editor.accept_blobs(blob(99, "1"))
    drawing = editor.preprocess(EditorData(id="99"))
    assert drawing == Drawing(b"content", (b"content",))
    assert editor.preprocess(EditorData(id="99")) == Drawing(None, ())


def test_an_end_by_a_signal_leaves_nothing_behind(tmp_path: Path) -> None:
    with serving("web", TMPDIR=str(tmp_path)) as server:
        assert [path.name.startswith("strait-web-") for path in tmp_path.glob("strait-web-*")] == [True]
        server.process.terminate()
        assert server.process.wait(60) == 0
        assert list(tmp_path.glob("strait-web-*")) == []


def test_the_page_asks_no_other_host_and_listens_to_this_machine_alone() -> None:
    with serving("web") as server:
        assert "googleapis" not in server.get("/").text
        port = int(server.url.rpartition(":")[2])
        listening = {line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if " 0A " in line}
        assert f"0100007F:{port:04X}" in listening
        assert f"00000000:{port:04X}" not in listening
