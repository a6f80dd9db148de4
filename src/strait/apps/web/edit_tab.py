"""The page's tab for editing: a picture, a mask painted on it, and what to do."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from strait.apps.jobs import EditOptions
from strait.apps.web.controls import Controls
from strait.apps.web.studio import Studio
from strait.editing.config import EditConfig
from strait.editing.edits import Edit
from strait.editing.extension import Sides
from strait.editing.infilling import base_decoding
from strait.editing.pictures import Picture

_ACTIONS = [
    ("Infill: draw what is painted over anew", "infill"),
    ("Relabel: the same, under the chosen class", "relabel"),
    ("Extend: past the edges", "extend"),
    ("Transfer: move the picture to the chosen class", "transfer"),
]
_FOR = {"infill": ("fill",), "relabel": ("fill",), "extend": ("extend",), "transfer": ("transfer",)}


@dataclass
class EditControls:
    """The components of the tab's settings, in the order in which their values arrive."""

    parts: list[Any]

    def restored(self, settings: dict[str, Any]) -> list[Any]:
        """Values from the settings inside a picture; those of a generated one leave all as it is."""
        if "edit" not in settings:
            return [gr.skip()] * len(self.parts)
        try:
            config, sides = EditConfig(**settings["config"]), Sides(**settings["sides"])
            return [
                settings["edit"],
                *(getattr(config, name) for name in ("strength", "margin", "context", "feather")),
                *(getattr(sides, name) for name in ("left", "right", "up", "down")),
                *(settings[name] for name in ("keep", "choose", "keep_bottom")),
            ]
        except (KeyError, TypeError) as error:
            raise ValueError("picture: the settings inside it are of another kind, or damaged") from error


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
    with gr.Group() as fill:
        with gr.Row():
            strength = gr.Slider(0.05, 1, 1, step=0.05, label="Share drawn anew", min_width=140, elem_id="strength")
            margin = gr.Slider(0, 16, 0, step=1, label="Margin (model pixels)", min_width=140)
        with gr.Row():
            context = gr.Slider(1, 8, 2, step=0.5, label="Context (extents of the mask)", min_width=140)
            feather = gr.Slider(0, 32, 2, step=1, label="Feather (pixels)", min_width=140)
    with gr.Group(visible=False) as extend, gr.Row():
        sides = [
            gr.Slider(0, 8, 0, step=1, label=name.capitalize(), min_width=120, elem_id=f"extend-{name}")
            for name in ("left", "right", "up", "down")
        ]
    with gr.Group(visible=False) as transfer, gr.Row():
        keep = gr.Slider(0, 1, 0.5, step=0.05, label="Share of the top tokens that stay", min_width=140)
        choose = gr.Radio(["random", "confidence"], value="random", label="Which of them", min_width=140)
        keep_bottom = gr.Checkbox(label="Keep the bottom tokens", min_width=140)
    start = gr.Button("Edit", variant="primary", elem_id="edit-button")
    note = gr.Markdown("", elem_id="edit-note")
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
    files = gr.File(label="Download", file_count="multiple", visible=False, interactive=False)
    parts = [action, strength, margin, context, feather, *sides, keep, choose, keep_bottom]

    def shown(action: str) -> list[Any]:
        return [gr.Group(visible=name in _FOR[action]) for name in ("fill", "extend", "transfer")]

    @said
    def edit(drawn: dict[str, Any] | None, *values: Any) -> Iterator[Any]:
        of_edit, of_model = values[: len(parts)], controls.values(values[len(parts) :])
        picture, mask = _drawn(drawn)
        options, what = _options(of_edit), of_edit[0]
        if what in ("infill", "relabel") and mask is None:
            raise ValueError("mask: paint over what is to be drawn anew")
        decoding = base_decoding(studio.model, of_model.decoding)
        wanted = Edit(studio.model, of_model.label, of_model.count, of_model.seed, decoding)
        made: list[str] = []
        for path in studio.edit(wanted, what, picture, mask, options):
            made.append(path)
            yield f"{len(made)} of {of_model.count}", list(made), gr.File(visible=False)
        yield f"{len(made)} results", made, gr.File(made, visible=True)

    action.change(shown, action, [fill, extend, transfer], show_progress="hidden", api_visibility="private")
    start.click(
        edit,
        [editor, *parts, *controls.parts],
        [note, gallery, files],
        show_progress="minimal",
        api_visibility="private",
    )
    return EditControls(parts)


def _options(values: tuple[Any, ...]) -> EditOptions:
    _, strength, margin, context, feather, left, right, up, down, keep, choose, keep_bottom = values
    config = dataclasses.replace(
        EditConfig(), strength=strength, margin=int(margin), context=context, feather=int(feather)
    )
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
