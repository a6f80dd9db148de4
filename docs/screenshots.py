"""The pictures of docs/apps.md, from the pages as they are: run it after a page has changed.

pip install ".[app]" playwright, and Debian's chromium
python docs/screenshots.py STUDY      a study's folder; its first questions are answered
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

from strait.apps.study.storage import Study
from strait.model.strait import StraIT
from strait.pictures.images import to_pictures

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
from servers import serving  # noqa: E402

IMAGES = ROOT / "docs" / "images"
SIZES = {1280: 900, 390: 844}


def main() -> int:
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        for width, height in SIZES.items():
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_default_timeout(60_000)
            _study(page, width, Path(sys.argv[1]))
            with serving("web") as server:
                page.goto(server.url)
                _web(page, width)
            page.close()
    return 0


def _study(page: Any, width: int, folder: Path) -> None:
    study = Study(folder)
    tokens = {entry["kind"]: entry["token"] for entry in study.invitations()}
    with serving("study", "serve", folder, "--port", 0) as server:
        for kind, key in (("quality", "Shift+ArrowLeft"), ("diversity", "Shift+ArrowUp")):
            page.goto(f"{server.url}/r/{tokens[kind]}?question=1")
            page.keyboard.press(key)
            page.locator("nav a.here.done").wait_for()
            _shoot(page, f"study-{kind}-{width}")


def _web(page: Any, width: int) -> None:
    _choose(page, "lemon")
    page.locator("#generate-button").click()
    page.locator("#gallery .grid-container img").first.wait_for()
    page.wait_for_timeout(1500)
    _shoot(page, f"web-generate-{width}")
    page.get_by_role("tab", name="Process").click()
    page.locator("#step input").first.fill("9")
    page.keyboard.press("Tab")
    page.get_by_text("step 9 of").wait_for()
    page.wait_for_timeout(1500)
    _shoot(page, f"web-process-{width}")
    _choose(page, "mountain")
    page.get_by_role("tab", name="Edit").click()
    page.wait_for_timeout(1500)
    with tempfile.TemporaryDirectory() as folder:
        picture = to_pictures(StraIT.from_pretrained().generate(["mountain"], seed=3))[0]
        picture.resize((384, 384), Image.Resampling.BICUBIC).save(Path(folder) / "mountain.png")
        page.locator("#editor input[type=file]").set_input_files(Path(folder) / "mountain.png")
        page.wait_for_timeout(3000)
    page.locator("#editor").scroll_into_view_if_needed()
    box = page.locator("#editor canvas").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    # A third of the picture, in strokes from side to side.
    reach = box["height"] / 5
    page.mouse.move(x - reach, y)
    page.mouse.down()
    for row in range(0, int(reach), 8):
        page.mouse.move(x + reach, y + row, steps=8)
        page.mouse.move(x - reach, y + row + 4, steps=8)
    page.mouse.up()
    page.wait_for_timeout(500)
    page.locator("#edit-more button").first.click()
    page.locator("#edit-feather input").fill("8")
    page.keyboard.press("Tab")
    page.locator("#edit-more button").first.click()
    page.locator("#edit-button").click()
    page.locator("#edit-note").get_by_text("4 results").wait_for()
    page.wait_for_timeout(1500)
    _shoot(page, f"web-edit-{width}")


def _choose(page: Any, name: str) -> None:
    page.locator("#class input").click()
    page.locator("#class input").fill("")
    page.locator("#class input").press_sequentially(name, delay=20)
    page.get_by_role("option", name=name, exact=True).click()


def _shoot(page: Any, name: str) -> None:
    page.evaluate("document.activeElement.blur(); scrollTo(0, 0)")
    page.mouse.move(0, 0)
    page.wait_for_timeout(300)
    page.screenshot(path=IMAGES / f"{name}.png", full_page=True)
    with Image.open(IMAGES / f"{name}.png") as picture:
        small = picture.convert("RGB").quantize(200)
    small.save(IMAGES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    sys.exit(main())
