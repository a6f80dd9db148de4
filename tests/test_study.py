"""The preference study: fair by design, recorded to the last answer, counted as it says."""

from __future__ import annotations

import asyncio
import collections
import hashlib
import io
import json
import random
import re
import socket
import sqlite3
import threading
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from servers import Server, serving
from strait.apps.study.design import Design, create_study, make_sheets, places
from strait.apps.study.pictures import Method, PictureStore, read_method
from strait.apps.study.results import read_results, results_chart, results_table
from strait.apps.study.results_page import results_page
from strait.apps.study.storage import CHANGES, Refused, Study, create
from strait.cli import main
from strait.pictures.reading import read_picture
from strait.pictures.recipe import png_bytes

CLASSES = ("alp", "n04399382 teddy", "goldfish")


def paint(folder: Path, brightness: int, count: int = 20) -> Path:
    """A method's images: class folders of noise around a brightness, each file another."""
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            noise = np.random.default_rng([brightness, number, index]).integers(0, 50, (16, 16, 3))
            picture = Image.fromarray((noise + brightness).astype(np.uint8))
            (folder / name / f"{index:03d}.png").write_bytes(png_bytes(picture, {"model": folder.name}))
    return folder


@pytest.fixture(scope="module")
def methods(tmp_path_factory: pytest.TempPathFactory) -> list[Method]:
    folder = tmp_path_factory.mktemp("methods")
    return [read_method(name, paint(folder / name, 60 * number)) for number, name in enumerate(("ours", "b", "c"))]


@pytest.fixture
def study(methods: list[Method], tmp_path: Path) -> Study:
    design = Design(quality=6, diversity=2, raters=3, sheet=5, set_size=4, seed=3)
    return create_study(tmp_path / "study", methods, design, "Which?")


def tokens(study: Study) -> list[str]:
    return [entry["token"] for entry in study.invitations()]


def test_images_are_found_by_folder_or_by_their_settings(tmp_path: Path) -> None:
    paint(tmp_path / "folders", 0, 2)
    assert {
        name: len(files) for name, files in read_method("m", tmp_path / "folders").images.items()
    } == dict.fromkeys(CLASSES, 2)
    (tmp_path / "flat").mkdir()
    picture = Image.new("RGB", (8, 8))
    (tmp_path / "flat" / "x.png").write_bytes(png_bytes(picture, {"label": "n04399382 teddy"}))
    (tmp_path / "flat" / "y.png").write_bytes(png_bytes(picture, {"label": None}))
    assert set(read_method("m", tmp_path / "flat").images) == {"n04399382 teddy", "image"}
    picture.save(tmp_path / "flat" / "z.png")
    with pytest.raises(ValueError, match=r"^m: the class of .*z\.png is unknown"):
        read_method("m", tmp_path / "flat")
    (tmp_path / "flat" / "z.png").write_bytes(png_bytes(picture, {"label": ["a", "list"]}))
    with pytest.raises(ValueError, match=r"^m: the class of .*z\.png is unknown"):
        read_method("m", tmp_path / "flat")


def test_every_question_shows_one_class_by_two_methods_and_no_image_twice(methods: list[Method]) -> None:
    class Names(PictureStore):
        def add(self, path: Path) -> str:
            return str(path)

    sheets = make_sheets(methods, Design(quality=30, diversity=5, checks=0, set_size=8), Names(Path("unused")))
    shown: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    asked = collections.Counter((question.kind, question.methods) for sheet in sheets for question in sheet)
    assert asked == {
        (kind, ("ours", rival)): count for kind, count in (("quality", 30), ("diversity", 5)) for rival in ("b", "c")
    }
    for sheet in sheets:
        assert len({question.kind for question in sheet}) == 1
        assert len(sheet) <= 20
        for question in sheet:
            sets = [[Path(name) for name in side] for side in question.pictures]
            counts = [collections.Counter(path.parent.name for path in side) for side in sets]
            assert counts[0] == counts[1]
            assert set(counts[0].values()) == ({1} if question.kind == "quality" else {4})
            assert len(counts[0]) == (1 if question.kind == "quality" else 2)
            assert [{path.parent.parent.name for path in side} for side in sets] == [
                {name} for name in question.methods
            ]
            shown[question.kind, question.methods[1]] += map(str, [*sets[0], *sets[1]])
    for names in shown.values():
        assert len(set(names)) == len(names)


