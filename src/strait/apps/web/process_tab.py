"""The page's tab that shows every step of the latest images."""

from __future__ import annotations

from typing import Any

import gradio as gr

from strait.apps.web.studio import Process, image_of, sureness_of

_NOTHING = "Generate images first; their steps are then shown here."
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


def process_tab(process: gr.State, gallery: gr.Gallery) -> None:
    """Add the tab at the current position of the page.

    Args:
        process: when it changes, the tab is reset.
        gallery: selecting an image there shows it here.
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
            sure = _still("Confidence", "step-sure")
            gr.Markdown("The model's confidence in each token: light is high", elem_classes="caption")

    inputs, outputs = [process, which, number], [text, image, sure]
    process.change(begin, process, [which, number], **_QUIET).then(_shown, inputs, outputs, **_QUIET)
    for slider in (which, number):
        # Of a moving slider only the newest position matters.
        slider.change(_shown, inputs, outputs, trigger_mode="always_last", **_QUIET)
    gallery.select(_chosen, None, which, **_QUIET)


def begin(process: Process | None) -> tuple[Any, ...]:
    """The sliders for a process, at its first image and last step."""
    count = len(process.steps) if process else 1
    images = len(process.steps[0].images) if process and process.steps else 1
    # A slider needs two positions.
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
