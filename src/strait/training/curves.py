"""``runs/PART/curves.png``: plots of the training log, a small panel for each metric."""

from __future__ import annotations

import io
import json
from collections import defaultdict
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from strait.runtime.files import write_bytes

_COLUMNS, _WIDTH, _HEIGHT, _MARGIN, _BAND = 3, 300, 170, 14, 18
_GREY, _INK, _LINE = (200, 200, 200), (40, 40, 40), (31, 119, 180)

Curve = list[tuple[int, float]]
"""(step, value), by increasing step."""


def write_curves(folder: Path) -> None:
    """Plot ``log.jsonl`` of a part's run folder; writes nothing if it has fewer than two lines.

    Raises:
        OSError: if the picture cannot be written.
    """
    curves = {name: curve for name, curve in read_curves(folder / "log.jsonl").items() if len(curve) > 1}
    if curves:
        buffer = io.BytesIO()
        draw_curves(curves).save(buffer, format="PNG")
        write_bytes(folder / "curves.png", buffer.getvalue())


def read_curves(log: Path) -> dict[str, Curve]:
    """The metrics of a log, losses first."""
    curves: dict[str, Curve] = defaultdict(list)
    for line in log.read_text(encoding="utf-8").splitlines() if log.exists() else []:
        values = json.loads(line)
        step = values.pop("step")
        for name, value in values.items():
            curves[name].append((step, float(value)))
    return dict(sorted(curves.items(), key=lambda item: (not item[0].endswith("loss"), list(curves).index(item[0]))))


def draw_curves(curves: dict[str, Curve]) -> Image.Image:
    """A panel for each curve, with its name, last value and axis limits."""
    rows = -(-len(curves) // _COLUMNS)
    columns = min(_COLUMNS, len(curves))
    sheet = Image.new("RGB", (columns * _WIDTH, rows * _HEIGHT), (255, 255, 255))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for index, (name, curve) in enumerate(curves.items()):
        row, column = divmod(index, _COLUMNS)
        left, top = column * _WIDTH + _MARGIN, row * _HEIGHT + _BAND
        right, bottom = (column + 1) * _WIDTH - _MARGIN, (row + 1) * _HEIGHT - _BAND
        draw.rectangle((left, top, right, bottom), outline=_GREY)
        draw.text((left, top - 15), f"{name}: {curve[-1][1]:.4g}", fill=_INK, font=font)
        draw.line(_points(curve, (left, top, right, bottom)), fill=_LINE, width=2)
        low, high = min(value for _, value in curve), max(value for _, value in curve)
        draw.text((left + 3, top + 1), f"{high:.4g}", fill=_GREY, font=font)
        draw.text((left + 3, bottom - 14), f"{low:.4g}", fill=_GREY, font=font)
        draw.text((left, bottom + 1), f"step {curve[0][0]}", fill=_INK, font=font)
        draw.text((right, bottom + 1), f"{curve[-1][0]}", fill=_INK, font=font, anchor="ra")
    return sheet


def _points(curve: Curve, box: tuple[int, int, int, int]) -> list[tuple[float, float]]:
    """The points of a curve in pixels, scaled to fill the box."""
    left, top, right, bottom = box
    first, last = curve[0][0], curve[-1][0]
    low, high = min(value for _, value in curve), max(value for _, value in curve)
    width, height = max(last - first, 1), (high - low) or 1.0
    return [
        (left + (step - first) / width * (right - left), bottom - (value - low) / height * (bottom - top))
        for step, value in curve
    ]
