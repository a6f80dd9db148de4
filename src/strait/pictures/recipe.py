"""The settings that a generated PNG stores: JSON in the text chunk ``strait``, without times or paths.

| field | stored in |
|---|---|
| ``version``, ``model``, ``seed``, ``decoding`` | every generated PNG (``model``: hash of the weights) |
| ``label``, ``index`` | a single image: its class (None if unconditional), and its index under its seed |
| ``labels``, ``count`` | a sheet of images: the request |
| ``edit``, and the options of that edit | an edited picture; flat, or in the groups ``config`` and ``sides`` |
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from strait.version import __version__

_CHUNK, _GROUPS = "strait", ("config", "sides")
_PNG, _HEAD = b"\x89PNG\r\n\x1a\n", 4096  # the text chunk directly follows the header


def recipe(model: str, seed: int, decoding: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The settings of an image or a sheet.

    Args:
        model: hash of its weights.
        seed: the user's seed.
        decoding: all decoding settings.
        more: the other fields of the table above.
    """
    return {"version": __version__, "model": model, "seed": seed, "decoding": dict(decoding), **more}


def png_bytes(picture: Image.Image, settings: Mapping[str, Any]) -> bytes:
    """A PNG with its settings; equal images and settings give equal bytes."""
    info = PngInfo()
    info.add_text(_CHUNK, json.dumps(settings, sort_keys=True))
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", pnginfo=info)
    return buffer.getvalue()


def recipe_in(picture: Image.Image) -> dict[str, Any]:
    """The settings in an opened PNG; their values are not validated.

    Raises:
        KeyError: if it has no settings.
        ValueError: if they are not JSON.
        TypeError: if they are not a JSON object.
        RecursionError: if the JSON is nested too deeply.
    """
    settings = json.loads(str(picture.info[_CHUNK]))
    if not isinstance(settings, dict):
        raise TypeError("its settings are not a JSON object")
    return settings


def edit_options(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of an edited picture, with grouped options flattened."""
    flat = dict(settings)
    for group in _GROUPS:
        flat = {**flat, **settings.get(group, {})}
    return flat


def is_made_here(path: Path) -> bool:
    """Whether a file is a PNG with settings; only its first bytes are read, and a damaged PNG counts as not."""
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
