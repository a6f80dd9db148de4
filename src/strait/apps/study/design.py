"""Which pictures are compared, by whom, in which order and on which side.

Source: StraIT section 4.2 (user preference study) and appendix D, Figures 11 and 12. All of it follows from the
study's seed, and is recorded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from strait.apps.study.pictures import UNCONDITIONAL, Method, PictureStore
from strait.data.classes import ClassNames
from strait.randomness import as_seed, permutation

KINDS = ("quality", "diversity")
_ROUND, _PICK, _DEAL, _ORDER, _SIDE, _CHECK = range(42, 48)


@dataclass(frozen=True)
class Design:
    """Settings of a study.

    Args:
        quality: comparisons of two images, of the first method with each other one; 0 for none.
        diversity: comparisons of two sets of images, likewise.
        raters: answers to each comparison; the paper's 15.
        sheet: questions that one invitation holds, as the tabs of Figure 11.
        checks: attention checks added to each sheet: clear cases with one right answer.
        set_size: images a set in the diversity question, half of each of two classes; the paper's 16.
        seed: of the choice of images, order and sides.
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
            raise ValueError(f"--set-size: {self.set_size} must be even: half of it is of each of two classes")
        if self.quality + self.diversity == 0:
            raise ValueError("--quality, --diversity: both are 0, so there is nothing to ask")


@dataclass(frozen=True)
class Question:
    """A comparison. Of an attention check the first pictures are the right answer, and no method is named.

    Attributes:
        kind: one of ``KINDS``.
        label: the class or classes, for people.
        methods: the study's first method, and the one that it is compared with.
        pictures: names in the picture store: one of each method, or a set of each.
        is_check: whether it is an attention check.
    """

    kind: str
    label: str
    methods: tuple[str, str]
    pictures: tuple[list[str], list[str]]
    is_check: bool = False


@dataclass(frozen=True)
class Place:
    """Where one invitation shows a question: ``swapped`` puts the first method right, or at the bottom."""

    question: int
    swapped: bool


def make_sheets(methods: Sequence[Method], design: Design, store: PictureStore) -> list[list[Question]]:
    """All questions, dealt to sheets of one kind each, every sheet with its attention checks.

    Raises:
        ValueError: if methods share no class, or have too few images for so many questions.
    """
    sheets: list[list[Question]] = []
    for kind, count in zip(KINDS, (design.quality, design.diversity), strict=True):
        asked = [
            _question(kind, methods[0], other, group, design, store)
            for number, other in enumerate(methods[1:])
            for group in _groups(kind, methods[0], other, count, design, number)
        ]
        shuffled = [asked[place] for place in permutation(len(asked), design.seed, _DEAL, KINDS.index(kind)).tolist()]
        for start in range(0, len(shuffled), design.sheet):
            real = shuffled[start : start + design.sheet]
            checks = [_check(kind, methods[0], design, store, len(sheets), each) for each in range(design.checks)]
            sheets.append([*real, *checks])
    return sheets


def places(count: int, seed: int, invitation: int) -> list[Place]:
    """The order and sides in which one invitation shows the ``count`` questions of its sheet."""
    order = permutation(count, seed, _ORDER, invitation).tolist()
    return [Place(question, bool(as_seed(seed, _SIDE, invitation, question) & 1)) for question in order]


Group = list[tuple[str, int]]
"""The classes of a question, each with how many questions have used it before."""


def _groups(kind: str, first: Method, other: Method, count: int, design: Design, number: int) -> list[Group]:
    shared = sorted(first.images.keys() & other.images.keys())
    if not shared:
        raise ValueError(
            f"{other.name}: it shares no class with {first.name}: {', '.join(sorted(other.images)[:4])} ... "
            f"beside {', '.join(sorted(first.images)[:4])} ..."
        )
    classes = 1 if kind == "quality" or len(shared) == 1 else 2
    each = 1 if kind == "quality" else design.set_size // classes
    capacity = {name: min(len(first.images[name]), len(other.images[name])) // each for name in shared}
    found = list(_rounds(capacity, classes, design.seed, number))
    if len(found) < count:
        raise ValueError(
            f"--{kind}: {count} questions without showing an image twice need more images of "
            f"{first.name} and {other.name}; those that are there make {len(found)}"
        )
    return found[:count]


def _rounds(capacity: dict[str, int], size: int, seed: int, number: int) -> Iterator[Group]:
    """Groups of classes: every class once before any comes again, each round in another order."""
    for used in range(max(capacity.values())):
        left = [name for name, often in capacity.items() if often > used]
        order = [left[place] for place in permutation(len(left), seed, _ROUND, number, used, size).tolist()]
        for start in range(0, len(order) - size + 1, size):
            yield [(name, used) for name in order[start : start + size]]


def _question(kind: str, first: Method, other: Method, group: Group, design: Design, store: PictureStore) -> Question:
    each = 1 if kind == "quality" else design.set_size // len(group)
    chosen = [
        [path for name, used in group for path in _pick(method, name, used, each, design.seed)]
        for method in (first, other)
    ]
    return Question(
        kind,
        " and ".join(_title(name) for name, _ in group),
        (first.name, other.name),
        (store.add_all(chosen[0]), store.add_all(chosen[1])),
    )


def _pick(method: Method, name: str, used: int, count: int, seed: int) -> list[Path]:
    files = method.images[name]
    order = permutation(len(files), seed, _PICK, as_seed(*map(ord, f"{method.name}/{name}"))).tolist()
    return [files[place] for place in order[used * count : (used + 1) * count]]


def _check(kind: str, method: Method, design: Design, store: PictureStore, sheet: int, number: int) -> Question:
    """A clear case: an image beside its own scrambled tiles; a set beside one image of each class repeated."""
    classes = sorted(method.images, key=lambda name: as_seed(design.seed, _CHECK, sheet, number, *map(ord, name)))
    if kind == "quality":
        files = method.images[classes[0]]
        path = files[as_seed(design.seed, _CHECK, sheet, number) % len(files)]
        pair = ([store.add(path)], [store.add_scrambled(path, as_seed(design.seed, sheet, number))])
        return Question(kind, _title(classes[0]), ("", ""), pair, is_check=True)
    # The varied set must not repeat an image, so classes with too few are passed over.
    names = [name for name in classes if len(method.images[name]) >= design.set_size // 2][:2]
    half = design.set_size // len(names)
    different = [path for name in names for path in method.images[name][:half]]
    same = [path for name in names for path in method.images[name][:1] * half]
    pair = (store.add_all(different), store.add_all(same))
    return Question(kind, " and ".join(map(_title, names)), ("", ""), pair, is_check=True)


def _title(name: str) -> str:
    return name if name == UNCONDITIONAL else ClassNames([name]).title(0).replace("_", " ")
