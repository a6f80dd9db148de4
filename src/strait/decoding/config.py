"""Settings of decoding (no torch here). Defaults are the paper's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

ScheduleName = Literal["linear", "square", "cubic", "square_root", "cosine", "logarithmic", "exponential", "arccos"]
"""Mask schedules. Source: StraIT Table 10; ``arccos`` is not the paper's."""
SCHEDULES: tuple[str, ...] = get_args(ScheduleName)


@dataclass(frozen=True)
class DecodingConfig:
    """Settings of generation.

    Args:
        steps: of each level, coarse to fine; 18+6 on the command line.
        temperature: of the noise on the confidences, for each level.
        guidance: scale of classifier-free guidance; 0 for none, 0.2 in the paper.
        guidance_ramp: constant, or growing linearly over each level's steps.
        schedule: of the share of masked tokens.
        keep: which drawn tokens to keep: the most confident, or the next in a Halton sequence over the grid.
    """

    steps: tuple[int, ...] = (18, 6)
    temperature: tuple[float, ...] = (4.5, 4.5)
    guidance: float = 0.0
    guidance_ramp: Literal["constant", "linear"] = "constant"
    schedule: ScheduleName = "cosine"
    keep: Literal["confidence", "halton"] = "confidence"

    def __post_init__(self) -> None:
        if not self.steps or any(type(count) is not int or count < 1 for count in self.steps):
            raise ValueError(f"decoding.steps: {self.steps} must be at least 1 for each level")
        if len(self.temperature) != len(self.steps):
            raise ValueError(
                f"decoding.temperature: {self.temperature} must give one for each level of steps {self.steps}"
            )
        if not all(0 <= value < math.inf for value in self.temperature):
            raise ValueError(f"decoding.temperature: {self.temperature} must be finite and not negative")
        if not math.isfinite(self.guidance):
            raise ValueError(f"decoding.guidance: {self.guidance} must be a finite number")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"decoding.schedule: {self.schedule!r} is not one of {', '.join(SCHEDULES)}")
        if self.keep not in ("confidence", "halton"):
            raise ValueError(f"decoding.keep: {self.keep!r} is neither 'confidence' nor 'halton'")
        if self.guidance_ramp not in ("constant", "linear"):
            raise ValueError(f"decoding.guidance_ramp: {self.guidance_ramp!r} is neither 'constant' nor 'linear'")

    def first(self, levels: int) -> DecodingConfig:
        """These settings for the first ``levels`` levels only."""
        return replace(self, steps=self.steps[:levels], temperature=self.temperature[:levels])

    def chosen(
        self,
        base_levels: int,
        steps: Sequence[int] | None = None,
        temperature: float | Sequence[float] | None = None,
        guidance: float | None = None,
        schedule: ScheduleName | None = None,
        called: str = "steps",
    ) -> DecodingConfig:
        """These settings (a model's defaults) with a user's choices.

        Args:
            base_levels: number of levels before an upsampler; with steps for these only, decoding stops there.
            steps: of each level.
            temperature: one for all levels, or one for each.
            guidance: scale of classifier-free guidance.
            schedule: of the share of masked tokens.
            called: name of the steps in error messages.

        Raises:
            ValueError: if the choices do not fit the model's levels or each other.
        """
        chosen = self
        if steps is not None:
            allowed = sorted({base_levels, len(self.steps)})
            if len(steps) not in allowed:
                raise ValueError(
                    f"{called}: {'+'.join(map(str, steps))} must give {' or '.join(map(str, allowed))} number(s), "
                    f"one a level, as {'+'.join(map(str, self.steps))}"
                )
            chosen = replace(self.first(len(steps)), steps=tuple(steps))
        if temperature is not None:
            is_number = isinstance(temperature, int | float)
            values = (temperature,) * len(chosen.steps) if is_number else temperature
            chosen = replace(chosen, temperature=tuple(map(float, values)))
        if guidance is not None:
            chosen = replace(chosen, guidance=float(guidance))
        return chosen if schedule is None else replace(chosen, schedule=schedule)
