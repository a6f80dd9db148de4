"""The page's tab for editing: a picture, a mask painted on it, and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from strait.apps.jobs import EditOptions
from strait.apps.web.controls import MOST_IMAGES, Controls
from strait.apps.web.stored import StoredEdit
from strait.apps.web.studio import Studio, sheet
from strait.editing.config import EditConfig
from strait.editing.edits import Edit
from strait.editing.extension import Sides
from strait.editing.infilling import base_decoding
from strait.pictures.reading import Picture

_ACTIONS = [
    ("Infill: draw what is painted over anew", "infill"),
    ("Relabel: the same, under the chosen class", "relabel"),
    ("Extend: past the edges", "extend"),
    ("Transfer: move the picture to the chosen class", "transfer"),
]
_FOR = {
    "infill": ("fill", "blend"),
    "relabel": ("fill", "blend"),
    "extend": ("extend", "blend"),
    "transfer": ("transfer",),
}
_CHOICES = ("random", "confidence")
_MOST_MARGIN, _MOST_CONTEXT, _MOST_FEATHER, _MOST_SIDE = 64, 100, 64, 16


@dataclass
class EditControls:
    """The components of the tab's settings, in the order in which their values arrive."""

    parts: list[Any]

    def restored(self, stored: StoredEdit | None) -> list[Any]:
        """Values from the settings inside a picture; those of a generated one leave all as it is.

        Raises:
            ValueError: if the page goes not so far.
        """
        if stored is None:
            return [gr.skip()] * len(self.parts)
        config, sides = stored.options.config, stored.options.sides
        names = ("left", "right", "up", "down")
        for name, value, most in (
            ("margin", config.margin, _MOST_MARGIN),
            ("context", config.context, _MOST_CONTEXT),
            ("feather", config.feather, _MOST_FEATHER),
            *((name, getattr(sides, name), _MOST_SIDE) for name in names),
        ):
            if value > most:
                raise ValueError(f"picture: its {name} {value:g} is more than this page offers, {most}")
        if stored.options.choose not in _CHOICES or not 0 <= stored.options.keep <= 1:
            raise ValueError("picture: the settings inside it are of another kind, or damaged")
        return [
            stored.action,
            *(getattr(config, name) for name in ("strength", "margin", "context", "feather", "composite")),
            *(getattr(sides, name) for name in names),
            *(getattr(stored.options, name) for name in ("keep", "choose", "keep_bottom")),
        ]


