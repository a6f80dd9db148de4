"""The web page: settings on the left; generation, editing and the process on the right."""

from __future__ import annotations

import functools
import html
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from strait.apps.web.controls import MOST_IMAGES, Controls
from strait.apps.web.edit_tab import edit_tab, stopped
from strait.apps.web.stored import settings_in, stored_in
from strait.apps.web.studio import Process, Studio, image_of, sheet, sureness_of

CSS = """
.gradio-container { max-width: 1240px !important; margin: 0 auto !important; }
#head { padding: .2rem 0 0; } #head h1 { margin: 0; font-size: 1.4rem; } #head p { margin: 0; opacity: .7; }
#drop { height: 140px !important; }
#note p, #edit-note p, #step-text p { min-height: 1.4em; margin: 0; opacity: .8; }
#page { display: grid !important; grid-template: "settings work" auto "restore work" 1fr / minmax(300px, 2fr) 5fr; }
#settings { grid-area: settings; } #work { grid-area: work; min-width: 0 !important; } #restore { grid-area: restore; }
.buttons { flex-wrap: nowrap !important; }
#preview img, #edit-preview img, #step-image img, #step-sure img {
  object-fit: contain; max-height: 512px; width: 100%;
}
#preview, #edit-preview { border: none; } #step-sure img { image-rendering: pixelated; }
#gallery, #edit-gallery { min-height: 0 !important; height: auto !important; }
#gallery .grid-wrap, #edit-gallery .grid-wrap { min-height: 0 !important; height: auto !important; max-height: none; }
.caption p { margin: 0; font-size: .9rem; opacity: .8; }
@media (max-width: 760px) {
  #page { grid-template: "settings" auto "work" auto "restore" auto / minmax(0, 1fr); }
}
@media (max-width: 480px) {
  .gradio-container { padding: .4rem !important; }
  #gallery .grid-container, #edit-gallery .grid-container { grid-template-columns: 1fr 1fr !important; }
}
"""


def said(function: Callable[..., Any]) -> Callable[..., Any]:
    """Errors of the user's become the page's own messages: as text, since they repeat what a user or a file said."""

    @functools.wraps(function)
    def wrapped(*values: Any) -> Any:
        try:
            return function(*values)
        except ValueError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from error

    @functools.wraps(function)
    def wrapped_steps(*values: Any) -> Iterator[Any]:
        try:
            yield from function(*values)
        except ValueError as error:
            raise gr.Error(html.escape(str(error)), print_exception=False) from error

    return wrapped_steps if inspect.isgeneratorfunction(function) else wrapped