def test_too_few_images_or_other_classes_are_refused(methods: list[Method], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^--quality: 61 questions .* they have enough for 60"):
        create_study(tmp_path / "study", methods, Design(quality=61), "")
    stranger = Method("stranger", {"other": methods[0].images["alp"]})
    with pytest.raises(ValueError, match=r"^stranger: it shares no class with ours"):
        create_study(tmp_path / "study", [methods[0], stranger], Design(), "")
    for wrong in ({"raters": 0}, {"set_size": 3}, {"checks": -1}, {"quality": 0, "diversity": 0}):
        with pytest.raises(ValueError, match=r"^--"):
            Design(**wrong)


def test_order_and_sides_are_random_yet_follow_from_the_seed() -> None:
    first = [places(20, 0, invitation) for invitation in range(300)]
    assert first == [places(20, 0, invitation) for invitation in range(300)]
    assert first != [places(20, 1, invitation) for invitation in range(300)]
    for row in first:
        assert sorted(place.question for place in row) == list(range(20))
    # Every question comes to every position, and to either side, about equally often (5 standard errors).
    at_start = collections.Counter(row[0].question for row in first)
    assert max(abs(at_start[question] - 15) for question in range(20)) < 5 * (300 * 0.05 * 0.95) ** 0.5
    swapped = collections.Counter(place.question for row in first for place in row if place.swapped)
    assert max(abs(swapped[question] - 150) for question in range(20)) < 5 * 75**0.5


def test_pictures_tell_nothing_of_their_method(study: Study, methods: list[Method]) -> None:
    originals = {
        hashlib.sha256(np.asarray(Image.open(path)).tobytes()).hexdigest()
        for method in methods
        for files in method.images.values()
        for path in files
    }
    copies = list(study.pictures.iterdir())
    unchanged = 0
    for path in copies:
        assert path.stem == hashlib.sha256(path.read_bytes()).hexdigest()[:24]
        picture = Image.open(path)
        assert picture.info == {}
        unchanged += hashlib.sha256(np.asarray(picture).tobytes()).hexdigest() in originals
    with sqlite3.connect(study.folder / "study.sqlite") as database:
        (checks,) = database.execute("SELECT count(*) FROM questions WHERE is_check").fetchone()
    assert len(copies) - unchanged <= checks  # only the scrambled ones are not pixel for pixel an original


def test_a_study_is_never_made_over_another(study: Study, methods: list[Method]) -> None:
    before = (study.folder / "study.sqlite").read_bytes()
    with pytest.raises(FileExistsError, match="already has a study"):
        create_study(study.folder, methods, Design(quality=1, diversity=0), "")
    assert (study.folder / "study.sqlite").read_bytes() == before


def test_every_comparison_gets_as_many_raters_as_asked(study: Study) -> None:
    with sqlite3.connect(study.folder / "study.sqlite") as database:
        counts = database.execute(
            "SELECT count(*) FROM places JOIN questions ON questions.id = question "
            "WHERE NOT is_check GROUP BY question"
        ).fetchall()
        checks = database.execute(
            "SELECT sum(is_check) FROM places JOIN questions ON questions.id = question GROUP BY invitation"
        ).fetchall()
    assert counts == [(3,)] * (2 * (6 + 2))
    assert set(checks) == {(2,)}
    assert len(set(tokens(study))) == len(tokens(study)) == 4 * 3


def answer_all(study: Study, token: str, choose: object) -> None:
    sheet = study.sheet(token)
    assert sheet is not None
    with sqlite3.connect(study.folder / "study.sqlite") as database:
        rows = database.execute(
            "SELECT position, swapped, second, is_check FROM places JOIN invitations ON invitation = invitations.id "
            "JOIN questions ON questions.id = question WHERE token = ?",
            (token,),
        ).fetchall()
    for position, swapped, other, is_check in rows:
        study.record(token, position, choose(other, bool(is_check)) ^ swapped)  # type: ignore[operator]


def test_results_count_what_raters_meant_whatever_side_it_was_on(study: Study) -> None:
    keep, careless = tokens(study)[:-1], tokens(study)[-1]
    for token in keep:
        answer_all(study, token, lambda other, is_check: 0 if is_check else int(other == "c"))
    answer_all(study, careless, lambda other, is_check: 1)
    results = read_results(study)
    assert {(entry.kind, entry.other): (entry.rate, entry.pairs) for entry in results.preferences} == {
        ("quality", "b"): (1.0, 6),
        ("quality", "c"): (0.0, 6),
        ("diversity", "b"): (1.0, 2),
        ("diversity", "c"): (0.0, 2),
    }
    assert sum(entry.answers for entry in results.preferences) == 12 * 3 + 4 * 2
    assert (results.invitations, results.left_out) == (12, 1)
    assert results.agreement == {"quality": 1.0, "diversity": 1.0}
    assert results.first_side is not None
    assert 0.2 < results.first_side < 0.8
    assert read_results(study, allowed_failures=2).left_out == 0
    table = results_table(results)
    assert "100.0%" in table
    assert "1 excluded for failed attention checks" in table


def test_checks_cannot_be_left_out(study: Study) -> None:
    """One who answers all but the checks fails none: unfinished, and not counted unless asked for."""
    honest, sly = tokens(study)[:2]
    answer_all(study, honest, lambda other, is_check: 0)
    with sqlite3.connect(study.folder / "study.sqlite") as database:
        rows = database.execute(
            "SELECT position, is_check FROM places JOIN invitations ON invitation = invitations.id "
            "JOIN questions ON questions.id = question WHERE token = ?",
            (sly,),
        ).fetchall()
    for position, is_check in rows:
        if not is_check:
            study.record(sly, position, 1)
    results = read_results(study)
    assert (results.invitations, results.unfinished, results.left_out) == (2, 1, 0)
    assert sum(entry.answers for entry in results.preferences) == 5
    assert "1 unfinished" in results_table(results)
    assert sum(entry.answers for entry in read_results(study, include_unfinished=True).preferences) == 10
    first, *others = [position for position, is_check in rows if is_check]
    study.record(sly, first, 0)
    assert read_results(study).unfinished == 1
    for position in others:
        study.record(sly, position, 0)
    assert read_results(study).unfinished == 0


def test_a_study_whose_raters_all_failed_says_so(study: Study) -> None:
    assert results_table(read_results(study)) == "no answers yet"
    for token in tokens(study)[:2]:
        answer_all(study, token, lambda other, is_check: int(is_check))
    results = read_results(study)
    assert (results.invitations, results.left_out, results.preferences) == (2, 2, [])
    message = (
        "no answers count: all 2 raters failed an attention check (--allowed-failures N counts raters who failed N"
    )
    assert results_table(results).startswith(message)
    with pytest.raises(ValueError, match="--chart: no answers count: all 2 raters failed"):
        results_chart(results)
    assert message in results_page(results, study.settings["title"]).decode()
    answer_all(study, tokens(study)[2], lambda other, is_check: 0)
    assert read_results(study).preferences


def test_results_are_a_page_with_the_same_figures(study: Study) -> None:
    for token in tokens(study):
        answer_all(study, token, lambda other, is_check: 0 if is_check else int(other == "c"))
    page = results_page(read_results(study), "<b>Which?</b>").decode()
    assert "&lt;b&gt;Which?&lt;/b&gt;" in page
    assert "<b>Which?" not in page
    assert "//" not in page.partition("<main>")[2], "nothing is fetched"
    cells = re.findall(r"<tr>\s*<td>(\w)</td>.*?width: ([\d.]+%).*?<td class=\"number\">([\d.]+%)</td>", page, re.S)
    assert cells == [("b", "100.0%", "100.0%"), ("c", "0.0%", "0.0%")] * 2


def test_an_invitation_cannot_fill_the_disk(study: Study) -> None:
    token, other = tokens(study)[:2]
    with sqlite3.connect(study.folder / "study.sqlite") as database:
        questions = 7
        database.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?) INSERT INTO answers "
            "(invitation, position, shown, chosen, at) SELECT 0, 0, 0, 0, '' FROM n",
            (CHANGES * questions - 1,),
        )
    study.record(token, 0, 1)
    with pytest.raises(Refused, match="changed too often"):
        study.record(token, 0, 0)
    study.record(other, 0, 0)
    sheet = study.sheet(token)
    assert sheet is not None
    assert sheet.questions[0].answer == 1


