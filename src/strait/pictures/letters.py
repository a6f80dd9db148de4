"""The letters of a sheet's titles: a font that ships, and other letters for those that it lacks.

The font is a part of DejaVu Sans, whose licence lies beside it: Latin, Greek and Cyrillic letters. Pillow's own has
those of ASCII and few others.
"""

from __future__ import annotations

import functools
import unicodedata
from pathlib import Path

from PIL import ImageFont

_FILE = Path(__file__).parent / "fonts" / "DejaVuSans-subset.ttf"
_RANGES = ((0x20, 0x7E), (0xA0, 0x24F), (0x386, 0x3FF), (0x400, 0x4FF), (0x1E00, 0x1EFB), (0x2010, 0x2027))
_NAMED = ("LETTER", "SYLLABLE", "DIGIT")


@functools.cache
def title_font(size: int) -> ImageFont.FreeTypeFont:
    """The font, of so many pixels."""
    return ImageFont.truetype(str(_FILE), size)


def in_letters_of_the_font(text: str) -> str:
    """A text without what the font lacks.

    Marks go from letters, letters of other scripts become the sound that Unicode names them by (``ね`` is ne), and a
    sign that is named by a number alone becomes that: ``猫`` is [732B].
    """
    return "".join(_written(character) for character in unicodedata.normalize("NFC", text))


def _written(character: str) -> str:
    if _is_in_font(character):
        return character
    if unicodedata.combining(character) or unicodedata.category(character)[0] in "CZ":
        return " " if character.isspace() else ""
    plain = unicodedata.normalize("NFKD", character)
    if plain != character:
        return "".join(map(_written, plain))
    kind, _, sound = unicodedata.name(character, "").rpartition(" ")
    if sound.isalpha() and any(word in kind for word in _NAMED):
        return sound.lower()
    return f"[{ord(character):X}]"


def _is_in_font(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in _RANGES)
