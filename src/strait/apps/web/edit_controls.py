"""The settings of an edit as components of the page, one for each field of ``EditOptions`` and its nested settings."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from strait.apps.jobs import EditOptions
from strait.apps.web.fields import Number, Slider
from strait.apps.web.stored import StoredEdit
from strait.editing.config import EditConfig
from strait.editing.extension import Sides


@dataclass(frozen=True)
class Control:
    """The component of a field; its kind follows from the field's type.

    Args:
        label: above the component.
        least: minimum of a number.
        most: maximum of a number; up to 1 the component is a slider.
        stride: step of a number.
        info: short description.
        start: initial value instead of the field's default.
    """

    label: str
    least: float = 0
    most: float = 1
    stride: float = 1
    info: str | None = None
    start: float | None = None

    def build(self, name: str, kind: Any, default: Any) -> Any:
        """Add the component at the current position of the page."""
        key = f"edit-{name.replace('_', '-')}"
        value = default if self.start is None else self.start
        if kind is bool:
            return gr.Checkbox(bool(value), label=self.label, info=self.info, min_width=140, elem_id=key)
        if typing.get_origin(kind) is typing.Literal:
            choices = list(typing.get_args(kind))
            return gr.Radio(choices, value=value, label=self.label, info=self.info, min_width=140, elem_id=key)
        if self.most <= 1:
            return Slider(
                self.least, self.most, value, step=self.stride, label=self.label, info=self.info, min_width=140,
                elem_id=key,
            )  # fmt: skip
        return Number(
            value, label=self.label, info=self.info, minimum=self.least, maximum=self.most, step=self.stride,
            precision=0 if kind is int else None, min_width=110, elem_id=key,
        )  # fmt: skip


CONTROLS = {
    "strength": Control("Share to redraw", 0.01, 1, 0.01, "below 1, some of the old content is kept"),
    "margin": Control("Margin (model pixels)", 0, 64, 1, "pixels to grow the mask by"),
    "context": Control("Context (extents)", 1, 100, 0.5, "what the model sees around the mask"),
    "feather": Control("Feather (pixels)", 0, 64, 1, "pixels inside the mask over which the edit fades in"),
    "composite": Control("Keep the picture's own pixels"),
    "cover": Control("Cover", 0, 0.95, 0.05, "a top token is redrawn if more of it is painted"),
    "seam": Control("Seam (pixels)", 0, 64, 1, "pixels outside the mask over which the edit fades out"),
    **{side: Control(f"{side.capitalize()} (tokens)", 0, 16, start=1) for side in ("left", "right")},
    **{side: Control(f"{side.capitalize()} (tokens)", 0, 16) for side in ("up", "down")},
    "keep": Control("Share of the top tokens to keep", 0, 1, 0.05),
    "choose": Control("Which ones to keep", info="confidence: those that fit the new class best"),
    "keep_bottom": Control("Keep the bottom tokens", info="keeps the picture's textures"),
}
_NESTED = {"config": EditConfig, "sides": Sides}


def _fields(kind: type) -> dict[str, Any]:
    """The plain settings of a dataclass: name and type."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in dataclasses.fields(kind) if field.name not in _NESTED}


NAMES = tuple(name for kind in (EditConfig, Sides, EditOptions) for name in _fields(kind))
"""All settings of an edit."""


class EditControls:
    """The components of an edit's settings, by field name.

    Attributes:
        parts: the components built so far.
    """

    def __init__(self) -> None:
        self.parts: dict[str, Any] = {}

    def build(self, names: Sequence[str]) -> None:
        """Add the components of these settings at the current position of the page."""
        kinds = {name: kind for group in (EditConfig, Sides, EditOptions) for name, kind in _fields(group).items()}
        defaults = self._values_of(EditOptions())
        for name in names:
            self.parts[name] = CONTROLS[name].build(name, kinds[name], defaults[name])

    def options(self, values: Sequence[Any]) -> EditOptions:
        """The settings from the components' values, in the order of ``parts``.

        Raises:
            ValueError: if they are invalid.
        """
        named = dict(zip(self.parts, values, strict=True))
        for name, value in named.items():
            if value is None:
                raise ValueError(f"{CONTROLS[name].label}: a number is missing")
        nested = {key: kind(**{name: named[name] for name in _fields(kind)}) for key, kind in _NESTED.items()}
        return EditOptions(**nested, **{name: named[name] for name in _fields(EditOptions)})

    def restored(self, stored: StoredEdit) -> list[Any]:
        """Values for ``parts`` from a picture's settings.

        Raises:
            ValueError: if the page's ranges are exceeded.
        """
        values, kinds = self._values_of(stored.options), _fields(EditOptions)
        for name, value in values.items():
            choices = typing.get_args(kinds.get(name))
            if value not in choices if choices else not CONTROLS[name].least <= value <= CONTROLS[name].most:
                raise ValueError(
                    f"picture: its {name.replace('_', ' ')} {value} is not what this page offers: "
                    + (", ".join(choices) or f"{CONTROLS[name].least:g} to {CONTROLS[name].most:g}")
                )
        return [values[name] for name in self.parts]

    @staticmethod
    def _values_of(options: EditOptions) -> dict[str, Any]:
        values = dataclasses.asdict(options)
        for key in _NESTED:
            values |= values.pop(key)
        return values
