"""The decoding process as pictures: a strip of all steps, an animation, and maps of unstable tokens.

Source: StraIT Figure 5, Figure 13 A.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from strait.editing.process import Frame, Redrawing
from strait.pictures.images import to_pictures
from strait.pictures.sheets import contact_sheet
from strait.types import Images

_RAMP = torch.tensor([[0.05, 0.03, 0.25], [0.55, 0.10, 0.45], [0.95, 0.50, 0.15], [1.0, 0.98, 0.80]])
_SMALLEST_SIDE = 192  # of an animation's frame, in pixels: smaller frames are enlarged by an integer factor
_MILLISECONDS = 250
FORMATS = ("gif", "webp")


def heat_map(values: Tensor, size: int) -> Images:
    """Values ``[batch, h, w]`` in [0, 1], dark to light -> ``[batch, 3, size, size]`` in [-1, 1], a block each."""
    position = values.float().clamp(0, 1) * (len(_RAMP) - 1)
    low = position.floor().clamp(max=len(_RAMP) - 2)
    ramp, index = _RAMP.to(values.device), low.long()
    colour = ramp[index] + (position - low)[..., None] * (ramp[index + 1] - ramp[index])
    return F.interpolate(colour.permute(0, 3, 1, 2), (size, size), mode="nearest") * 2 - 1


def sureness(frame: Frame, codebook_size: int) -> Tensor:
    """A step's confidence ``[batch, h, w]`` on a logarithmic scale: 0 at a uniform distribution, 1 at certainty."""
    return 1 + frame.confidence.clamp(min=1e-12).log() / math.log(codebook_size)


def _pairs(frames: Sequence[Frame], codebook_size: int) -> tuple[Images, Images]:
    """The first image of each frame and its heat map of confidence, each ``[frames, 3, size, size]``."""
    size = frames[0].image.shape[-1]
    images = torch.cat([frame.image[:1] for frame in frames]).cpu()
    return images, torch.cat([heat_map(sureness(frame, codebook_size)[:1], size) for frame in frames]).cpu()


def strip(frames: Sequence[Frame], codebook_size: int) -> Image.Image:
    """All steps in a row, and below each the confidence of the drawn tokens, from dark to light."""
    images, heat = _pairs(frames, codebook_size)
    counts = {frame.level: frame.index + 1 for frame in frames}
    steps = ", ".join(f"{name}: {count} steps" for name, count in counts.items())
    return contact_sheet(torch.cat([images, heat]), len(frames), [steps, "confidence of the tokens drawn"])


def animation(frames: Sequence[Frame], codebook_size: int, kind: str) -> bytes:
    """The steps as an animation, the image beside its confidence; the last step is shown longer.

    Args:
        frames: of one image.
        codebook_size: of the model's levels.
        kind: one of ``FORMATS``.
    """
    if kind not in FORMATS:
        raise ValueError(f"format: {kind!r} is not one of {', '.join(FORMATS)}")
    pictures = to_pictures(torch.cat(_pairs(frames, codebook_size), dim=3))
    times = -(-_SMALLEST_SIDE // pictures[0].height)
    size = (pictures[0].width * times, pictures[0].height * times)
    pictures = [picture.resize(size, Image.Resampling.NEAREST) for picture in pictures]
    durations = [_MILLISECONDS] * (len(pictures) - 1) + [8 * _MILLISECONDS]
    buffer = io.BytesIO()
    options = {"lossless": True} if kind == "webp" else {}
    pictures[0].save(
        buffer, format=kind, save_all=True, append_images=pictures[1:], duration=durations, loop=0, **options
    )
    return buffer.getvalue()


def redrawing_maps(image: Images, levels: Sequence[Redrawing]) -> Image.Image:
    """The finished image ``[1, 3, size, size]``, and for each level a map of how likely redrawing changes a token."""
    size = image.shape[-1]
    maps = [heat_map(level.change[:1], size).cpu() for level in levels]
    names = ", ".join(level.level for level in levels)
    return contact_sheet(torch.cat([image[:1].cpu(), *maps]), 1 + len(maps), [f"drawn again: {names}"])
