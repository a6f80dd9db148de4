"""The design of a study: which pictures are compared, by which raters, in which order and on which side.

Source: StraIT section 4.2 (user preference study) and appendix D, Figures 11 and 12. Everything is derived from the
study's seed, and recorded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from strait.apps.study.pictures import UNCONDITIONAL, Method, PictureStore
from strait.apps.study.storage import Study, create, refuse_existing
from strait.data.classes import ClassNames
from strait.randomness import as_seed, permutation

KINDS = ("quality", "diversity")
_ROUND, _PICK, _DEAL, _ORDER, _SIDE, _CHECK = range(42, 48)


@dataclass(frozen=True)
class Design:
    """Settings of a study.

    Args:
        quality: comparisons of two images, of the first method with each other method; 0 for none.
        diversity: comparisons of two sets of images, likewise.
        raters: answers to each comparison; the paper's 15.
        sheet: questions per invitation, the tabs of Figure 11.
        checks: attention checks added to each sheet, questions with an obvious answer.
        set_size: images per set in a diversity question, half of each of two classes; the paper's 16.
        seed: for the choice of images, order and sides.
    """

    quality: int = 40
    diversity: int = 20
    raters: int = 15
    sheet: int = 20
    checks: int = 2
    set_size: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("quality", "diversity", "checks"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name}: {getattr(self, name)} must not be negative")
        for name in ("raters", "sheet"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name}: {getattr(self, name)} must be at least 1")
        if self.set_size < 2 or self.set_size % 2:
            raise ValueError(f"--set-size: {self.set_size} must be even: a set has two classes in equal parts")
        if self.quality + self.diversity == 0:
            raise ValueError("--quality, --diversity: both are 0, so there are no questions")


@dataclass(frozen=True)
class Question:
    """A comparison. In an attention check, the first pictures are the right answer, and there are no methods.

    Attributes:
        kind: one of ``KINDS``.
        label: title of the class or classes.
        methods: the study's first method, and the method it is compared with.
        pictures: names in the picture store: an image, or a set of images, of each method.
        is_check: whether it is an attention check.
    """

    kind: str
    label: str
    methods: tuple[str, str]
    pictures: tuple[list[str], list[str]]
    is_check: bool = False


@dataclass(frozen=True)
class Place:
    """A question of an invitation; ``swapped`` puts the first method on the right, or at the bottom."""

    question: int
    swapped: bool


def create_study(folder: Path, methods: Sequence[Method], design: Design, title: str) -> Study:
    """Create a study in a folder.

    Args:
        folder: created if needed.
        methods: the first is compared with each of the others.
        design: number of questions, raters and checks.
        title: of the pages.

    Raises:
        ValueError: if the methods have too few images, or no common classes.
        FileExistsError: if the folder has a study.
    """
    refuse_existing(folder)
    sheets = make_sheets(methods, design, PictureStore(folder / "pictures"))
    numbers = [number for number in range(len(sheets)) for _ in range(design.raters)]
    rows = [(number, places(len(sheets[number]), design.seed, index)) for index, number in enumerate(numbers)]
    settings = {"title": title, "methods": [method.name for method in methods], "design": dataclasses.asdict(design)}
    return create(folder, settings, sheets, rows)


def make_sheets(methods: Sequence[Method], design: Design, store: PictureStore) -> list[list[Question]]:
    """All questions, divided into sheets of one kind each, with the attention checks of each sheet.

    Raises:
        ValueError: if methods share no class, or have too few images for the number of questions.
    """
    sheets: list[list[Question]] = []
    for kind, count in zip(KINDS, (design.quality, design.diversity), strict=True):
        questions = [
            _question(kind, methods[0], rival, group, design, store)
            for number, rival in enumerate(methods[1:])
            for group in _groups(kind, methods[0], rival, count, design, number)
        ]
        order = permutation(len(questions), design.seed, _DEAL, KINDS.index(kind)).tolist()
        shuffled = [questions[position] for position in order]
        for start in range(0, len(shuffled), design.sheet):
            real = shuffled[start : start + design.sheet]
            checks = [_check(kind, methods[0], design, store, len(sheets), each) for each in range(design.checks)]
            sheets.append([*real, *checks])
    return sheets


def places(count: int, seed: int, invitation: int) -> list[Place]:
    """The order and the sides of the ``count`` questions of an invitation's sheet."""
    order = permutation(count, seed, _ORDER, invitation).tolist()
    return [Place(question, bool(as_seed(seed, _SIDE, invitation, question) & 1)) for question in order]