def test_the_last_answer_counts_and_none_is_lost(study: Study) -> None:
    token = tokens(study)[0]
    for shown in (0, 1, 1, 0, 1):
        study.record(token, 2, shown)
    sheet = study.sheet(token)
    assert sheet is not None
    assert [question.answer for question in sheet.questions] == [None, None, 1, None, None, None, None]
    with sqlite3.connect(study.folder / "study.sqlite") as database:
        assert database.execute("SELECT shown FROM answers ORDER BY id").fetchall() == [(0,), (1,), (1,), (0,), (1,)]


def test_submitting_needs_every_answer_and_closes_the_invitation(study: Study) -> None:
    token = tokens(study)[0]
    with pytest.raises(Refused, match="7 questions have no answer yet"):
        study.submit(token)
    answer_all(study, token, lambda other, is_check: 0)
    study.submit(token)
    with pytest.raises(Refused, match="already submitted"):
        study.record(token, 0, 1)
    for wrong in (("nobody", 0), (tokens(study)[1], 7), (tokens(study)[1], -1)):
        with pytest.raises(Refused):
            study.record(*wrong, 0)


def test_chart_is_a_picture_of_the_rates(study: Study) -> None:
    pytest.importorskip("matplotlib")
    with pytest.raises(ValueError, match="no answers"):
        results_chart(read_results(study))
    for token in tokens(study):
        answer_all(study, token, lambda other, is_check: 0 if is_check else int(other == "c"))
    picture = Image.open(io.BytesIO(results_chart(read_results(study)))).convert("RGB")
    blue = (np.asarray(picture) == (0x3B, 0x6F, 0xD4)).all(-1).sum()
    grey = (np.asarray(picture) == (0xD3, 0xD8, 0xE2)).all(-1).sum()
    assert 0.7 < blue / grey < 1.3  # b at 100% and c at 0%, for either question


