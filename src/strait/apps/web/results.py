"""The results of a tab: a note, the picture while it is decoded, the results, their files, and earlier results."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from PIL import Image

_MOST_EARLIER = 48


class Results:
    """The components of one tab.

    Args:
        key: the elements are called ``KEY-note``, ``KEY-gallery``, ...; without a key ``note``, ``gallery``, ...
        earlier: files of the session's earlier results, from all tabs.

    Attributes:
        to_edit: a button that the tab may show, beside the one that downloads all files.
    """

    def __init__(self, key: str, earlier: gr.State) -> None:
        dash = f"{key}-" if key else ""
        self.note = gr.Markdown("", elem_id=f"{dash}note")
        self.preview = gr.Image(
            label="While decoding", show_label=False, visible=False, elem_id=f"{dash}preview", buttons=[], format="png"
        )
        self.gallery = gr.Gallery(
            label="Results",
            show_label=False,
            columns=4,
            height="auto",
            object_fit="contain",
            buttons=["download", "fullscreen"],
            elem_id=f"{dash}gallery",
            interactive=False,
        )
        with gr.Row():
            self.all = gr.DownloadButton("Download all", visible=False, elem_id=f"{dash}all", size="sm", min_width=120)
            self.to_edit = gr.Button("Send to Edit", visible=False, elem_id=f"{dash}to-edit", size="sm", min_width=120)
        self.files = gr.File(
            label="Files", file_count="multiple", visible=False, interactive=False, elem_id=f"{dash}files"
        )
        self.earlier = earlier

    @property
    def parts(self) -> list[Any]:
        """The components, in the order of the updates below."""
        return [self.note, self.preview, self.gallery, self.all, self.files, self.earlier]

    def working(self, text: str, picture: Image.Image | None, files: Sequence[str] = ()) -> list[Any]:
        """Updates during the work: the current picture, and finished files."""
        return [
            text,
            gr.Image(picture, visible=True) if picture is not None else gr.Image(visible=False),
            gr.Gallery(list(files), visible=True) if files else gr.Gallery(visible=False),
            gr.DownloadButton(visible=False),
            gr.File(visible=False),
            gr.skip(),
        ]

    def done(self, text: str, files: Sequence[str], earlier: Sequence[str]) -> list[Any]:
        """Updates at the end."""
        return [
            text,
            gr.Image(visible=False),
            gr.Gallery(list(files), visible=True),
            gr.DownloadButton(value=_archive(files) if len(files) > 1 else None, visible=len(files) > 1),
            gr.File(list(files), visible=True),
            [*files, *(path for path in earlier if path not in files)][:_MOST_EARLIER],
        ]

    def stopped(self) -> list[Any]:
        """Updates after Stop: the current picture and earlier results remain."""
        return ["stopped", gr.skip(), gr.Gallery(visible=True), gr.skip(), gr.skip(), gr.skip()]


def _archive(files: Sequence[str]) -> str:
    """A ZIP file of all files, in the folder of the first."""
    first = Path(files[0])
    path = first.parent / f"{first.stem}-and-{len(files) - 1}-more.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in files:
            archive.write(file, Path(file).name)
    return str(path)


def existing(files: Sequence[str] | None) -> list[str]:
    """The files that still exist."""
    return [path for path in files or () if Path(path).exists()]
