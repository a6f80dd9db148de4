"""Contact sheets: several images as one picture, with titles.

The font of the titles is a subset of DejaVu Sans (its licence is in the same folder) with Latin, Greek and Cyrillic
letters. Pillow's default font covers little more than ASCII.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from strait.pictures.images import to_pictures
from strait.types import Images

_FILE = Path(__file__).parent / "fonts" / "DejaVuSans-subset.ttf"
_RANGES = ((0x20, 0x7E), (0xA0, 0x24F), (0x386, 0x3FF), (0x400, 0x4FF), (0x1E00, 0x1EFB), (0x2010, 0x2027))
_NAMED = ("LETTER", "SYLLABLE", "DIGIT")


def contact_sheet(images: Images, columns: int, titles: Sequence[str] = (), gap: int = 2) -> Image.Image:
    """A grid of images, row by row, on white.

    Args:
        images: to show.
        columns: images in each row.
        titles: text above each row, one per row; characters that the font lacks are replaced.
        gap: pixels between images.
    """
    pictures = to_pictures(images)
    width, height = pictures[0].size
    band = 16 if titles else 0
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap + band) + gap), (255, 255, 255))
    draw, font = ImageDraw.Draw(sheet), title_font(11)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        top = gap + row * (height + gap + band)
        if titles and column == 0:
            draw.text((gap + 1, top + 1), in_letters_of_the_font(titles[row]), fill=(40, 40, 40), font=font)
        sheet.paste(picture, (gap + column * (width + gap), top + band))
    return sheet


@functools.cache
def title_font(size: int) -> ImageFont.FreeTypeFont:
    """The font at ``size`` pixels."""
    return ImageFont.truetype(str(_FILE), size)


def in_letters_of_the_font(text: str) -> str:
    """Replace every character that the font lacks.

    Accents are dropped, letters of other scripts become the sound in their Unicode name (``ね`` becomes ne), and all
    other characters become their code point: ``猫`` becomes [732B].
    """
    return "".join(_substitute(character) for character in unicodedata.normalize("NFC", text))


def _substitute(character: str) -> str:
    if _is_in_font(character):
        return character
    if unicodedata.combining(character) or unicodedata.category(character)[0] in "CZ":
        return " " if character.isspace() else ""
    plain = unicodedata.normalize("NFKD", character)
    if plain != character:
        return "".join(map(_substitute, plain))
    kind, _, sound = unicodedata.name(character, "").rpartition(" ")
    if sound.isalpha() and any(word in kind for word in _NAMED):
        return sound.lower()
    return f"[{ord(character):X}]"


def _is_in_font(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in _RANGES)
