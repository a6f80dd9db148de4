"""The web page in a real browser: generate, paint a mask and infill, scrub the process, bring settings back."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import numpy as np
import pytest
from PIL import Image

from conftest import make_photograph
from servers import Server, serving
from strait.editing.edits import Edit, extend_picture, transfer_picture
from strait.editing.extension import Sides
from strait.model.strait import StraIT
from strait.pictures.images import to_pictures
from strait.pictures.reading import Picture
from strait.pictures.recipe import png_bytes

pytestmark = pytest.mark.browser
pytest.importorskip("gradio", reason="the page needs pip install 'strait[app]'")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("web") as started:
        yield started


@pytest.fixture
def page(browser_page, server: Server):
    """The page, opened; anything asked of another host fails the test."""
    strangers: list[str] = []
    browser_page.on("request", lambda request: strangers.append(request.url) if _is_stranger(request.url) else None)
    browser_page.goto(server.url)
    browser_page.locator("#generate-button").wait_for()
    yield browser_page
    assert strangers == []


def _is_stranger(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme not in ("data", "blob") and parts.hostname != "127.0.0.1"


def choose_class(page, name: str) -> None:
    page.locator("#class input").click()
    page.locator("#class input").fill("")
    page.locator("#class input").press_sequentially(name, delay=20)
    # Not by the keyboard: on a busy machine the list may still show what was there before.
    page.get_by_role("option", name=name, exact=True).click()
    page.wait_for_function("name => document.querySelector('#class input').value == name", arg=name)


def fill(page, key: str, value: str) -> None:
    page.locator(f"#{key} input, #{key} textarea").first.fill(value)
    page.keyboard.press("Tab")


def generate(page, count: int) -> list[Image.Image]:
    """Press the button; returns the files to download, as they are."""
    page.locator("#generate-button").click()
    page.locator("#note").get_by_text("each file stores its settings").wait_for()
    page.wait_for_function(f"document.querySelectorAll('#files a[download]').length == {count}")
    links = [link.get_attribute("href") for link in page.locator("#files a[download]").all()]
    return [Image.open(io.BytesIO(httpx.get(link).content)) for link in links]


def pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture.convert("RGB"))


def test_generate_with_a_preview_then_scrub_the_process(page, server: Server) -> None:
    page.evaluate(
        "window.seen = []; new MutationObserver(() => { const text = document.querySelector('#note').innerText;"
        "if (window.seen.at(-1) != text) window.seen.push(text); })"
        ".observe(document.querySelector('#note'), {subtree: true, childList: true, characterData: true})"
    )
    choose_class(page, "lemon")
    fill(page, "seed", "5")
    fill(page, "count", "3")
    files = generate(page, 3)
    model = StraIT.from_pretrained()
    expected = to_pictures(model.generate(["lemon"] * 3, seed=5))
    for index, (picture, reference) in enumerate(zip(files, expected, strict=True)):
        assert np.array_equal(pixels(picture), np.asarray(reference))
        inside = json.loads(picture.info["strait"])
        assert (inside["label"], inside["seed"], inside["index"]) == ("lemon", 5, index)
    steps = [int(text.split()[1]) for text in page.evaluate("window.seen") if text.startswith("step ")]
    assert len(steps) >= 4
    assert steps == sorted(set(steps))

    page.get_by_role("tab", name="Process").click()
    page.get_by_text("step 24 of 24: bottom 6, 256 of 256 tokens kept").wait_for()
    fill(page, "which", "2")
    big = expected[1].resize((512, 512), Image.Resampling.BICUBIC)
    page.wait_for_function("document.querySelector('#step-image img')?.complete")
    page.wait_for_timeout(1500)
    assert np.array_equal(pixels(image_at(page, "step-image")), np.asarray(big))
    seen = set()
    for step, text in ((1, "top 1, "), (18, "top 18, 64 of 64"), (19, "bottom 1, ")):
        fill(page, "step", str(step))
        page.get_by_text(f"step {step} of 24: {text}").wait_for()
        page.wait_for_timeout(500)
        seen.add((image_at(page, "step-image").tobytes(), image_at(page, "step-sure").tobytes()))
    assert len(seen) == 3


def image_at(page, key: str) -> Image.Image:
    source = page.locator(f"#{key} img").get_attribute("src")
    return Image.open(io.BytesIO(httpx.get(source).content))


def test_a_mask_is_painted_and_infilled(page, tmp_path: Path) -> None:
    photograph = make_photograph("stripes", 3).resize((200, 160))
    photograph.save(tmp_path / "photo.png")
    fill(page, "count", "2")
    page.get_by_role("tab", name="Edit").click()
    page.locator("#editor").wait_for()
    page.locator("#edit-button").click()
    page.get_by_text("picture: put a picture into the editor first").wait_for()
    page.locator("#editor input[type=file]").set_input_files(tmp_path / "photo.png")
    page.locator("#editor [aria-label=Brush].highlight").wait_for()
    page.wait_for_timeout(1500)
    page.locator("#editor").scroll_into_view_if_needed()
    box = page.locator("#editor canvas").first.bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(middle[0] - 30, middle[1])
    page.mouse.down()
    page.mouse.move(middle[0] + 30, middle[1], steps=12)
    page.mouse.up()
    page.wait_for_timeout(500)
    page.locator("#edit-button").click()
    page.locator("#edit-note").get_by_text("2 results").wait_for()
    page.wait_for_function("document.querySelectorAll('#edit-gallery .grid-container img').length == 2")
    links = [image.get_attribute("src") for image in page.locator("#edit-gallery .grid-container img").all()]
    results = [Image.open(io.BytesIO(httpx.get(link).content)) for link in links]
    original = np.asarray(photograph)
    changed = [(pixels(result) != original).any(-1) for result in results]
    for result, where in zip(results, changed, strict=True):
        assert result.size == photograph.size
        assert 0.005 < where.mean() < 0.2
        rows, columns = np.nonzero(where)
        assert rows.min() > 20
        assert rows.max() < 140
        assert columns.min() > 20
        assert columns.max() < 180
        assert json.loads(result.info["strait"])["edit"] == "infill"
    assert not np.array_equal(pixels(results[0]), pixels(results[1]))


def test_a_picture_dropped_in_brings_its_settings_back(page, server: Server, tmp_path: Path) -> None:
    page.locator("#more button").click()
    choose_class(page, "daisy")
    for key, value in (("seed", str(2**62 + 1)), ("count", "2"), ("steps-top", "5"), ("temperature-bottom", "1.5")):
        fill(page, key, value)
    first = generate(page, 2)
    link = page.locator("#files a[download]").nth(1).get_attribute("href")
    (tmp_path / "mine.png").write_bytes(httpx.get(link).content)
    page.goto(server.url)
    page.locator("#generate-button").wait_for()
    page.locator("#drop input[type=file]").set_input_files(tmp_path / "mine.png")
    page.wait_for_function("document.querySelector('#seed textarea, #seed input').value != '0'")
    assert page.locator("#seed textarea, #seed input").first.input_value() == str(2**62 + 1)
    assert page.locator("#class input").input_value() == "daisy"
    again = generate(page, 2)
    assert [pixels(picture).tobytes() for picture in again] == [pixels(picture).tobytes() for picture in first]


def test_what_cannot_be_is_said_on_the_page(page, tmp_path: Path) -> None:
    fill(page, "seed", "lemon")
    page.locator("#generate-button").click()
    page.get_by_text("seed: 'lemon' must be a whole number").wait_for()
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    page.locator("#drop input[type=file]").set_input_files(tmp_path / "plain.png")
    page.get_by_text("it has no settings").wait_for()


def open_editor(page, tmp_path: Path) -> Image.Image:
    """Put a picture into the editor; returns it."""
    photograph = make_photograph("stripes", 3).resize((200, 160))
    photograph.save(tmp_path / "photo.png")
    page.get_by_role("tab", name="Edit").click()
    page.locator("#editor canvas").first.wait_for()
    page.wait_for_timeout(1500)  # the editor takes a picture only when its canvas has been set up
    page.locator("#editor input[type=file]").set_input_files(tmp_path / "photo.png")
    page.locator("#editor [aria-label=Brush].highlight").wait_for()
    page.wait_for_timeout(1500)
    return photograph


def paint(page) -> None:
    """A stroke through the middle of the picture."""
    page.locator("#editor").scroll_into_view_if_needed()
    box = page.locator("#editor canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x - 30, y)
    page.mouse.down()
    page.mouse.move(x + 30, y, steps=12)
    page.mouse.up()
    page.wait_for_timeout(500)


def edit_results(page, count: int) -> list[Image.Image]:
    """Press the button; the files that were not there before."""
    files = "[...document.querySelectorAll('#edit-files a[download]')].map(link => link.href)"
    before = page.evaluate(files)
    page.locator("#edit-button").click()
    page.wait_for_function(
        f"before => (now => now.length == {count} && !now.some(link => before.includes(link)))({files})",
        arg=before,
    )
    page.locator("#edit-note").get_by_text(f"{count} result").wait_for()
    links = [link.get_attribute("href") for link in page.locator("#edit-files a[download]").all()]
    return [Image.open(io.BytesIO(httpx.get(link).content)) for link in links]


def watch(page, key: str) -> None:
    """Remember every text that a note has."""
    page.evaluate(
        "key => { window.seen = []; new MutationObserver(() => { const text = document.querySelector(key).innerText;"
        "if (window.seen.at(-1) != text) window.seen.push(text); })"
        ".observe(document.querySelector(key), {subtree: true, childList: true, characterData: true}) }",
        f"#{key}",
    )


def test_extend_relabel_and_transfer(page, tmp_path: Path) -> None:
    model = StraIT.from_pretrained()
    choose_class(page, "lemon")
    fill(page, "count", "1")
    picture = Picture(np.asarray(open_editor(page, tmp_path)))
    edit = Edit(model, model.classes.find("lemon"))

    page.get_by_label("Extend: past the edges").check()
    fill(page, "edit-right", "0")
    watch(page, "edit-note")
    (result,) = edit_results(page, 1)
    assert np.array_equal(pixels(result), next(extend_picture(edit, picture, Sides(left=1))))
    assert any(text.startswith(("top, step", "bottom, step")) for text in page.evaluate("window.seen"))

    page.get_by_label("Transfer: to the chosen class").check()
    fill(page, "edit-keep", "0.25")
    (result,) = edit_results(page, 1)
    assert np.array_equal(pixels(result), next(transfer_picture(edit, picture, 0.25)))

    page.get_by_label("Relabel: redraw it").check()
    paint(page)
    (result,) = edit_results(page, 1)
    assert result.size == (200, 160)
    assert json.loads(result.info["strait"])["edit"] == "relabel"
    assert json.loads(result.info["strait"])["label"].endswith("lemon")
    changed = (pixels(result) != picture.pixels).any(-1)
    assert 0.005 < changed.mean() < 0.3


def test_stop_leaves_a_whole_page(page, tmp_path: Path) -> None:
    generate(page, 4)
    page.locator("#generate-button").click()
    page.locator("#note").get_by_text("step ").wait_for()
    page.locator("#stop-button").click()
    page.locator("#note").get_by_text("stopped").wait_for()
    page.locator("#preview img").wait_for()  # what was seen last stays
    page.locator("#gallery .grid-container img").first.wait_for()
    page.wait_for_timeout(3000)
    assert page.locator("#note").inner_text().strip() == "stopped"
    assert len(generate(page, 4)) == 4

    fill(page, "count", "16")
    open_editor(page, tmp_path)
    paint(page)
    page.locator("#edit-button").click()
    page.locator("#edit-note").get_by_text("step ").wait_for()
    page.locator("#edit-stop").click()
    page.locator("#edit-note").get_by_text("stopped").wait_for()
    page.locator("#edit-preview img").wait_for()
    fill(page, "count", "1")
    assert len(edit_results(page, 1)) == 1


def test_what_a_picture_says_never_becomes_markup(page, tmp_path: Path) -> None:
    """The fixture fails where the page asks a stranger; a picture's settings are a stranger's words."""
    settings = {
        "label": "<img src='http://stranger.example/x.png'>",
        "seed": 1,
        "index": 0,
        "decoding": {"steps": [2, 1], "temperature": [1, 1], "guidance": 1, "schedule": "cosine"},
    }
    (tmp_path / "bad.png").write_bytes(png_bytes(Image.new("RGB", (8, 8)), settings))
    page.locator("#drop input[type=file]").set_input_files(tmp_path / "bad.png")
    page.get_by_text("no class is called").wait_for()
    page.wait_for_timeout(1000)
    assert page.locator("img[src*=stranger]").count() == 0


def test_another_models_picture_is_said_to_be_one(page, tmp_path: Path) -> None:
    decoding = {"steps": [2, 1], "temperature": [1, 1], "guidance": 1, "schedule": "cosine", "keep": "halton"}
    settings = {"label": None, "seed": 1, "index": 40, "decoding": decoding, "model": "0123456789ab"}
    (tmp_path / "other.png").write_bytes(png_bytes(Image.new("RGB", (8, 8)), settings))
    page.locator("#drop input[type=file]").set_input_files(tmp_path / "other.png")
    page.get_by_text("the picture is by model 0123456789ab").wait_for()
    page.locator("#more button").first.click()
    assert page.locator("#first input").input_value() == "25"
    assert page.locator("#keep input").first.input_value() == "halton"


def test_an_image_goes_on_to_the_editor_and_stays_among_the_earlier(page) -> None:
    page.get_by_role("button", name="Random seed").click()
    page.wait_for_function("document.querySelector('#seed input, #seed textarea').value != '0'")
    seed = int(page.locator("#seed input, #seed textarea").first.input_value())
    assert 0 < seed < 10**6
    page.locator("#examples button").first.click()
    page.wait_for_function("document.querySelector('#class input').value == 'avocado'")
    choose_class(page, "lemon")
    fill(page, "count", "2")
    files = generate(page, 2)
    names = [link.get_attribute("download") for link in page.locator("#files a[download]").all()]
    assert names == [f"lemon-seed{seed}-{index:04d}.png" for index in range(2)]
    with page.expect_download() as download:
        page.locator("#all").click()
    with zipfile.ZipFile(download.value.path()) as archive:
        assert archive.namelist() == names
        for name, image in zip(names, files, strict=True):
            assert np.array_equal(pixels(Image.open(archive.open(name))), pixels(image))

    page.locator("#gallery .grid-container img").nth(1).click()
    page.wait_for_timeout(1000)
    opened = page.locator("#gallery img[data-testid=detailed-image]").bounding_box()
    assert opened["width"] >= 256
    page.locator("#to-edit").click()
    page.locator("#editor [aria-label=Brush].highlight").wait_for()
    page.wait_for_timeout(1500)
    page.get_by_label("Extend: past the edges").check()
    fill(page, "count", "1")
    (image,) = edit_results(page, 1)
    assert image.size == (160, 128)  # by a top token of 16 pixels on the left and the right, until one says otherwise
    assert np.array_equal(pixels(image)[:, 16:144], pixels(files[1]))

    page.get_by_role("tab", name="Earlier").click()
    page.wait_for_function("document.querySelectorAll('#earlier-gallery .grid-container img').length == 3")


def test_a_number_out_of_range_names_its_field(page) -> None:
    page.locator("#count input").first.fill("100")
    page.keyboard.press("Tab")
    page.locator("#generate-button").click()
    page.get_by_text("Images: 100 must lie between 1 and 16").wait_for()


def test_every_label_is_whole_on_a_phone(page, server: Server) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(server.url)
    page.get_by_role("tab", name="Edit").click()
    page.get_by_label("Transfer: to the chosen class").check()
    label = page.locator("#edit-keep-bottom")
    label.wait_for()
    assert label.evaluate("element => element.scrollWidth <= element.clientWidth")
    box = label.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390


def test_nothing_sticks_out_on_a_phone(page, server: Server) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(server.url)
    page.locator("#generate-button").wait_for()
    generate(page, 4)
    for name in ("Generate", "Edit", "Process", "Earlier"):
        page.get_by_role("tab", name=name).click()
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
