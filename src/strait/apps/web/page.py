"""The web page: settings on the left; generation, editing and the process on the right."""

from __future__ import annotations

import functools
import html
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gradio as gr
from PIL import Image
from starlette.middleware import Middleware

from strait.apps.connection import HostCheck, served_hosts
from strait.apps.web.controls import Controls
from strait.apps.web.edit_tab import EditTab
from strait.apps.web.generate_tab import GenerateTab
from strait.apps.web.guard import Guard
from strait.apps.web.limits import KEPT_SECONDS, MEGABYTES, MOST_IMAGES, MOST_SESSIONS, MOST_WAITING, PIXELS
from strait.apps.web.process_tab import process_tab
from strait.apps.web.results import existing
from strait.apps.web.stored import settings_in, stored_in
from strait.apps.web.studio import Studio

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
#gallery, #edit-gallery, #earlier-gallery { min-height: 0 !important; height: auto !important; }
#gallery .grid-wrap, #edit-gallery .grid-wrap, #earlier-gallery .grid-wrap {
  min-height: 0 !important; height: auto !important; max-height: none;
}
/* An opened image overlays its gallery, which is only as high as a row of thumbnails. */
#gallery:has(.preview), #edit-gallery:has(.preview), #earlier-gallery:has(.preview) { min-height: 480px !important; }
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
    """Show user errors as messages of the page, escaped since they may quote user input."""

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
    """Build the whole page."""
    controls = Controls(studio.model)
    size = studio.model.config.image_size
    # The first number is the interval, in seconds, at which old files are deleted.
    with gr.Blocks(title="strait", analytics_enabled=False, delete_cache=(KEPT_SECONDS // 4, KEPT_SECONDS)) as page:
        process, chosen = gr.State(time_to_live=KEPT_SECONDS), gr.State(0)
        earlier = gr.State([], time_to_live=KEPT_SECONDS)
        gr.Markdown(
            f"# strait\n{len(studio.model.classes)} classes, {size}x{size} pixels, model {studio.digest}",
            elem_id="head",
        )
        with gr.Row(equal_height=False, elem_id="page"):
            with gr.Column(scale=2, min_width=300, elem_id="settings"):
                controls.build()
            with gr.Column(scale=5, min_width=300, elem_id="work"), gr.Tabs() as tabs:
                with gr.Tab("Generate", id="generate"):
                    generating = GenerateTab(studio, controls, process, earlier, said)
                with gr.Tab("Edit", id="edit"):
                    editing = EditTab(studio, controls, earlier, said)
                with gr.Tab("Process", id="process"):
                    process_tab(process, generating.results.gallery)
                with gr.Tab("Earlier", id="earlier"):
                    _earlier_tab(earlier)
            generating.send_to(editing.editor, tabs, chosen)
            with gr.Column(scale=2, min_width=300, elem_id="restore"):
                gr.Markdown("Drop a picture here to restore its settings.", elem_classes="caption")
                dropped = gr.File(
                    label="Picture with settings", show_label=False, file_types=[".png"], elem_id="drop", height=140
                )
        restored = [*controls.parts, *editing.parts]

        @said
        def restore(path: str | None) -> list[Any]:
            if path is None:
                return [gr.skip()] * len(restored)
            stored = stored_in(settings_in(path), MOST_IMAGES)
            values = [*controls.restored(stored), *editing.restored(stored.edit)]
            notes = list(stored.notes)
            if stored.model is not None and stored.model != studio.digest:
                notes.append(f"the picture is by model {stored.model}; with its settings this model gives another one")
            for note in notes:
                gr.Warning(html.escape(note))
            return values

        dropped.upload(restore, dropped, restored, show_progress="hidden", api_visibility="private")
    return page


def _earlier_tab(earlier: gr.State) -> None:
    text = gr.Markdown("Results of this session appear here, the newest first.", elem_classes="caption")
    gallery = gr.Gallery(
        show_label=False,
        columns=6,
        height="auto",
        object_fit="contain",
        buttons=["download", "fullscreen"],
        elem_id="earlier-gallery",
        interactive=False,
        visible=False,
    )

    def shown(files: list[str]) -> tuple[Any, Any]:
        present = existing(files)
        return gr.Markdown(visible=not present), gr.Gallery(present, visible=bool(present))

    earlier.change(shown, earlier, [text, gallery], show_progress="hidden", api_visibility="private")


def launch(
    page: gr.Blocks, host: str, port: int | None, open_browser: bool, allowed_hosts: Sequence[str] = ()
) -> None:
    """Start serving the page on other threads; returns once it can be opened.

    Args:
        page: to serve.
        host: address to listen on.
        port: to listen on; 7860 or the next free one by default.
        open_browser: whether to open a browser at the page.
        allowed_hosts: further host names to answer for, as sent by a proxy.

    Raises:
        OSError: if the port is not available.
        ValueError: if a name cannot be a host.
    """
    hosts = served_hosts(host, allowed_hosts)
    # Checked before a file's pixels are decoded.
    Image.MAX_IMAGE_PIXELS = PIXELS
    page.queue(max_size=MOST_WAITING, default_concurrency_limit=1, api_open=False)
    page.launch(
        server_name=host,
        server_port=port,
        inbrowser=open_browser,
        share=False,
        quiet=True,
        # System fonts: the page works offline.
        theme=gr.themes.Default(
            primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ),
        css=CSS,
        footer_links=[],
        ssr_mode=False,
        max_file_size=f"{MEGABYTES}mb",
        state_session_capacity=MOST_SESSIONS,
        app_kwargs={"middleware": [Middleware(HostCheck, hosts=hosts), Middleware(Guard)]},
        prevent_thread_lock=True,
    )
