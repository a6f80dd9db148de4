"""What a PNG of ours says of its making: JSON in the text chunk ``strait``, without time or path.

| field | of what |
|---|---|
| ``version``, ``model``, ``seed``, ``decoding`` | whatever was generated (``model``: hash of the weights) |
| ``label``, ``index`` | one image: its class (None for none), and which of its seed it is |
| ``labels``, ``count`` | a sheet of images: what was asked for |
| ``edit``, and the options of that edit | an edited picture; side by side, or in the groups ``config`` and ``sides`` |
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from strait import __version__

_CHUNK, _GROUPS = "strait", ("config", "sides")
_PNG, _HEAD = b"\x89PNG\r\n\x1a\n", 4096  # the chunk comes right after the size, whatever it says of itself


def recipe(model: str, seed: int, decoding: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """What is said of an image or a sheet.

    Args:
        model: hash of its weights.
        seed: the user's.
        decoding: all of its settings.
        more: the other fields (see above).
    """
    return {"version": __version__, "model": model, "seed": seed, "decoding": dict(decoding), **more}


def png_bytes(picture: Image.Image, settings: Mapping[str, Any]) -> bytes:
    """A PNG with its settings; equal images and settings, equal bytes."""
    info = PngInfo()
    info.add_text(_CHUNK, json.dumps(settings, sort_keys=True))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def recipe_in(picture: Image.Image) -> dict[str, Any]:
    """What an opened PNG says; its values are whatever its writer put there.

    Raises:
        KeyError: if it says nothing.
        ValueError: if what it says is no JSON.
        TypeError: if it is no JSON object.
        RecursionError: for JSON that is nested without end.
    """
    settings = json.loads(str(picture.info[_CHUNK]))
    if not isinstance(settings, dict):
        raise TypeError("the settings inside it are no JSON object")
    return settings


def edit_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """All that an edited picture says, its options side by side, however they were grouped."""
    flat = dict(settings)
    for group in _GROUPS:
        flat = {**flat, **settings.get(group, {})}
    return flat


def is_made_here(path: Path) -> bool:
    """Whether a file is a PNG that says of its making; only its head is read. What is no sound PNG says nothing."""
    if path.suffix.lower() != ".png":
        return False
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    place = len(_PNG)
    while head.startswith(_PNG) and place + 8 <= len(head):
        length, kind = int.from_bytes(head[place : place + 4]), head[place + 4 : place + 8]
        if kind == b"IDAT":
            return False
        if kind == b"tEXt" and head[place + 8 :].startswith(_CHUNK.encode() + b"\0"):
            return True
        place += 12 + length
    return False
