"""Numeric components of the page whose errors name their field, without a traceback in the log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gradio as gr
from gradio import component_meta


@contextmanager
def without_stubs() -> Iterator[None]:
    """Prevent gradio from writing a stub file beside each module that derives a component."""
    write = component_meta.create_or_modify_pyi
    component_meta.create_or_modify_pyi = lambda *_: None
    try:
        yield
    finally:
        component_meta.create_or_modify_pyi = write


def _checked(label: Any, value: Any, least: float, most: float) -> None:
    if value is not None and (type(value) not in (int, float) or not least <= value <= most):
        text = f"{value:g}" if type(value) in (int, float) else repr(value)[:40]
        raise gr.Error(f"{label}: {text} must lie between {least:g} and {most:g}", print_exception=False)


with without_stubs():

    class Number(gr.Number):
        """A number between a minimum and a maximum; None if the field is empty."""

        is_template = True

        def preprocess(self, payload: Any) -> Any:
            assert self.minimum is not None
            assert self.maximum is not None
            _checked(self.label, payload, self.minimum, self.maximum)
            return super().preprocess(payload)

    class Slider(gr.Slider):
        """A number between a minimum and a maximum."""

        is_template = True

        def preprocess(self, payload: Any) -> Any:
            _checked(self.label, payload, self.minimum, self.maximum)
            return super().preprocess(payload)