Group = list[tuple[str, int]]
"""The classes of a question, each with the number of earlier questions that used it."""


def _groups(kind: str, first: Method, rival: Method, count: int, design: Design, number: int) -> list[Group]:
    shared = sorted(first.images.keys() & rival.images.keys())
    if not shared:
        raise ValueError(
            f"{rival.name}: it shares no class with {first.name}: {', '.join(sorted(rival.images)[:4])} ... "
            f"and {', '.join(sorted(first.images)[:4])} ..."
        )
    classes = 1 if kind == "quality" or len(shared) == 1 else 2
    each = 1 if kind == "quality" else design.set_size // classes
    capacity = {name: min(len(first.images[name]), len(rival.images[name])) // each for name in shared}
    groups = list(_rounds(capacity, classes, design.seed, number))
    if len(groups) < count:
        raise ValueError(
            f"--{kind}: {count} questions without repeated images need more images of {first.name} and {rival.name}; "
            f"they have enough for {len(groups)}"
        )
    return groups[:count]


def _rounds(capacity: dict[str, int], size: int, seed: int, number: int) -> Iterator[Group]:
    """Groups of classes, in rounds: every class appears once in a round, in a new random order."""
    for used in range(max(capacity.values())):
        left = [name for name, uses in capacity.items() if uses > used]
        order = [left[position] for position in permutation(len(left), seed, _ROUND, number, used, size).tolist()]
        for start in range(0, len(order) - size + 1, size):
            yield [(name, used) for name in order[start : start + size]]


def _question(kind: str, first: Method, rival: Method, group: Group, design: Design, store: PictureStore) -> Question:
    each = 1 if kind == "quality" else design.set_size // len(group)
    chosen = [
        [path for name, used in group for path in _pick(method, name, used, each, design.seed)]
        for method in (first, rival)
    ]
    return Question(
        kind,
        " and ".join(_title(name) for name, _ in group),
        (first.name, rival.name),
        (store.add_all(chosen[0]), store.add_all(chosen[1])),
    )


def _pick(method: Method, name: str, used: int, count: int, seed: int) -> list[Path]:
    files = method.images[name]
    order = permutation(len(files), seed, _PICK, as_seed(*map(ord, f"{method.name}/{name}"))).tolist()
    return [files[position] for position in order[used * count : (used + 1) * count]]


def _check(kind: str, method: Method, design: Design, store: PictureStore, sheet: int, number: int) -> Question:
    """An obvious question: an image against its scrambled tiles, or a set against repeated images of its classes."""
    classes = sorted(method.images, key=lambda name: as_seed(design.seed, _CHECK, sheet, number, *map(ord, name)))
    if kind == "quality":
        files = method.images[classes[0]]
        path = files[as_seed(design.seed, _CHECK, sheet, number) % len(files)]
        pair = ([store.add(path)], [store.add_scrambled(path, as_seed(design.seed, sheet, number))])
        return Question(kind, _title(classes[0]), ("", ""), pair, is_check=True)
    # The varied set must not repeat an image, so classes with too few images are skipped.
    names = [name for name in classes if len(method.images[name]) >= design.set_size // 2][:2]
    half = design.set_size // len(names)
    different = [path for name in names for path in method.images[name][:half]]
    same = [path for name in names for path in method.images[name][:1] * half]
    pair = (store.add_all(different), store.add_all(same))
    return Question(kind, " and ".join(map(_title, names)), ("", ""), pair, is_check=True)


def _title(name: str) -> str:
    return name if name == UNCONDITIONAL else ClassNames([name]).title(0).replace("_", " ")
