"""The documents say what is there: paths, tests and configurations that they name exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from strait.config import config_names

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_a_page_names_exist(page: Path) -> None:
    text = page.read_text()
    named = {ROOT / path for path in re.findall(r"`((?:src|tests|docs|benchmarks|notebooks)/[\w./-]+)`", text)}
    named |= {page.parent / path for path in re.findall(r"\]\((?!http|#)([\w/.-]+)\)", text)}
    assert sorted(str(path) for path in named if not path.exists()) == []


def test_tests_that_the_paper_map_names_exist() -> None:
    sources = "".join(path.read_text() for path in (ROOT / "tests").glob("test_*.py"))
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "paper-map.md").read_text()))
    assert named
    assert sorted(named - set(re.findall(r"def (test_\w+)", sources))) == []


def test_every_equation_line_table_and_figure_is_on_the_paper_map() -> None:
    text = (ROOT / "docs" / "paper-map.md").read_text()
    for kind, count in (("equation", 6), ("Table", 12), ("Figure", 13)):
        firsts = re.findall(rf"^\| {kind}s? (\d+)(?:, (\d+))?", text, flags=re.MULTILINE | re.IGNORECASE)
        assert {int(number) for pair in firsts for number in pair if number} == set(range(1, count + 1)), kind


def test_configurations_that_the_guide_names_are_those_there_are() -> None:
    text = (ROOT / "docs" / "train.md").read_text()
    for name in config_names():
        shortened = name.removeprefix("imagenet256").removeprefix("maskgit-imagenet256")
        assert f"`{name}`" in text or f"`{shortened}`" in text, name
