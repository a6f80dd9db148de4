"""Each class as part of a file name."""

from __future__ import annotations

import re
from collections import Counter

from strait.data.classes import ClassNames


def class_slugs(classes: ClassNames) -> list[str]:
    """A name for each class in small letters, digits and hyphens, different for each; the class's index is appended
    where the title alone would be empty or the same as another's."""
    titles = [_plain(classes.title(index)) for index in range(len(classes))]
    slugs = list(titles)
    unclear = {index for index, slug in enumerate(slugs) if not slug}
    while True:
        counts = Counter(slugs)
        unclear |= {index for index, slug in enumerate(slugs) if counts[slug] > 1}
        numbered = [f"{slug}-{index}".strip("-") if index in unclear else slug for index, slug in enumerate(titles)]
        if numbered == slugs:
            return slugs
        slugs = numbered


def _plain(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.casefold())[:150].strip("-")
