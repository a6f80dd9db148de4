"""Class names, and finding a class from user input: its name in any case or spelling, its WordNet id, or its index."""

from __future__ import annotations

import difflib
import operator
import re
import unicodedata
from collections.abc import Sequence
from typing import SupportsIndex

MOST_CLASSES = 100_000
"""More are a mistake, or an attack: each costs memory before any picture or weight is looked at."""

_WORDNET = re.compile(r"(n\d{8})(?:[\s_]+(.+))?$")


class ClassNames(Sequence[str]):
    """The classes of a model in the order of their indices, e.g. ``n02123045 tabby``; empty if unconditional."""

    def __init__(self, names: Sequence[str]) -> None:
        self._names = [" ".join(name.split()) for name in names]
        self._index: dict[str, int] = {}
        for index, name in enumerate(self._names):
            for alias in self._aliases(name):
                # Where two classes share a word, the full name and the id still tell them apart.
                self._index.setdefault(alias, index)

    @staticmethod
    def _aliases(name: str) -> list[str]:
        match = _WORDNET.match(name)
        aliases = [name] if not match else [name, match.group(1), match.group(2) or match.group(1)]
        return [_plain(alias) for alias in aliases]

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index):
        return self._names[index]

    def title(self, index: int) -> str:
        """The name without its WordNet id."""
        match = _WORDNET.match(self._names[index])
        return match.group(2) if match and match.group(2) else self._names[index]

    def named(self, name: str) -> int | None:
        """The index of the class with this name (in any case or spelling) or WordNet id; None if there is none. Digits
        are read as a name, not as an index."""
        return self._index.get(_plain(name))

    def numbers_as_names(self) -> str | None:
        """A warning if some class is named by the index of another; None otherwise."""
        for index, name in enumerate(self._names):
            if self._is_other_index(name, index):
                number = int(name)
                return (
                    f"class names are numbers: label {name} means the class with this name; #{number} means class "
                    f"number {number}, {self._names[number]!r}"
                )
        return None

    def _is_other_index(self, name: str, index: int) -> bool:
        """Whether the name of a class is the index of another."""
        return name.strip().isdecimal() and int(name) < len(self._names) and int(name) != index

    def find(self, label: str | SupportsIndex) -> int:
        """The index of a class.

        Args:
            label: a name in any case or spelling (``lemon``, ``red apple``), a WordNet id, or an index: an integer
                of any library, its digits if no class has that name, or its digits after a ``#``.

        Raises:
            ValueError: if no class matches; the message lists the nearest names.
            TypeError: if it is neither text nor an integer.
        """
        if not self._names:
            raise ValueError(f"label: {label!r} was given, but this model has no classes")
        if not isinstance(label, str):
            return self._checked(operator.index(label))
        named = self._names.index(label) if label in self._names else self.named(label)
        text = _plain(label)
        if named is not None:
            if self._is_other_index(label, named):
                _say(f"label: {label} is read as a class name; for the class with this index, type #{label.strip()}")
            return named
        digits = label.strip().removeprefix("#")
        if re.fullmatch("-?[0-9]+", digits):
            index = self._checked(int(digits))
            if not label.strip().startswith("#") and self.numbers_as_names() is not None:
                _say(f"label: no class is called {digits}; it is read as the index of {self._names[index]!r}")
            return index
        titles = {_plain(self.title(index)): self.title(index) for index in range(len(self._names))}
        near = [titles[name] for name in difflib.get_close_matches(text, titles, n=5, cutoff=0.4)]
        near += [title for name, title in titles.items() if text in name and title not in near]
        raise ValueError(f"label: no class is called {label!r}; the nearest are {', '.join(near[:6]) or 'none'}")

    def _checked(self, index: int) -> int:
        if 0 <= index < len(self):
            return index
        raise ValueError(f"label: index {index} is not among the {len(self)} classes (0 to {len(self) - 1})")


def _say(message: str) -> None:
    from strait.runtime.messages import say_once  # imported late: importing the model does not need it

    say_once(message)


def _plain(name: str) -> str:
    """A name with case, Unicode form, spaces, underscores, hyphens and spacing after commas normalised."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return re.sub(r"\s*,\s*", ", ", " ".join(re.split(r"[\s_\-]+", folded)).strip())