def answer_until_dead(server: Server, token: str, acknowledged: list[tuple[str, int, int]], seed: int) -> None:
    draw = random.Random(seed)
    with httpx.Client(base_url=server.url, timeout=10) as client:
        while True:
            position, shown = draw.randrange(7), draw.randrange(2)
            try:
                reply = client.post(f"/r/{token}/answers", json={"position": position, "shown": shown})
            except httpx.HTTPError:
                return
            assert reply.status_code == 200
            acknowledged.append((token, position, shown))


def test_a_kill_loses_no_answer_and_raters_never_mix(study: Study) -> None:
    pytest.importorskip("uvicorn")
    written: list[tuple[str, int, int]] = []
    for attempt in range(3):
        raters: list[list[tuple[str, int, int]]] = [[], [], []]
        with serving("study", "serve", study.folder, "--port", 0) as server:
            threads = [
                threading.Thread(target=answer_until_dead, args=(server, token, kept, attempt))
                for token, kept in zip(tokens(study), raters, strict=False)
            ]
            for thread in threads:
                thread.start()
            while min(map(len, raters)) < 3 + 10 * attempt:
                threading.Event().wait(0.01)
            server.process.kill()
            for thread in threads:
                thread.join()
        assert all(raters)
        written += [each for rater in raters for each in rater]
        with sqlite3.connect(study.folder / "study.sqlite") as database:
            rows = database.execute(
                "SELECT token, position, shown FROM answers JOIN invitations ON invitation = invitations.id "
                "ORDER BY answers.id"
            ).fetchall()
            assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        for token in tokens(study)[:3]:
            mine, theirs = ([row for row in rows if row[0] == token], [row for row in written if row[0] == token])
            # What was under way at a kill may be there without its reply having arrived; nothing else may differ.
            kept = iter(mine)
            assert all(any(row == other for other in kept) for row in theirs)
            assert len(mine) <= len(theirs) + attempt + 1


def test_pages_answer_wrong_requests_with_a_reason(study: Study) -> None:
    pytest.importorskip("uvicorn")
    token = tokens(study)[0]
    with serving("study", "serve", study.folder, "--port", 0) as server:
        assert "open the link" in server.get("/").text
        assert server.get("/r/nobody").status_code == 404
        page = server.get(f"/r/{token}")
        assert "no-referrer" in page.headers["referrer-policy"]
        assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
        assert server.url.rpartition(":")[2] in server.lines[0]  # the links' port is the real one
        assert not any(name in page.text for name in ("ours", "is_check", "swapped"))
        for question in ("0", "8", "-1", "x", "9" * 4000, "²"):
            assert server.get(f"/r/{token}", params={"question": question}).status_code in (200, 400)
        for body in ({}, {"position": 0}, {"position": 0, "shown": 2}, {"position": True, "shown": 0}, [1], "x"):
            assert server.post(f"/r/{token}/answers", json=body).status_code == 400
        assert server.post(f"/r/{token}/answers", content=b"[" * 5000).status_code == 400
        assert server.post(f"/r/{token}/answers", json={"position": 99, "shown": 0}).status_code == 409
        assert server.post(f"/r/{token}/submit").status_code == 409
        for name in ("../study.sqlite", "%2e%2e%2fstudy.sqlite", "0" * 24 + ".png"):
            assert server.get(f"/pictures/{name}").status_code == 404
        assert server.post(f"/r/{token}/answers", json={"position": 0, "shown": 1}).json() == {
            "answered": 1,
            "questions": 7,
        }
        assert "1 of 7 answered" in server.get(f"/r/{token}").text


