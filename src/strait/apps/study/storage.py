"""A study on disk: an SQLite file, flushed before an answer counts as given, beside the pictures.

STUDY/study.sqlite    settings, questions, invitations, places (order and sides), answers
STUDY/pictures/       the pictures, under names that do not reveal their method

Answers are only ever added: a changed answer is a new row, and the last row of a place counts.
"""

from __future__ import annotations

import dataclasses
import json
import os
import secrets
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from strait.runtime.files import flush

FORMAT = 1
_PATIENCE = 5
"""Seconds to wait for another program that has locked the study."""
_SIDE_FILES = ("study.sqlite-wal", "study.sqlite-shm", "study.sqlite-journal")
"""Files that SQLite keeps beside a database and a killed server leaves behind; it would read them into a new one."""
CHANGES = 50
"""Limit on the answers of an invitation, per question on average, so that the file cannot grow without bound."""
_SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE questions (
    id INTEGER PRIMARY KEY, sheet INTEGER NOT NULL, kind TEXT NOT NULL, label TEXT NOT NULL,
    first TEXT NOT NULL, second TEXT NOT NULL, pictures TEXT NOT NULL, is_check INTEGER NOT NULL
);
CREATE TABLE invitations (
    id INTEGER PRIMARY KEY, token TEXT NOT NULL UNIQUE, sheet INTEGER NOT NULL, kind TEXT NOT NULL, submitted TEXT
);
CREATE TABLE places (
    invitation INTEGER NOT NULL REFERENCES invitations, position INTEGER NOT NULL,
    question INTEGER NOT NULL REFERENCES questions, swapped INTEGER NOT NULL, PRIMARY KEY (invitation, position)
);
CREATE TABLE answers (
    id INTEGER PRIMARY KEY AUTOINCREMENT, invitation INTEGER NOT NULL, position INTEGER NOT NULL,
    shown INTEGER NOT NULL CHECK (shown IN (0, 1)), chosen INTEGER NOT NULL CHECK (chosen IN (0, 1)),
    at TEXT NOT NULL, FOREIGN KEY (invitation, position) REFERENCES places
);
CREATE VIEW last_answers AS
    SELECT * FROM answers WHERE id IN (SELECT max(id) FROM answers GROUP BY invitation, position);