def edit_tab(studio: Studio, controls: Controls, said: Callable[..., Any]) -> EditControls:
    """Put the tab where the page stands; errors are shown as ``said`` does."""
    gr.Markdown("Put a picture here, and paint over what is to be drawn anew.", elem_classes="caption")
    editor = gr.ImageEditor(
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
    action = gr.Radio(_ACTIONS, value="infill", label="What to do", elem_id="action")
    with gr.Group(visible=False) as extend, gr.Row():
        sides = [
            gr.Number(
                0,
                label=f"{name.capitalize()} (tokens)",
                minimum=0,
                maximum=_MOST_SIDE,
                step=1,
                precision=0,
                min_width=110,
                elem_id=f"extend-{name}",
            )
            for name in ("left", "right", "up", "down")
        ]
    with gr.Group(visible=False) as transfer, gr.Row():
        keep = gr.Slider(
            0, 1, 0.5, step=0.05, label="Share of the top tokens that stay", min_width=140, elem_id="share"
        )
        choose = gr.Radio(list(_CHOICES), value="random", label="Which of them", min_width=140)
        keep_bottom = gr.Checkbox(label="Keep the bottom tokens", min_width=140)
    with gr.Accordion("How much, and how it blends in", open=False, elem_id="edit-more") as more:
        with gr.Group() as fill:
            strength = gr.Slider(0.01, 1, 1, step=0.01, label="Share drawn anew", min_width=140, elem_id="strength")
            with gr.Row():
                margin = _whole("Margin (model pixels)", "margin", 0, _MOST_MARGIN)
                context = gr.Number(
                    2, label="Context (extents)", minimum=1, maximum=_MOST_CONTEXT, step=0.5, min_width=110
                )
        with gr.Group() as blend, gr.Row():
            feather = _whole("Feather (pixels)", "feather", 2, _MOST_FEATHER)
            composite = gr.Checkbox(True, label="Keep the picture's own pixels", min_width=140, elem_id="composite")
    with gr.Row(elem_classes="buttons"):
        start = gr.Button("Edit", variant="primary", elem_id="edit-button", min_width=80, scale=3)
        stop = gr.Button("Stop", elem_id="edit-stop", min_width=80)
    note = gr.Markdown("", elem_id="edit-note")
    preview = gr.Image(
        label="While decoding", show_label=False, visible=False, elem_id="edit-preview", buttons=[], format="png"
    )
    gallery = gr.Gallery(
        label="Results",
        show_label=False,
        columns=4,
        height="auto",
        object_fit="contain",
        buttons=["download", "fullscreen"],
        elem_id="edit-gallery",
        interactive=False,
    )
    files = gr.File(label="Download", file_count="multiple", visible=False, interactive=False, elem_id="edit-files")
    parts = [action, strength, margin, context, feather, composite, *sides, keep, choose, keep_bottom]

    def shown(action: str) -> list[Any]:
        groups = [gr.Group(visible=name in _FOR[action]) for name in ("fill", "blend", "extend", "transfer")]
        return [*groups, gr.Accordion(visible="blend" in _FOR[action])]

    @said
    def edit(drawn: dict[str, Any] | None, *values: Any) -> Iterator[Any]:
        of_edit, of_model = values[: len(parts)], controls.values(values[len(parts) :])
        picture, mask = _drawn(drawn)
        options, what = _options(of_edit), of_edit[0]
        if what in ("infill", "relabel") and mask is None:
            raise ValueError("mask: paint over what is to be drawn anew")
        decoding = base_decoding(studio.model, of_model.decoding)
        wanted = Edit(
            studio.model, of_model.label, of_model.count, of_model.seed, decoding, MOST_IMAGES, of_model.first
        )
        made: list[str] = []
        hidden = gr.File(visible=False)
        for news in studio.edit(wanted, what, picture, mask, options):
            if isinstance(news, str):
                made.append(news)
                shown = gr.Gallery(list(made), visible=True)
                yield f"{len(made)} of {of_model.count}", gr.Image(visible=False), shown, hidden
            else:
                yield news.text, gr.Image(sheet(news), visible=True), gr.Gallery(visible=bool(made)), hidden
        done = f"{len(made)} result{'s' if len(made) > 1 else ''}; each file carries its settings"
        yield done, gr.Image(visible=False), gr.Gallery(made, visible=True), gr.File(made, visible=True)

    action.change(
        shown,
        action,
        [fill, blend, extend, transfer, more],
        show_progress="hidden",
        api_visibility="private",
    )
    running = start.click(
        edit,
        [editor, *parts, *controls.parts],
        [note, preview, gallery, files],
        # A press right after Stop counts, too: the page learns a little later that all has ended, and one that was
        # kept back until then could be lost.
        trigger_mode="multiple",
        show_progress="hidden",
        api_visibility="private",
    )
    stop.click(stopped, None, [note, preview, gallery], cancels=[running], api_visibility="private")
    return EditControls(parts)


def stopped() -> tuple[Any, ...]:
    """What a page shows after Stop: what was there before, and no half-made picture."""
    return "stopped", gr.Image(visible=False), gr.Gallery(visible=True)


def _whole(label: str, key: str, value: int, most: int) -> gr.Number:
    return gr.Number(
        value, label=label, minimum=0, maximum=most, step=1, precision=0, min_width=110, elem_id=f"edit-{key}"
    )


def _options(values: tuple[Any, ...]) -> EditOptions:
    if any(value is None for value in values):
        raise ValueError("settings: a number is missing")
    _, strength, margin, context, feather, composite, left, right, up, down, keep, choose, keep_bottom = values
    config = EditConfig(strength, int(margin), context, int(feather), composite)
    return EditOptions(config, Sides(int(left), int(right), int(up), int(down)), keep, choose, keep_bottom)


def _drawn(drawn: dict[str, Any] | None) -> tuple[Picture, np.ndarray | None]:
    """The picture and the mask painted over it: bool ``[height, width]``, or None where nothing was."""
    if not drawn or drawn.get("background") is None:
        raise ValueError("picture: put a picture into the editor first")
    background: Image.Image = drawn["background"]
    opaque = background.getextrema()[-1] == (255, 255)
    pixels = np.array(background.convert("RGB" if opaque else "RGBA"))
    mask = np.zeros(pixels.shape[:2], bool)
    for layer in drawn.get("layers") or []:
        resized = layer if layer.size == background.size else layer.resize(background.size, Image.Resampling.NEAREST)
        mask |= np.asarray(resized.convert("RGBA"))[..., 3] > 127
    return Picture(pixels), mask if mask.any() else None
