"""Class names, and finding a class by what a person types: its name in any case and spelling, its WordNet id, or its
index."""

from __future__ import annotations

import difflib
import operator
import re
import unicodedata
from collections.abc import Sequence
from typing import SupportsIndex

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
        """The index of the class of this name in any case and spelling, or of this WordNet id; None where there is
        none. Digits are a name here, not an index."""
        return self._index.get(_plain(name))

    def numbers_as_names(self) -> str | None:
        """A line about classes that are called by numbers which are not their own; None where there are none."""
        for index, name in enumerate(self._names):
            if self._is_other_index(name, index):
                number = int(name)
                return (
                    f"classes are called by numbers: the label {name} is the class of this name, #{number} the class "
                    f"number {number}, {self._names[number]!r}"
                )
        return None

    def _is_other_index(self, name: str, index: int) -> bool:
        """Whether the name of a class is the number of another."""
        return name.strip().isdecimal() and int(name) < len(self._names) and int(name) != index

    def find(self, label: str | SupportsIndex) -> int:
        """The index of a class.

        Args:
            label: a name in any case and spelling (``lemon``, ``red apple``), a WordNet id, or an index: an integer
                of any library, or its digits where no class is called so, or its digits behind a ``#``.

        Raises:
            ValueError: if no class has it; the message lists the nearest names.
            TypeError: if it is neither text nor an integer.
        """
        if not self._names:
            raise ValueError(f"label: {label!r} was asked for, but this model has no classes")
        if not isinstance(label, str):
            return self._checked(operator.index(label))
        named = self._names.index(label) if label in self._names else self.named(label)
        text = _plain(label)
        if named is not None:
            if self._is_other_index(label, named):
                _say(f"label: {label} is the class of this name; the one of this number is #{label.strip()}")
            return named
        digits = label.strip().removeprefix("#")
        if re.fullmatch("-?[0-9]+", digits):
            index = self._checked(int(digits))
            if not label.strip().startswith("#") and self.numbers_as_names() is not None:
                _say(f"label: no class is called {digits}; it is taken as the index of {self._names[index]!r}")
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
    from strait.runtime.messages import say_once  # seldom needed, and the model is imported without it

    say_once(message)


def _plain(name: str) -> str:
    """A name without what people and systems write differently: case, Unicode normal forms, spaces, underscores and
    hyphens, and the space behind a comma."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return re.sub(r"\s*,\s*", ", ", " ".join(re.split(r"[\s_\-]+", folded)).strip())
