"""The page's tab for generating: images step by step, their files, and a button that sends one to the editor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from strait.apps.web.controls import Controls
from strait.apps.web.limits import check_generation
from strait.apps.web.results import Results, existing
from strait.apps.web.studio import Process, Studio, sheet

_EXAMPLES = 5
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}


class GenerateTab:
    """The tab: the constructor builds it, the methods handle its events.

    Args:
        studio: runs the model.
        controls: the settings on the left.
        process: receives the steps of the latest images.
        earlier: files of the session's earlier results.
        said: decorator that shows a ``ValueError`` on the page.
    """

    def __init__(
        self, studio: Studio, controls: Controls, process: gr.State, earlier: gr.State, said: Callable[..., Any]
    ) -> None:
        self.studio, self.controls = studio, controls
        with gr.Row(elem_classes="buttons"):
            start = gr.Button("Generate", variant="primary", elem_id="generate-button", min_width=80, scale=3)
            stop = gr.Button("Stop", elem_id="stop-button", min_width=80)
        self.results = Results("", earlier)
        self._build_examples()
        outputs = [*self.results.parts, process, self.results.to_edit]
        running = start.click(
            said(self._generate),
            [earlier, *controls.parts],
            outputs,
            # "multiple", so that a click right after Stop counts: the page hears of the end only a little later.
            trigger_mode="multiple",
            **_QUIET,
        )
        stop.click(
            lambda: [*self.results.stopped(), gr.skip(), gr.skip()],
            None,
            outputs,
            cancels=[running],
            api_visibility="private",
        )

    def _generate(self, earlier: list[str], *values: Any) -> Iterator[Any]:
        requests = self.controls.values(values).requests(self.studio.model)
        check_generation(requests)
        process = Process()
        for process in self.studio.generate(requests):
            if process.files:
                break
            step = process.steps[-1]
            yield [*self.results.working(step.text, sheet(step)), gr.skip(), gr.Button(visible=False)]
        count = len(process.files)
        text = f"{count} image{'s' if count > 1 else ''} in {len(process.steps)} steps; each file stores its settings"
        yield [*self.results.done(text, process.files, earlier), process, gr.Button(visible=True)]

    def _build_examples(self) -> None:
        """Add a few classes to try, evenly spaced in the model's list."""
        classes = self.studio.model.classes
        if len(classes) < _EXAMPLES:
            return
        labels = [index * len(classes) // _EXAMPLES for index in range(_EXAMPLES)]
        gr.Markdown("Some classes to try:", elem_classes="caption")
        with gr.Row(elem_id="examples"):
            buttons = [gr.Button(classes.title(label), size="sm", min_width=90) for label in labels]
        for label, button in zip(labels, buttons, strict=True):
            button.click(lambda label=label: label, None, self.controls.parts[0], queue=False, **_QUIET)

    def send_to(self, editor: gr.ImageEditor, tabs: gr.Tabs, chosen: gr.State) -> None:
        """Make the button put the selected image, or else the first, into the editor."""
        self.results.gallery.select(_index, None, chosen, queue=False, **_QUIET)
        self.results.gallery.change(lambda: 0, None, chosen, queue=False, **_QUIET)
        # The editor accepts a picture only while it is visible.
        self.results.to_edit.click(lambda: gr.Tabs(selected="edit"), None, tabs, queue=False, **_QUIET).then(
            _background, [self.results.files, chosen], editor, **_QUIET
        )


def _index(event: gr.SelectData) -> int:
    return event.index


def _background(files: list[str] | None, chosen: int) -> Any:
    present = existing(files)
    if not present:
        raise gr.Error("the image has been deleted; generate it again", print_exception=False)
    path = present[min(chosen, len(present) - 1)]
    return {"background": path, "layers": [], "composite": path}