def test_a_disk_that_takes_nothing_is_told_to_the_rater(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("starlette")
    from strait.apps.study.server import study_app

    def full() -> None:
        raise sqlite3.OperationalError("database or disk is full")

    answer_all(study, tokens(study)[0], lambda other, is_check: 0)
    monkeypatch.setattr("strait.apps.study.storage._now", full)  # what is asked while a row is written
    transport = httpx.ASGITransport(study_app(study))

    async def post(path: str, body: dict[str, int]) -> httpx.Response:
        async with httpx.AsyncClient(transport=transport, base_url="http://study") as client:
            return await client.post(f"/r/{tokens(study)[0]}/{path}", json=body)

    for path, body in (("answers", {"position": 0, "shown": 1}), ("submit", {})):
        reply = asyncio.run(post(path, body))
        assert (reply.status_code, "disk is full" in reply.json()["error"]) == (503, True)
        assert str(study.folder) not in reply.text


def test_an_answer_sent_half_holds_no_connection(study: Study) -> None:
    pytest.importorskip("uvicorn")
    token = tokens(study)[0]
    with serving("study", "serve", study.folder, "--port", 0) as server:
        host, port = server.url.removeprefix("http://").split(":")
        head = f"POST /r/{token}/answers HTTP/1.1\r\nHost: localhost\r\nContent-Length: 26\r\n\r\n"
        with socket.create_connection((host, int(port)), timeout=40) as half:
            half.sendall(head.encode() + b'{"position": 0, ')
            reply = b""
            while piece := half.recv(1000):
                reply += piece
        assert reply.startswith(b"HTTP/1.1 408")
        assert server.post(f"/r/{token}/answers", json={"position": 0, "shown": 1}).status_code == 200


def test_only_hosts_of_this_machine_are_answered_on_loopback(study: Study) -> None:
    pytest.importorskip("uvicorn")
    path = f"/r/{tokens(study)[0]}"
    with serving("study", "serve", study.folder, "--port", 0, "--allowed-host", "study.example") as server:
        for host, status in (("localhost", 200), ("study.example", 200), ("evil.example", 400)):
            assert server.get(path, headers={"Host": host}).status_code == status
            reply = server.post(path + "/answers", json={"position": 0, "shown": 1}, headers={"Host": host})
            assert reply.status_code == status


def test_a_study_is_its_owners_to_read(study: Study) -> None:
    study.record(tokens(study)[0], 0, 1)
    database = sqlite3.connect(study.folder / "study.sqlite")
    database.execute("SELECT * FROM answers").fetchall()
    for path in study.folder.glob("study.sqlite*"):
        assert path.stat().st_mode & 0o777 == 0o600, path
    database.close()


def test_of_two_who_make_a_study_at_once_one_is_refused(
    study: Study, methods: list[Method], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other study comes into being at the last moment: after it was seen that there is none."""
    folder, looks = tmp_path / "new", []

    def look(place: Path) -> None:
        looks.append(place)
        if len(looks) == 2:
            (folder / "study.sqlite").write_bytes(b"the other's")

    monkeypatch.setattr("strait.apps.study.storage.refuse_existing", look)
    with pytest.raises(FileExistsError):
        create(folder, study.settings, [], [])
    assert (folder / "study.sqlite").read_bytes() == b"the other's"
    assert [path.name for path in folder.iterdir()] == ["study.sqlite"]


@pytest.mark.parametrize("suffix", ["-wal", "-journal"])
def test_answers_of_a_study_that_is_gone_are_not_read_into_a_new_one(
    study: Study, methods: list[Method], suffix: str
) -> None:
    (study.folder / "study.sqlite").unlink()
    left = study.folder / f"study.sqlite{suffix}"
    left.write_bytes(b"what a killed server left")
    with pytest.raises(FileExistsError, match=rf"study\.sqlite{suffix}, the last answers"):
        create_study(study.folder, methods, Design(quality=1, diversity=0), "")
    assert left.read_bytes() == b"what a killed server left"


def test_a_locked_study_is_one_line(
    study: Study, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("starlette")
    from strait.apps.study.server import study_app

    monkeypatch.setattr("strait.apps.study.storage._PATIENCE", 0.1)
    token = tokens(study)[0]
    connection = sqlite3.connect(study.folder / "study.sqlite", isolation_level=None)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("BEGIN EXCLUSIVE")
    for verb in ("links", "results", "serve"):
        assert main(["study", verb, str(study.folder)]) == 2
        message = capsys.readouterr().err
        assert (message.count("\n"), "study.sqlite cannot be used: database is locked" in message) == (1, True)

    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(study_app(study))
        async with httpx.AsyncClient(transport=transport, base_url="http://study") as client:
            page = await client.get(f"/r/{token}")
            return [page, await client.post(f"/r/{token}/answers", json={"position": 0, "shown": 1})]

    page, answer = asyncio.run(ask())
    assert (page.status_code, "try again" in page.text) == (503, True)
    assert (answer.status_code, "locked" in answer.json()["error"]) == (503, True)
    connection.close()
    study.record(token, 0, 1)


def test_the_verb_makes_a_study_and_counts_it(
    tmp_path: Path, methods: list[Method], capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [f"{method.name}={next(iter(method.images.values()))[0].parent.parent}" for method in methods[:2]]
    small = ("--quality", "3", "--diversity", "0", "--raters", "2")
    assert main(["study", "create", str(tmp_path / "s"), *folders, *small]) == 0
    assert "2 invitations with 10 questions" in capsys.readouterr().out
    assert main(["study", "links", str(tmp_path / "s"), "--url", "http://here/", "--json"]) == 0
    links = json.loads(capsys.readouterr().out)
    assert [entry["link"].startswith("http://here/r/") for entry in links] == [True, True]
    answer_all(Study(tmp_path / "s"), links[0]["link"].rpartition("/")[2], lambda other, is_check: 0)
    assert main(["study", "results", str(tmp_path / "s"), "--json"]) == 0
    (preference,) = json.loads(capsys.readouterr().out)["preferences"]
    page = tmp_path / "results.html"
    assert main(["study", "results", str(tmp_path / "s"), "--page", str(page)]) == 0
    assert "100.0%" in page.read_text()
    page.write_text("my notes")
    capsys.readouterr()
    assert (preference["rate"], preference["answers"]) == (1.0, 3)
    taken = socket.create_server(("127.0.0.1", 0))
    serve = ["serve", str(tmp_path / "s")]
    for words in (
        [*serve, "--port", "99999"],
        [*serve, "--port", "-1"],
        [*serve, "--port", str(taken.getsockname()[1])],
        [*serve, "--host", "no.such.host.invalid"],
        ["create", str(tmp_path / "t"), folders[0]],
        ["create", str(tmp_path / "t"), "a", "b"],
        ["create", str(tmp_path / "s"), *folders, *small],
        ["serve", str(tmp_path / "nothing")],
        ["links", str(tmp_path / "s"), "--title", "Which?"],
        ["serve", str(tmp_path / "s"), "--json"],
        ["results", str(tmp_path / "nothing")],
        ["results", str(tmp_path / "s"), "--page", str(page)],  # it is there already
        ["results", str(tmp_path / "s"), "--page", str(tmp_path / "results.txt")],
    ):
        assert main(["study", *words]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_raters_see_a_picture_as_every_command_reads_it(tmp_path: Path) -> None:
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    deep = Image.fromarray(np.full((8, 8), 20000, np.uint16))
    for number, picture in enumerate((clear, deep)):
        picture.save(tmp_path / f"{number}.png")
        stored = PictureStore(tmp_path / "store").add(tmp_path / f"{number}.png")
        expected = read_picture(tmp_path / f"{number}.png").rgb()
        assert np.array_equal(np.asarray(Image.open(tmp_path / "store" / stored)), np.asarray(expected))
    assert np.asarray(read_picture(tmp_path / "0.png").rgb()).min() == 255