"""


class Refused(ValueError):
    """An answer that is refused; the message is shown to the rater."""


class Unavailable(ValueError):
    """The study cannot be read or written: it is locked, the disk is full, or the file is damaged."""


@dataclass(frozen=True)
class Shown:
    """A question as a rater sees it: ``sides`` left and right, or top and bottom; ``answer`` 0, 1 or None."""

    kind: str
    label: str
    sides: tuple[list[str], list[str]]
    answer: int | None


@dataclass(frozen=True)
class Sheet:
    """The questions of an invitation, in its order."""

    questions: list[Shown]
    submitted: bool

    @property
    def first_open(self) -> int:
        """The first question without an answer; the last question if all are answered."""
        unanswered = [position for position, question in enumerate(self.questions) if question.answer is None]
        return unanswered[0] if unanswered else len(self.questions) - 1

    @property
    def answered(self) -> int:
        return sum(question.answer is not None for question in self.questions)


@dataclass(frozen=True)
class Answer:
    """An answer that counts. ``chosen`` and ``shown`` are 0 for the first method, and for left or top."""

    invitation: int
    question: int
    kind: str
    methods: tuple[str, str]
    is_check: bool
    chosen: int
    shown: int


class Study:
    """A study's folder.

    Raises:
        ValueError: if there is no study in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.pictures, self._path = folder, folder / "pictures", folder / "study.sqlite"
        if not self._path.exists():
            raise ValueError(f"{folder} has no study; create one with: strait study create {folder} NAME=IMAGES ...")
        with self._connect() as database:
            rows = database.execute("SELECT name, value FROM settings").fetchall()
        self.settings: dict[str, Any] = {name: json.loads(value) for name, value in rows}
        if self.settings.get("format") != FORMAT:
            raise ValueError(f"{self._path}: its format is {self.settings.get('format')}, but this version reads 1")

    @contextmanager
    def _connect(self) -> Iterator[sqlite3.Connection]:
        try:
            with closing(sqlite3.connect(self._path, timeout=_PATIENCE, isolation_level=None)) as database:
                # FULL: an answer is on disk before the next question is shown, even if the power fails then.
                for setting in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
                    database.execute(f"PRAGMA {setting}")
                yield database
        except sqlite3.Error as error:
            raise Unavailable(f"{self._path} cannot be used: {error}") from error

    def sheet(self, token: str) -> Sheet | None:
        """The questions of an invitation; None if there is no such invitation."""
        with self._connect() as database:
            row = database.execute("SELECT id, submitted FROM invitations WHERE token = ?", (token,)).fetchone()
            if row is None:
                return None
            rows = database.execute(
                "SELECT kind, label, pictures, swapped, shown FROM places JOIN questions ON questions.id = question "
                "LEFT JOIN last_answers USING (invitation, position) WHERE invitation = ? ORDER BY position",
                row[:1],
            ).fetchall()
        questions = [
            Shown(kind, label, tuple(json.loads(pictures)[:: -1 if swapped else 1]), answer)
            for kind, label, pictures, swapped, answer in rows
        ]
        return Sheet(questions, row[1] is not None)

    def record(self, token: str, position: int, shown: int) -> None:
        """Write an answer; it is on disk when this returns.

        Args:
            token: the invitation's.
            position: of the question, from 0.
            shown: 0 for left or top, 1 for right or bottom.

        Raises:
            Refused: if there is no such invitation or question, the answers are already submitted, or they were
                changed implausibly often.
        """
        with self._connect() as database:
            database.execute("BEGIN IMMEDIATE")
            row = database.execute(
                "SELECT id, submitted, swapped FROM invitations JOIN places ON invitation = id "
                "WHERE token = ? AND position = ?",
                (token, position),
            ).fetchone()
            if row is None:
                raise Refused("there is no such question")
            invitation, submitted, swapped = row
            if submitted is not None:
                raise Refused("these answers are already submitted")
            answers, questions = database.execute(
                "SELECT (SELECT count(*) FROM answers WHERE invitation = ?1), "
                "(SELECT count(*) FROM places WHERE invitation = ?1)",
                (invitation,),
            ).fetchone()
            if answers >= CHANGES * questions:
                raise Refused("these answers were changed too often")
            database.execute(
                "INSERT INTO answers (invitation, position, shown, chosen, at) VALUES (?, ?, ?, ?, ?)",
                (invitation, position, shown, shown ^ swapped, _now()),
            )
            database.execute("COMMIT")

    def submit(self, token: str) -> None:
        """Close an invitation once every question is answered.

        Raises:
            Refused: if a question is not.
        """
        sheet = self.sheet(token)
        if sheet is None:
            raise Refused("there is no such invitation")
        waiting = len(sheet.questions) - sheet.answered
        if waiting:
            raise Refused(f"{waiting} question{'s have' if waiting > 1 else ' has'} no answer yet")
        with self._connect() as database:
            database.execute(
                "UPDATE invitations SET submitted = ? WHERE token = ? AND submitted IS NULL", (_now(), token)
            )

    def answers(self) -> list[Answer]:
        """All answers that count."""
        with self._connect() as database:
            rows = database.execute(
                "SELECT invitation, question, kind, first, second, is_check, chosen, shown FROM last_answers "
                "JOIN places USING (invitation, position) JOIN questions ON questions.id = question ORDER BY 1, 2"
            ).fetchall()
        return [Answer(row[0], row[1], row[2], (row[3], row[4]), bool(row[5]), row[6], row[7]) for row in rows]

    def unanswered_checks(self) -> dict[int, int]:
        """The number of unanswered attention checks of each invitation that has any."""
        with self._connect() as database:
            rows = database.execute(
                "SELECT invitation, count(*) FROM places JOIN questions ON questions.id = question "
                "LEFT JOIN last_answers USING (invitation, position) WHERE is_check AND shown IS NULL "
                "GROUP BY invitation"
            ).fetchall()
        return dict(rows)

    def invitations(self) -> list[dict[str, Any]]:
        """Each invitation: token, kind, sheet (from 0), questions, answered, submitted."""
        with self._connect() as database:
            database.row_factory = sqlite3.Row
            rows = database.execute(
                "SELECT token, kind, sheet, count(*) AS questions, count(shown) AS answered, "
                "submitted IS NOT NULL AS submitted FROM invitations JOIN places ON invitation = invitations.id "
                "LEFT JOIN last_answers USING (invitation, position) GROUP BY invitations.id ORDER BY invitations.id"
            ).fetchall()
        return [dict(row) for row in rows]