def build_page(studio: Studio) -> gr.Blocks:
    """The whole page."""
    controls = Controls(studio.model)
    size = studio.model.config.image_size
    with gr.Blocks(title="strait", analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        process = gr.State(time_to_live=24 * 3600)
        gr.Markdown(
            f"# strait\n{len(studio.model.classes)} classes, {size}x{size} pixels, model {studio.digest}",
            elem_id="head",
        )
        with gr.Row(equal_height=False, elem_id="page"):
            with gr.Column(scale=2, min_width=300, elem_id="settings"):
                controls.build()
            with gr.Column(scale=5, min_width=300, elem_id="work"), gr.Tabs():
                with gr.Tab("Generate", id="generate"):
                    shown = _generate_tab(studio, controls, process)
                with gr.Tab("Edit", id="edit"):
                    restore_edit = edit_tab(studio, controls, said)
                with gr.Tab("Process", id="process"):
                    _process_tab(process, shown)
            with gr.Column(scale=2, min_width=300, elem_id="restore"):
                gr.Markdown("A picture dropped here brings its settings back.", elem_classes="caption")
                dropped = gr.File(
                    label="Picture with settings", show_label=False, file_types=[".png"], elem_id="drop", height=140
                )

        @said
        def restore(path: str | None) -> list[Any]:
            if path is None:
                return [gr.skip()] * (len(controls.parts) + len(restore_edit.parts))
            stored = stored_in(settings_in(path), MOST_IMAGES)
            values = [*controls.restored(stored), *restore_edit.restored(stored.edit)]
            notes = list(stored.notes)
            if stored.model is not None and stored.model != studio.digest:
                notes.append(f"the picture was made by model {stored.model}; this one makes another of its settings")
            for note in notes:
                gr.Warning(html.escape(note))
            return values

        dropped.upload(
            restore, dropped, [*controls.parts, *restore_edit.parts], show_progress="hidden", api_visibility="private"
        )
    return page


def _generate_tab(studio: Studio, controls: Controls, process: gr.State) -> gr.Gallery:
    with gr.Row(elem_classes="buttons"):
        start = gr.Button("Generate", variant="primary", elem_id="generate-button", min_width=80, scale=3)
        stop = gr.Button("Stop", elem_id="stop-button", min_width=80)
    note = gr.Markdown("", elem_id="note")
    preview = gr.Image(
        label="While decoding", show_label=False, visible=False, elem_id="preview", buttons=[], format="png"
    )
    gallery = gr.Gallery(
        label="Images",
        show_label=False,
        columns=4,
        height="auto",
        object_fit="contain",
        buttons=["download", "fullscreen"],
        elem_id="gallery",
        interactive=False,
    )
    files = gr.File(label="Download", file_count="multiple", visible=False, interactive=False, elem_id="files")

    @said
    def generate(*values: Any) -> Iterator[Any]:
        made = Process()
        for made in studio.generate(controls.values(values).wanted(studio.model)):
            if made.files:
                break
            step = made.steps[-1]
            yield step.text, gr.Image(sheet(step), visible=True), gr.Gallery(visible=False), gr.skip(), gr.skip()
        count = len(made.files)
        done = f"{count} image{'s' if count > 1 else ''} in {len(made.steps)} steps; each file carries its settings"
        yield (
            done,
            gr.Image(visible=False),
            gr.Gallery(made.files, visible=True),
            gr.File(made.files, visible=True),
            made,
        )

    running = start.click(
        generate,
        controls.parts,
        [note, preview, gallery, files, process],
        # A press right after Stop counts, too: the page learns a little later that all has ended.
        trigger_mode="multiple",
        show_progress="hidden",
        api_visibility="private",
    )
    stop.click(stopped, None, [note, preview, gallery], cancels=[running], api_visibility="private")
    return gallery


def _process_tab(process: gr.State, gallery: gr.Gallery) -> None:
    nothing = "Generate images first; then every step of them can be seen here."
    text = gr.Markdown(nothing, elem_id="step-text")
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

    def show(made: Process | None, which: int, number: int) -> tuple[Any, Any, Any]:
        if not made or not made.steps:
            return nothing, None, None
        step = made.steps[min(int(number), len(made.steps)) - 1]
        index = min(int(which), len(step.images)) - 1
        return step.text, image_of(step, index), sureness_of(step, index)

    def begin(made: Process | None) -> tuple[Any, ...]:
        count = len(made.steps) if made else 1
        images = len(made.steps[0].images) if made and made.steps else 1
        # A slider cannot have a single place.
        return tuple(
            gr.Slider(1, max(2, most), value, visible=most > 1) for most, value in ((images, 1), (count, count))
        )

    inputs, outputs = [process, which, number], [text, image, sure]
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    process.change(begin, process, [which, number], **quiet).then(show, inputs, outputs, **quiet)
    for slider in (which, number):
        # Only the newest place of a moving slider is of interest.
        slider.change(show, inputs, outputs, trigger_mode="always_last", **quiet)
    gallery.select(_chosen, None, which, **quiet)


def _still(label: str, key: str) -> gr.Image:
    return gr.Image(label=label, show_label=False, elem_id=key, buttons=["download"], format="png", interactive=False)


def _chosen(event: gr.SelectData) -> int:
    return event.index + 1


def launch(page: gr.Blocks, host: str, port: int | None, open_browser: bool) -> None:
    """Start to serve the page, on threads of its own; returns when it can be opened."""
    page.queue(default_concurrency_limit=1, api_open=False)
    page.launch(
        server_name=host,
        server_port=port,
        inbrowser=open_browser,
        share=False,
        quiet=True,
        # Fonts that need not be fetched: the page works offline.
        theme=gr.themes.Default(
            primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ),
        css=CSS,
        footer_links=[],
        ssr_mode=False,
        max_file_size="20mb",
        prevent_thread_lock=True,
    )
