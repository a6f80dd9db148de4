"""The service's page of documentation in a real browser: what it says, and that its examples work as they stand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import make_photograph
from servers import Server, serving

pytest.importorskip("fastapi", reason="the service needs pip install 'strait[serve]'")

from test_service import EDIT, GENERATE, wait_until_ready

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving("serve", "--port", 0, "--device", "cpu", "--max-images", 5) as started:
        yield wait_until_ready(started)


def part(page: Any, path: str) -> Any:
    return page.locator("#paths details", has=page.locator("summary code", has_text=re.compile(f"^{path}$")))


def test_the_page_is_readable_and_exact(browser_page: Any, server: Server) -> None:
    browser_page.goto(server.url)  # the start leads to it
    browser_page.wait_for_selector("#schemas details")
    text = browser_page.locator("main").inner_text()
    assert "`" not in text
    assert "null" not in text
    assert "-9223372036854775808 to 9223372036854775807" in text
    assert "1 to 4 items" in text
    rows = part(browser_page, GENERATE).locator("tr")
    assert "1 to 5 items" in rows.filter(has_text=re.compile("^labels")).inner_text()
    assert "1 to 5" in rows.filter(has_text=re.compile("^count")).inner_text()
    assert "5" in browser_page.locator("#limits tr", has_text="--max-images").inner_text()


@pytest.mark.parametrize("path", [GENERATE, EDIT])
@pytest.mark.parametrize("accept", ["application/json", "image/png", "text/event-stream"])
def test_its_examples_work_as_they_stand(browser_page: Any, server: Server, path: str, accept: str) -> None:
    browser_page.goto(server.url + "/docs")
    example = part(browser_page, path)
    example.locator("select").select_option(accept)
    example.get_by_role("button", name="Ask").click()
    image = example.locator(".made img").first
    image.wait_for()
    if accept == "text/event-stream":
        example.locator("pre", has_text='"images"').last.wait_for()
    browser_page.wait_for_function("image => image.naturalWidth > 0", arg=image.element_handle())
    assert example.locator(".reply p").first.inner_text() == "200 OK"


def test_a_picture_of_ones_own_can_be_tried(browser_page: Any, server: Server, tmp_path: Path) -> None:
    make_photograph("stripes", 1).resize((80, 60)).save(tmp_path / "mine.jpg")
    browser_page.goto(server.url + "/docs")
    example = part(browser_page, EDIT)
    example.locator("input[type=file]").set_input_files(tmp_path / "mine.jpg")
    browser_page.wait_for_function(
        "length => document.querySelectorAll('textarea')[1].value.length > length", arg=1000
    )
    example.get_by_role("button", name="Ask").click()
    image = example.locator(".made img").first
    image.wait_for()
    browser_page.wait_for_function("image => image.naturalWidth > 80", arg=image.element_handle())