def create(folder: Path, settings: dict[str, Any], sheets: Sequence[Any], rows: Sequence[tuple[int, Any]]) -> Study:
    """Write a new study in one transaction; an existing one is never replaced.

    Args:
        folder: of the study; its pictures are already there.
        settings: plain values.
        sheets: lists of ``design.Question``.
        rows: (sheet, list of ``design.Place``) of each invitation; random tokens are generated here.

    Raises:
        FileExistsError: if the folder has a study.
    """
    refuse_existing(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # Readable only by its owner, since it has the raters' keys; files that SQLite adds get the same permissions.
    descriptor, name = tempfile.mkstemp(".tmp", ".study-", folder)
    os.close(descriptor)
    temporary = Path(name)
    try:
        _write(temporary, settings, sheets, rows)
        flush(temporary)
        _put_in_place(temporary, folder)
    finally:
        temporary.unlink(missing_ok=True)
    flush(folder)
    return Study(folder)


def _put_in_place(temporary: Path, folder: Path) -> None:
    """Rename by a hard link, which fails if another study was created meanwhile."""
    refuse_existing(folder)
    try:
        os.link(temporary, folder / "study.sqlite")
    except FileExistsError:
        refuse_existing(folder)
        raise
    except OSError:  # a file system without hard links
        descriptor = os.open(folder / "study.sqlite", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(temporary.read_bytes())


def _write(path: Path, settings: dict[str, Any], sheets: Sequence[Any], rows: Sequence[tuple[int, Any]]) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.executescript(_SCHEMA)
        for name, value in {"format": FORMAT, **settings}.items():
            database.execute("INSERT INTO settings VALUES (?, ?)", (name, json.dumps(value)))
        first_ids: list[int] = []
        count = 0
        for number, sheet in enumerate(sheets):
            first_ids.append(count)
            for question in sheet:
                values = dataclasses.asdict(question)
                database.execute(
                    "INSERT INTO questions VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        count,
                        number,
                        values["kind"],
                        values["label"],
                        *values["methods"],
                        json.dumps(values["pictures"]),
                        values["is_check"],
                    ),
                )
                count += 1
        for invitation, (number, places) in enumerate(rows):
            database.execute(
                "INSERT INTO invitations VALUES (?, ?, ?, ?, NULL)",
                (invitation, secrets.token_urlsafe(16), number, sheets[number][0].kind),
            )
            for position, place in enumerate(places):
                database.execute(
                    "INSERT INTO places VALUES (?, ?, ?, ?)",
                    (invitation, position, first_ids[number] + place.question, place.swapped),
                )


def refuse_existing(folder: Path) -> None:
    """Check that a folder has no study.

    Raises:
        FileExistsError: if it has a study, or remains of one.
    """
    if (folder / "study.sqlite").exists():
        raise FileExistsError(f"{folder} already has a study; choose another folder")
    for name in _SIDE_FILES:
        if (folder / name).exists():
            raise FileExistsError(
                f"{folder} has {name}, the last answers to a study that is gone; put its study.sqlite back, or "
                "choose another folder"
            )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
