"""Contact sheets: several images as one picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image, ImageDraw

from strait.pictures.images import to_pictures
from strait.pictures.letters import in_letters_of_the_font, title_font
from strait.types import Images


def contact_sheet(images: Images, columns: int, titles: Sequence[str] = (), gap: int = 2) -> Image.Image:
    """A grid of images, row by row, on white, ``gap`` pixels apart; ``titles`` name the rows, one each, above them.

    What a title holds beyond the font's letters is written in them (``letters``).
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
