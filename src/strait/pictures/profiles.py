"""Colour profiles: what a picture's numbers mean, brought to sRGB, which the models and every screen take them for."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

_LARGEST = 4 << 20
"""Bytes of a profile; the largest in use, for printing, have two million."""
_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}
"""The colours that a profile is of, and the mode in which PIL has them."""
_SAME = 2
"""Levels of 255 by which copies of sRGB differ among themselves."""


def to_srgb(picture: Image.Image, profile: object, mode: str) -> Image.Image:
    """A picture of 8 bits as RGB or RGBA in sRGB.

    Args:
        picture: of any mode of 8 bits.
        profile: the bytes of its ICC profile. None, a damaged one or one of other colours than the picture's counts
            as sRGB.
        mode: RGB or RGBA.
    """
    plain = picture.convert(mode)
    transform = _transform(profile) if isinstance(profile, bytes) and len(profile) <= _LARGEST else None
    if transform is None:
        return plain
    source_mode = transform.input_mode
    if source_mode == "RGB":
        # Grey pictures and palettes may have one of these, too. Ink may not: its colours would be guessed twice.
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
    if converted is None:  # only where it is done in place
        return plain
    if mode == "RGBA":
        converted.putalpha(plain.getchannel("A"))
    converted.info = dict(plain.info)
    return converted


@lru_cache(maxsize=16)
def _transform(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """From a profile's colours to sRGB; None where the profile is damaged, of other colours, or sRGB itself."""
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space: str = opened.profile.xcolor_space  # pyright: ignore - the library's own types are at fault
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
