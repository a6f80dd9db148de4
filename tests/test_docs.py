"""The documents say what is there: paths, tests and configurations that they name exist."""

from __future__ import annotations

import re
import subprocess
import sys
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
    """Each in the file that is named before it."""
    named: set[tuple[str, str]] = set()
    file = ""
    for path, test in re.findall(r"`(?:(tests/\w+\.py)|(test_\w+))`", (ROOT / "docs" / "paper-map.md").read_text()):
        file = path or file
        named |= {(file, test)} if test else set()
    assert len(named) > 100
    tests = {file: set(re.findall(r"def (test_\w+)", (ROOT / file).read_text())) for file, _ in named}
    assert sorted((file, test) for file, test in named if test not in tests[file]) == []


def test_every_equation_line_table_and_figure_is_on_the_paper_map() -> None:
    text = (ROOT / "docs" / "paper-map.md").read_text()
    for kind, count in (("equation", 6), ("Table", 12), ("Figure", 13)):
        firsts = re.findall(rf"^\| {kind}s? (\d+)(?:, (\d+))?", text, flags=re.MULTILINE | re.IGNORECASE)
        assert {int(number) for pair in firsts for number in pair if number} == set(range(1, count + 1)), kind


def test_configurations_that_the_guide_names_are_those_there_are() -> None:
    """In the first column of its table; after the first of a kind, the ends of names stand for them."""
    text = (ROOT / "docs" / "train.md").read_text().partition("\n## Configurations\n")[2].partition("\n## ")[0]
    named = {
        name for cell in re.findall(r"^\| (`.*?) \|", text, flags=re.MULTILINE) for name in re.findall("`(.+?)`", cell)
    }
    shortened = {name: re.sub("^(maskgit-)?imagenet256(?=-)", "", name) for name in config_names()}
    assert named == {name if name in named else short for name, short in shortened.items()}


def test_an_import_of_the_model_takes_no_more_than_the_page_says() -> None:
    program = re.search(r"```python\n(import sys\n.*?)```", (ROOT / "docs" / "development.md").read_text(), re.S)
    assert program is not None
    done = subprocess.run(
        [sys.executable, "-c", program[1] + "print(*names)"], capture_output=True, text=True, check=True
    )
    figures, names = done.stdout.splitlines()
    modules, lines = map(int, figures.split())
    assert modules < 40
    assert lines < 3600
    for name in names.split():
        assert not name.startswith(("strait.training", "strait.data.sources", "strait.data.fingerprint"))
        assert name not in ("strait.runtime.ranks", "strait.model.hub", "strait.pictures.reading")
