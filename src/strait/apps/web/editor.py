"""The editor of a picture and its mask; its files are read by the package's own, restrictive reader.

gradio's own editor would open files in all formats of PIL, of any size, with any number of layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.components.base import server
from gradio.components.image_editor import AcceptBlobs, EditorData
from PIL import Image
from starlette.exceptions import HTTPException

from strait.apps.web.fields import without_stubs
from strait.apps.web.limits import MEGABYTES, MOST_SESSIONS
from strait.pictures.reading import Picture, picture_of

_MOST_LAYERS = 1


@dataclass(frozen=True)
class Drawing:
    """The contents of the editor's files.

    Attributes:
        background: the picture; None if there is none.
        layers: the paint.
    """

    background: bytes | None
    layers: tuple[bytes, ...]

    def picture(self) -> Picture:
        """The picture under the paint.

        Raises:
            ValueError: if there is none, or it cannot be used.
        """
        if self.background is None:
            raise ValueError("picture: put a picture into the editor first")
        picture = picture_of(self.background, "picture: the file")
        if picture.pixels.shape[2] == 4 and picture.pixels[..., 3].min() == 255:
            return Picture(np.ascontiguousarray(picture.pixels[..., :3]), picture.pages)
        return picture

    def mask(self, size: tuple[int, int]) -> np.ndarray | None:
        """The painted area: bool ``[height, width]`` of the picture's ``size``; None if nothing is painted.

        Raises:
            ValueError: if there are several layers, or the layer is invalid.
        """
        if len(self.layers) > _MOST_LAYERS:
            raise ValueError(f"mask: there are {len(self.layers)} layers, but the page accepts one")
        mask = np.zeros(size, bool)
        for content in self.layers:
            pixels = picture_of(content, "mask: the layer").pixels
            alpha = Image.fromarray(
                pixels[..., 3] if pixels.shape[2] == 4 else np.full(pixels.shape[:2], 255, np.uint8)
            )
            if alpha.size != size[::-1]:
                alpha = alpha.resize((size[1], size[0]), Image.Resampling.NEAREST)
            mask |= np.asarray(alpha) > 127
        return mask if mask.any() else None


with without_stubs():

    class Editor(gr.ImageEditor):
        """gradio's editor, whose value is a ``Drawing``."""

        is_template = True

        def preprocess(self, payload: EditorData | None) -> Any:
            if payload is None:
                return Drawing(None, ())
            blobs = self.blob_storage.pop(payload.id, None) if payload.id is not None else None
            if payload.id is not None:
                background, layers = (blobs.background, blobs.layers) if blobs is not None else (None, [])
            else:
                background = payload.background and _content(payload.background.path)
                layers = [_content(layer.path) for layer in payload.layers[: _MOST_LAYERS + 1]]
            return Drawing(background, tuple(layer for layer in layers if layer is not None))

        @server
        def accept_blobs(self, data: AcceptBlobs) -> None:
            index, content = data.data["index"], data.files[0][1]
            if index not in (None, "null", "") and not 0 <= int(index) < _MOST_LAYERS:
                raise HTTPException(400, "the page accepts one layer")
            if len(content) > MEGABYTES * 2**20:
                raise HTTPException(413, f"a picture may have {MEGABYTES} megabytes")
            # Uploads that are never used: the oldest is removed.
            while len(self.blob_storage) >= MOST_SESSIONS and data.data["id"] not in self.blob_storage:
                self.blob_storage.pop(next(iter(self.blob_storage)))
            super().accept_blobs(data)


def _content(path: str) -> bytes:
    file = Path(path)
    if file.stat().st_size > MEGABYTES * 2**20:
        raise gr.Error(f"picture: the file has more than {MEGABYTES} megabytes", print_exception=False)
    return file.read_bytes()
