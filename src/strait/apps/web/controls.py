"""The settings on the left of the page: built from the model's defaults, and restored from a picture's settings."""

from __future__ import annotations

import dataclasses
import secrets
from dataclasses import dataclass, field
from typing import Any, get_args

import gradio as gr

from strait.apps.jobs import ImageRequest, image_requests
from strait.apps.web.fields import Number, Slider
from strait.apps.web.limits import MOST_IMAGES
from strait.apps.web.stored import Stored
from strait.decoding.config import SCHEDULES, DecodingConfig, GuidanceRamp
from strait.model.strait import StraIT
from strait.types import NULL_LABEL

_MOST_STEPS, _MOST_TEMPERATURE, _MOST_GUIDANCE = 64, 20.0, 5.0
_NOT_OFFERED = ("guidance_start", "quality", "revise", "revise_share", "revise_passes")
"""Settings of decoding that are the model's own on this page."""


@dataclass
class Controls:
    """The components, in the order in which their values arrive.

    Attributes:
        model: whose defaults they start with.
        parts: the components; ``values`` takes their values.
    """

    model: StraIT
    parts: list[Any] = field(default_factory=list)

    def build(self) -> None:
        """Add the components at the current position of the page."""
        model, decoding = self.model, self.model.default_decoding()
        choices = [(model.classes.title(index), index) for index in range(len(model.classes))]
        self.parts.append(
            gr.Dropdown(
                [("any class (Edit: none)", NULL_LABEL), *choices],
                value=NULL_LABEL,
                label="Class",
                info="type to search" if choices else "this model has no classes",
                filterable=True,
                elem_id="class",
            )
        )
        with gr.Row():
            seed = gr.Textbox(
                "0", label="Seed", info="same seed, same images", max_lines=1, min_width=100, elem_id="seed"
            )
            self.parts.append(seed)
            self._number("Images", "count", 4, 1, MOST_IMAGES, info="at once")
            self._number("First", "first", 0, 0, 10**5, info="images to skip")
        gr.Button("Random seed", size="sm", elem_id="random-seed").click(
            lambda: str(secrets.randbelow(10**6)), None, seed, queue=False, show_progress="hidden",
            api_visibility="private",
        )  # fmt: skip
        self.parts.append(
            Slider(
                0,
                _MOST_GUIDANCE,
                decoding.guidance,
                step=0.05,
                label="Guidance",
                info="higher: closer to the class, less variety",
                elem_id="guidance",
            )
        )
        names = model.config.level_names[: len(decoding.steps)]
        with gr.Accordion("Steps, temperature, schedule", open=False, elem_id="more"):
            with gr.Row():
                for name, steps in zip(names, decoding.steps, strict=True):
                    self._number(_titled("Steps", name), f"steps-{name}", steps, 1, _MOST_STEPS)
            with gr.Row():
                for name, value in zip(names, decoding.temperature, strict=True):
                    self._number(_titled("Temperature", name), f"temperature-{name}", value, 0, _MOST_TEMPERATURE, 0.1)
            for label, key, choices, info in (
                ("Schedule", "schedule", list(SCHEDULES), "how fast tokens become known"),
                (
                    "Tokens to keep",
                    "keep",
                    ["confidence", "halton"],
                    "at each step: the most confident ones, or ones spread evenly over the image",
                ),
                (
                    "Guidance over the steps",
                    "guidance_ramp",
                    list(get_args(GuidanceRamp)),
                    "linear: increases from 0; power_cosine: later and faster",
                ),
            ):
                self.parts.append(
                    gr.Dropdown(
                        choices, value=getattr(decoding, key), label=label, info=info, elem_id=key.replace("_", "-")
                    )
                )

    def _number(
        self, label: str, key: str, value: float, least: float, most: float, stride: float = 1, info: str | None = None
    ) -> None:
        precision = 0 if stride == 1 else None
        self.parts.append(
            Number(
                value,
                label=label,
                info=info,
                minimum=least,
                maximum=most,
                step=stride,
                precision=precision,
                min_width=90,
                elem_id=key,
            )
        )

    def values(self, values: tuple[Any, ...]) -> Values:
        """The settings from the components' values.

        Raises:
            ValueError: if they are invalid.
        """
        label, seed, count, first, guidance, *rest, schedule, keep, ramp = values
        if any(value is None for value in (count, first, guidance, *rest)):
            raise ValueError("settings: a number is missing")
        levels = len(rest) // 2
        steps, base = [int(step) for step in rest[:levels]], self.model.config.tokenizer.num_levels
        decoding = self.model.default_decoding().chosen(base, steps, rest[levels:], guidance, schedule)
        decoding = dataclasses.replace(decoding, keep=keep, guidance_ramp=ramp)
        text = str(seed).strip()
        if not text.removeprefix("-").isdecimal() or not -(2**63) <= int(text) < 2**63:
            raise ValueError(f"seed: {text[:40]!r} must be a whole number of at most 64 bits")
        return Values(NULL_LABEL if label is None else int(label), int(text), int(count), int(first), decoding)

    def restored(self, stored: Stored) -> list[Any]:
        """Values for all components from a picture's settings.

        Raises:
            ValueError: if this model lacks the class or has other levels, or the page's ranges are exceeded.
        """
        defaults, decoding = self.model.default_decoding(), stored.decoding
        base, levels = self.model.config.tokenizer.num_levels, len(defaults.steps)
        if stored.edit is not None and len(decoding.steps) == base:
            # An edit is decoded at the base size, so its picture lacks the settings of an upsampler's levels.
            decoding = dataclasses.replace(
                decoding,
                steps=(*decoding.steps, *defaults.steps[base:]),
                temperature=(*decoding.temperature, *defaults.temperature[base:]),
            )
        for name in _NOT_OFFERED:
            value, default = getattr(decoding, name), getattr(defaults, name)
            if value != default:
                raise ValueError(f"picture: its {name} is {value}, but this page offers no {name} (it is {default})")
        number = NULL_LABEL if stored.label is None else self.model.classes.find(stored.label)
        if len(decoding.steps) != levels:
            raise ValueError(f"picture: it was decoded at {len(decoding.steps)} levels, but this page uses {levels}")
        for name, values, most in (
            ("guidance", [decoding.guidance], _MOST_GUIDANCE),
            ("steps", decoding.steps, _MOST_STEPS),
            ("temperature", decoding.temperature, _MOST_TEMPERATURE),
        ):
            if not 0 <= min(values) <= max(values) <= most:
                text = ", ".join(f"{value:g}" for value in values)
                raise ValueError(f"picture: its {name} {text} exceeds the range of this page, 0 to {most:g}")
        return [
            number,
            str(stored.seed),
            stored.count,
            stored.first,
            decoding.guidance,
            *decoding.steps,
            *decoding.temperature,
            decoding.schedule,
            decoding.keep,
            decoding.guidance_ramp,
        ]


def _titled(what: str, level: str) -> str:
    return f"{what}, {level.replace('_', ' ')}"


@dataclass(frozen=True)
class Values:
    """The settings on the left of the page."""

    label: int
    seed: int
    count: int
    first: int
    decoding: DecodingConfig

    def requests(self, model: StraIT) -> list[ImageRequest]:
        """The images to generate: of the class, or if there is none, of classes drawn from the seed."""
        end = self.first + self.count
        labels = None if self.label == NULL_LABEL else [self.label] * end
        return image_requests(model, labels, end, self.seed, self.decoding)[self.first :]
