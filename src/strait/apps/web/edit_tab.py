"""The page's tab for editing: a picture, a mask painted on it, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr

from strait.apps.web.controls import Controls
from strait.apps.web.edit_controls import EditControls
from strait.apps.web.editor import Drawing, Editor
from strait.apps.web.limits import MOST_IMAGES, check_edit
from strait.apps.web.results import Results
from strait.apps.web.stored import StoredEdit
from strait.apps.web.studio import Studio, sheet
from strait.editing.edits import Edit, infilling_note
from strait.editing.infilling import base_decoding

_ACTIONS = [
    ("Infill: redraw the painted area", "infill"),
    ("Relabel: redraw it under the chosen class", "relabel"),
    ("Extend: past the edges", "extend"),
    ("Transfer: to the chosen class", "transfer"),
]
_GROUPS_OF = {
    "infill": ("fill", "blend"),
    "relabel": ("fill", "blend"),
    "extend": ("extend", "blend"),
    "transfer": ("transfer",),
}
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


class EditTab:
    """The tab: the constructor builds it, the methods handle its events.

    Args:
        studio: runs the model.
        controls: the settings on the left.
        earlier: files of the session's earlier results.
        said: decorator that shows a ``ValueError`` on the page.
    """

    def __init__(self, studio: Studio, controls: Controls, earlier: gr.State, said: Callable[..., Any]) -> None:
        self.studio, self.controls, self.settings = studio, controls, EditControls()
        gr.Markdown("Put a picture here, and paint over the area to redraw.", elem_classes="caption")
        self.editor = _editor()
        self.action = gr.Radio(_ACTIONS, value="infill", label="Action", elem_id="action")
        self.groups = self._build_settings()
        with gr.Row(elem_classes="buttons"):
            start = gr.Button("Edit", variant="primary", elem_id="edit-button", min_width=80, scale=3)
            stop = gr.Button("Stop", elem_id="edit-stop", min_width=80)
        self.results = Results("edit", earlier)
        self.action.change(self._shown_groups, self.action, list(self.groups.values()), **_QUIET)
        running = start.click(
            said(self._edit),
            [self.editor, earlier, self.action, *self.settings.parts.values(), *controls.parts],
            self.results.parts,
            # "multiple", so that a click right after Stop counts: the page hears of the end only a little later.
            trigger_mode="multiple",
            **_QUIET,
        )
        stop.click(self.results.stopped, None, self.results.parts, cancels=[running], api_visibility="private")

    def _build_settings(self) -> dict[str, Any]:
        with gr.Group(visible=False) as extend, gr.Row():
            self.settings.build(("left", "right", "up", "down"))
        with gr.Group(visible=False) as transfer:
            self.settings.build(("keep", "choose", "keep_bottom"))
        with gr.Accordion("Strength and blending", open=False, elem_id="edit-more") as more:
            with gr.Group() as fill:
                with gr.Row():
                    self.settings.build(("strength", "cover"))
                with gr.Row():
                    self.settings.build(("margin", "context", "seam"))
            with gr.Group() as blend, gr.Row():
                self.settings.build(("feather", "composite"))
        return {"fill": fill, "blend": blend, "extend": extend, "transfer": transfer, "more": more}

    def _shown_groups(self, action: str) -> list[Any]:
        shown = {*_GROUPS_OF[action], *(("more",) if "blend" in _GROUPS_OF[action] else ())}
        return [type(group)(visible=name in shown) for name, group in self.groups.items()]

    def _edit(self, drawing: Drawing, earlier: Sequence[str], action: Any, *values: Any) -> Iterator[Any]:
        count = len(self.settings.parts)
        options, common = self.settings.options(values[:count]), self.controls.values(values[count:])
        picture = drawing.picture()
        mask = drawing.mask(picture.size)
        if action in ("infill", "relabel") and mask is None:
            raise ValueError("mask: paint over the area to redraw")
        model = self.studio.model
        decoding = base_decoding(model, common.decoding)
        edit = Edit(model, common.label, common.count, common.seed, decoding, MOST_IMAGES, common.first)
        check_edit(edit, action, picture, mask, options)
        if action in ("infill", "relabel") and mask is not None:
            note = infilling_note(model, mask, options.config)
            if note is not None:
                gr.Warning(note)
        files: list[str] = []
        for update in self.studio.edit(edit, action, picture, mask, options):
            if isinstance(update, str):
                files.append(update)
                yield self.results.working(f"{len(files)} of {edit.count}", None, files)
            else:
                yield self.results.working(update.text, sheet(update), files)
        text = f"{len(files)} result{'s' if len(files) > 1 else ''}; each file stores its settings"
        yield self.results.done(text, files, earlier)

    @property
    def parts(self) -> list[Any]:
        """The components that ``restored`` gives values for."""
        return [self.action, *self.settings.parts.values()]

    def restored(self, stored: StoredEdit | None) -> list[Any]:
        """Values from a picture's settings; those of a generated picture change nothing.

        Raises:
            ValueError: if the page's ranges are exceeded.
        """
        if stored is None:
            return [gr.skip()] * len(self.parts)
        return [stored.action, *self.settings.restored(stored)]


def _editor() -> Editor:
    return Editor(
        label="Picture and mask",
        show_label=False,
        type="pil",
        image_mode="RGBA",
        sources=["upload", "clipboard"],
        transforms=[],
        layers=False,
        brush=gr.Brush(default_size=24, colors=["#ff4fa3"], color_mode="fixed"),
        format="png",
        canvas_size=(640, 480),
        height=460,
        elem_id="editor",
    )
