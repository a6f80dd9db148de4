"""Pictures for schemathesis, which cannot generate them. Loaded through SCHEMATHESIS_HOOKS by fuzz_service.py."""

from __future__ import annotations

import base64
import io
import random
from typing import Any

import schemathesis
from PIL import Image


def _png(size: tuple[int, int], mode: str = "RGB", form: str = "PNG") -> bytes:
    picture = Image.new(mode, size, 40)
    picture.paste(200, (size[0] // 4, size[1] // 4, size[0] // 2 + 1, size[1] // 2 + 1))
    buffer = io.BytesIO()
    picture.save(buffer, format=form)
    return buffer.getvalue()


WHOLE = [
    _png((16, 16)),
    _png((24, 16)),
    _png((1, 1)),
    _png((16, 16), "L"),
    _png((16, 16), "RGBA"),
    _png((16, 16), "P"),
    _png((16, 16), "RGB", "JPEG"),
    _png((16, 16), "RGB", "WEBP"),
]
DAMAGED = [WHOLE[0][:40], WHOLE[0][:-20], WHOLE[0][:20] + b"\xff" * 8 + WHOLE[0][28:], b"GIF89a", b""]


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Most edits get a valid picture, some a damaged one, and the rest keep what schemathesis generated."""
    if not isinstance(body, dict) or "action" not in body:
        return body
    # Seeded by the case itself, so that runs are reproducible.
    draw = random.Random(repr(sorted(map(str, body.items()))))
    picture, mask = draw.choice(WHOLE), draw.random()
    for name, given in (("image", picture), ("mask", picture if mask < 0.8 else draw.choice(WHOLE))):
        chance = draw.random()
        if chance < 0.9:
            body[name] = base64.b64encode(given if chance < 0.8 else draw.choice(DAMAGED)).decode()
    if draw.random() < 0.7:
        # So that not every case is refused for its settings: the model has two levels and 30 classes.
        body["steps"] = [draw.randint(1, 3), draw.randint(1, 2)]
        body["label"] = draw.randrange(30)
        body["left"] = draw.randint(0, 3)
        for name in ("schedule", "temperature"):
            body.pop(name, None)
        body["count"] = draw.randint(1, 2)
    return body
