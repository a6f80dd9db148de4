"""The page's tab for looking at every step of the images last generated."""

from __future__ import annotations

from typing import Any

import gradio as gr

from strait.apps.web.studio import Process, image_of, sureness_of

_NOTHING = "Generate images first; then every step of them can be seen here."
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def process_tab(process: gr.State, gallery: gr.Gallery) -> None:
    """Put the tab where the page stands.

    Args:
        process: its changes start the tab anew.
        gallery: an image chosen there is the one that is shown.
    """
    text = gr.Markdown(_NOTHING, elem_id="step-text")
    with gr.Row():
        which = gr.Slider(1, 2, 1, step=1, visible=False, label="Image", min_width=140, elem_id="which")
        number = gr.Slider(1, 2, 1, step=1, visible=False, label="Step", min_width=140, elem_id="step")
    with gr.Row():
        with gr.Column(min_width=140):
            image = _still("Image so far", "step-image")
            gr.Markdown("The image so far", elem_classes="caption")
        with gr.Column(min_width=140):
            sure = _still("Sureness", "step-sure")
            gr.Markdown("How sure the model was of each token: light is sure", elem_classes="caption")

    inputs, outputs = [process, which, number], [text, image, sure]
    process.change(begin, process, [which, number], **_QUIET).then(_shown, inputs, outputs, **_QUIET)
    for slider in (which, number):
        # Only the newest place of a moving slider is of interest.
        slider.change(_shown, inputs, outputs, trigger_mode="always_last", **_QUIET)
    gallery.select(_chosen, None, which, **_QUIET)


def begin(process: Process | None) -> tuple[Any, ...]:
    """The sliders for a process: its first image, its last step."""
    count = len(process.steps) if process else 1
    images = len(process.steps[0].images) if process and process.steps else 1
    # A slider cannot have a single place.
    return tuple(gr.Slider(1, max(2, most), value, visible=most > 1) for most, value in ((images, 1), (count, count)))


def _shown(process: Process | None, which: int, number: int) -> tuple[Any, Any, Any]:
    if not process or not process.steps:
        return _NOTHING, None, None
    step = process.steps[min(int(number), len(process.steps)) - 1]
    index = min(int(which), len(step.images)) - 1
    return step.text, image_of(step, index), sureness_of(step, index)


def _still(label: str, key: str) -> gr.Image:
    return gr.Image(label=label, show_label=False, elem_id=key, buttons=["download"], format="png", interactive=False)


def _chosen(event: gr.SelectData) -> int:
    return event.index + 1
