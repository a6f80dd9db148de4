"""The documentation site: it is built without a warning, no link of it is dead, and it asks nothing from elsewhere."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parent.parent
ADDRESSES = {"a": "href", "img": "src", "script": "src", "link": "href", "source": "src", "iframe": "src"}


class Page(HTMLParser):
    """What a page names: its anchors, and the addresses that it points to or loads."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.addresses: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.anchors.update(value for name in ("id", "name") if (value := attributes.get(name)))
        if tag in ADDRESSES and (address := attributes.get(ADDRESSES[tag])):
            self.addresses.append((tag, address))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: it is in the extra docs")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed: it is in the extra docs")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # A library may say that another of its kind exists; nothing is said about our pages.
    assert re.findall(r"^(?:WARNING|ERROR).*", done.stderr, flags=re.MULTILINE) == []
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Page]:
    return {path: Page(path.read_text()) for path in sorted(site.rglob("*.html")) if path.name != "404.html"}


def _links(pages: dict[Path, Page]) -> Iterator[tuple[Path, str, str]]:
    for path, page in pages.items():
        for tag, address in page.addresses:
            yield path, tag, address


def test_no_link_and_no_anchor_is_dead(pages: dict[Path, Page]) -> None:
    dead = []
    for path, _, address in _links(pages):
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            continue
        target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
        target = target / "index.html" if target.is_dir() else target
        anchors = pages[target].anchors if target in pages else set()
        if not target.exists() or (parts.fragment and target in pages and unquote(parts.fragment) not in anchors):
            dead.append(f"{path.name}: {address}")
    assert dead == []


def test_nothing_is_fetched_from_elsewhere(site: Path, pages: dict[Path, Page]) -> None:
    loaded = [(path.name, address) for path, tag, address in _links(pages) if tag != "a" and "//" in address]
    assert loaded == []
    for sheet in site.rglob("*.css"):
        assert re.findall(r"url\(['\"]?(?:https?:)?//", sheet.read_text()) == [], sheet.name


def test_every_page_of_the_documents_is_reached_from_the_first(site: Path, pages: dict[Path, Page]) -> None:
    reached = {
        (site / urlsplit(address).path).resolve()
        for tag, address in pages[site / "index.html"].addresses
        if tag == "a"
    }
    assert {path for path in pages if path not in reached and path != site / "index.html"} == set()


def test_every_verb_has_a_page_that_shows_its_options(site: Path) -> None:
    from strait.cli import VERBS

    for verb in VERBS:
        page = (site / "commands" / f"{verb}.html").read_text()
        assert f"usage: strait {verb}" in page
        assert "--help" in page


def test_options_of_a_verb_that_is_not_there_end_the_build() -> None:
    hook = runpy.run_path(str(ROOT / "docs" / "options.py"))["on_page_markdown"]
    assert "usage: strait describe" in hook("<!-- options: describe -->")
    assert "  --top.layers " in hook("<!-- options: train --help-settings -->")
    for words in ("nothing", "edit nothing"):
        with pytest.raises(ValueError, match=f"options: {words} -->: there is no such verb"):
            hook(f"<!-- options: {words} -->")


def test_the_reference_shows_docstrings(pages: dict[Path, Page]) -> None:
    anchors = set().union(*(page.anchors for page in pages.values()))
    for name in (
        "strait.model.strait.StraIT.generate",
        "strait.types.Canvas",
        "strait.decoding.iterative.decode_step",
    ):
        assert name in anchors
