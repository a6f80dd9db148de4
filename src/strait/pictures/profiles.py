"""Colour profiles: convert a picture to sRGB, which the models and screens assume."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

_LARGEST = 4 << 20
"""Largest accepted profile in bytes; the largest in use, for printing, have two million."""
_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""The colour space of a profile, and the corresponding mode of PIL."""
_SAME = 2
"""Differences of up to this many levels (of 255) count as equal: copies of the sRGB profile vary that much."""


def to_srgb(picture: Image.Image, profile: object, mode: str) -> Image.Image:
    """Convert an 8-bit picture to RGB or RGBA in sRGB.

    Args:
        picture: of any 8-bit mode.
        profile: the bytes of its ICC profile. A missing, damaged or mismatched profile is treated as sRGB.
        mode: RGB or RGBA.
    """
    plain = picture.convert(mode)
    transform = _transform(profile) if isinstance(profile, bytes) and len(profile) <= _LARGEST else None
    if transform is None:
        return plain
    source_mode = transform.input_mode
    if source_mode == "RGB":
        # Also valid for grey pictures and palettes. Not for CMYK: its conversion to RGB is already a guess.
        if picture.mode == "CMYK":
            return plain
        source = plain.convert("RGB")
    elif source_mode == "L" and picture.mode in ("1", "L", "LA"):
        source = picture.convert("L")
    elif source_mode == picture.mode:
        source = picture
    else:
        return plain
    try:
        converted = ImageCms.applyTransform(source, transform)
    except (ImageCms.PyCMSError, ValueError, OSError):
        return plain
    if converted is None:  # only when applied in place
        return plain
    if mode == "RGBA":
        converted.putalpha(plain.getchannel("A"))
    converted.info = dict(plain.info)
    return converted


@lru_cache(maxsize=16)
def _transform(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """The transform from a profile to sRGB; None if the profile is damaged, of an unknown space, or sRGB itself."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space: str = opened.profile.xcolor_space  # pyright: ignore - the library's type stubs are wrong
        mode = _SPACES[space]
        transform = ImageCms.buildTransform(opened, ImageCms.createProfile("sRGB"), mode, "RGB")
        if mode != "CMYK":
            steps = np.arange(0, 256, 15, dtype=np.uint8)
            colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 1, 3)
            before = Image.fromarray(colours).convert(mode)
            after = np.asarray(ImageCms.applyTransform(before, transform)).astype(int)
            if np.abs(after - np.asarray(before.convert("RGB"))).max() <= _SAME:
                return None
    except (ImageCms.PyCMSError, KeyError, ValueError, OSError, TypeError):
        return None
    return transform
