"""The page's tab for generating: images step by step, their files, and one of them on to the editor."""

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
    """The tab.

    Args:
        studio: that does the work.
        controls: of the settings on the left.
        process: is given the steps of the images last generated.
        earlier: what the session has made.
        said: shows a ``ValueError`` on the page.
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
            # A press right after Stop counts, too: the page learns a little later that all has ended.
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
        wanted = self.controls.values(values).wanted(self.studio.model)
        check_generation(wanted)
        process = Process()
        for process in self.studio.generate(wanted):
            if process.files:
                break
            step = process.steps[-1]
            yield [*self.results.working(step.text, sheet(step)), gr.skip(), gr.Button(visible=False)]
        count = len(process.files)
        text = f"{count} image{'s' if count > 1 else ''} in {len(process.steps)} steps; each file carries its settings"
        yield [*self.results.done(text, process.files, earlier), process, gr.Button(visible=True)]

    def _build_examples(self) -> None:
        """Some classes to try, from all over the model's list."""
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
        """Let the button put the image that was chosen last, or the first, into the editor."""
        self.results.gallery.select(_index, None, chosen, queue=False, **_QUIET)
        self.results.gallery.change(lambda: 0, None, chosen, queue=False, **_QUIET)
        # The editor takes a picture only when it is on the page.
        self.results.to_edit.click(lambda: gr.Tabs(selected="edit"), None, tabs, queue=False, **_QUIET).then(
            _background, [self.results.files, chosen], editor, **_QUIET
        )


def _index(event: gr.SelectData) -> int:
    return event.index


def _background(files: list[str] | None, chosen: int) -> Any:
    there = existing(files)
    if not there:
        raise gr.Error("the image is no longer kept; generate it again", print_exception=False)
    path = there[min(chosen, len(there) - 1)]
    return {"background": path, "layers": [], "composite": path}
