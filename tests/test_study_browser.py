"""The preference study in a real browser, by the keyboard alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from servers import serving
from strait.apps.study.design import Design, create_study
from strait.apps.study.pictures import read_method
from strait.apps.study.results import read_results
from strait.apps.study.storage import Sheet, Study
from test_study import paint

pytestmark = pytest.mark.browser


@pytest.fixture
def study(tmp_path: Path) -> Study:
    methods = [read_method(name, paint(tmp_path / name, 60 * number)) for number, name in enumerate(("ours", "b"))]
    return create_study(tmp_path / "study", methods, Design(quality=4, diversity=2, raters=2, set_size=16), "Which?")


def sheet_of(study: Study, token: str) -> Sheet:
    sheet = study.sheet(token)
    assert sheet is not None
    return sheet


def at_question(page, number: int) -> None:
    page.wait_for_function("n => document.querySelector('nav a.here')?.textContent == n", arg=str(number))


@pytest.mark.parametrize("kind", ["quality", "diversity"])
def test_a_sheet_is_completed_with_the_keyboard_alone(browser_page, study: Study, kind: str) -> None:
    token = next(entry["token"] for entry in study.invitations() if entry["kind"] == kind)
    count = len(sheet_of(study, token).questions)
    keys = ("Shift+ArrowLeft", "Shift+ArrowRight") if kind == "quality" else ("Shift+ArrowUp", "Shift+ArrowDown")
    with serving("study", "serve", study.folder, "--port", 0) as server:
        page = browser_page
        page.goto(f"{server.url}/r/{token}")
        answers = []
        for number in range(1, count + 1):
            at_question(page, number)
            broken = page.evaluate("[...document.images].filter(each => !each.complete || !each.naturalWidth).length")
            assert broken == 0
            assert page.locator("img").count() == (2 if kind == "quality" else 32)
            answers.append(number % 2)
            page.keyboard.press(keys[number % 2])
            if number == 2:
                # Back and forth: the answers stay, and may be changed.
                page.keyboard.press("Shift+Tab")
                at_question(page, 1)
                assert page.locator("input:checked").get_attribute("value") == "1"
                page.keyboard.press(keys[0])
                answers[0] = 0
                page.keyboard.press("Tab")
                at_question(page, 2)
            if number == 3:
                page.locator("#count", has_text="3 of").wait_for()
                page.goto(f"{server.url}/r/{token}")  # closed and opened again: on with the first without an answer
                at_question(page, 4)
            elif number < count:
                page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.get_by_text("Thank you").wait_for()
    sheet = sheet_of(study, token)
    assert sheet.submitted
    assert [question.answer for question in sheet.questions] == answers


def test_an_answer_for_each_is_needed_and_the_mouse_works_too(browser_page, study: Study) -> None:
    token = study.invitations()[0]["token"]
    count = len(sheet_of(study, token).questions)
    with serving("study", "serve", study.folder, "--port", 0) as server:
        page = browser_page
        page.goto(f"{server.url}/r/{token}?question={count}")
        assert page.locator("#submit").is_disabled()
        page.keyboard.press("Enter")
        page.get_by_text(f"{count} questions have no answer yet").wait_for()
        for number in range(1, count + 1):
            page.locator("nav a").nth(number - 1).click()
            at_question(page, number)
            page.locator(".choice").nth(1).click()
            page.locator("#count", has_text=f"{number} of {count}").wait_for()
        page.locator("#submit").click()
        page.get_by_text("Thank you").wait_for()


def test_an_answer_that_was_not_stored_is_not_shown_as_given(browser_page, study: Study) -> None:
    token = study.invitations()[0]["token"]
    with serving("study", "serve", study.folder, "--port", 0) as server:
        page = browser_page
        page.goto(f"{server.url}/r/{token}")
        server.process.kill()
        server.process.wait()
        page.keyboard.press("Shift+ArrowRight")
        page.get_by_text("This answer was not saved").wait_for()
        assert page.locator("input:checked").count() == 0
        page.keyboard.press("Tab")
        page.wait_for_timeout(300)
        at_question(page, 1)
    assert sheet_of(study, token).answered == 0
    with serving("study", "serve", study.folder, "--port", 0) as server:
        page.goto(f"{server.url}/r/{token}")
        page.keyboard.press("Shift+ArrowRight")
        page.keyboard.press("Tab")
        at_question(page, 2)
    assert sheet_of(study, token).answered == 1


def test_two_raters_in_two_windows_never_mix(browser, study: Study) -> None:
    tokens = [entry["token"] for entry in study.invitations() if entry["kind"] == "quality"]
    with serving("study", "serve", study.folder, "--port", 0) as server:
        pages = [browser.new_page() for _ in tokens]
        for page, token in zip(pages, tokens, strict=True):
            page.goto(f"{server.url}/r/{token}")
        for number in range(1, 7):
            for page, key in zip(pages, ("Shift+ArrowLeft", "Shift+ArrowRight"), strict=True):
                at_question(page, number)
                page.keyboard.press(key)
                page.keyboard.press("Tab" if number < 6 else "Enter")
        for page in pages:
            page.get_by_text("Thank you").wait_for()
            page.close()
    given = [[question.answer for question in sheet_of(study, token).questions] for token in tokens]
    assert given == [[0] * 6, [1] * 6]
    assert read_results(study).invitations == 2
