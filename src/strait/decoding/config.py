"""Settings of decoding (no torch here). Defaults are the paper's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

ScheduleName = Literal["linear", "square", "cubic", "square_root", "cosine", "logarithmic", "exponential", "arccos"]
"""Mask schedules. Source: StraIT Table 10; ``arccos`` is not the paper's."""
SCHEDULES: tuple[str, ...] = get_args(ScheduleName)
GuidanceRamp = Literal["constant", "linear", "power_cosine"]
Revision = Literal["none", "remask", "confidence", "redraw"]
AUTO_QUALITY = 0.9
"""The quality of ``--steps auto``."""


@dataclass(frozen=True)
class DecodingConfig:
    """Settings of generation.

    Args:
        steps: of each level, coarse to fine; 18+6 on the command line.
        temperature: of the noise on the confidences, for each level.
        guidance: scale of classifier-free guidance; 0 for none, 0.2 in the paper.
        guidance_ramp: constant, or growing over each level's steps, linearly or late (``guidance.ramped``).
        guidance_start: progress of a level, in [0, 1), up to which there is no guidance.
        schedule: of the share of masked tokens.
        keep: which drawn tokens to keep: the most confident, or the next in a Halton sequence over the grid.
        quality: in [0, 1]. Below 1, a step keeps more tokens than the schedule wants, as long as their expected errors
            are at most 1 - quality of the level's unknown tokens; a level ends once nothing is masked.
        revise: what is taken back: nothing; at each step a random share of the kept tokens (``remask``), or those that
            the network finds least likely (``confidence``); or after the last step all tokens, in parts, a pass for
            each (``redraw``). Tokens that the user gave never change.
        revise_share: share of the kept tokens to mask again at each step; of ``remask`` and ``confidence``.
        revise_passes: additional forward passes of each level, at least 2; of ``redraw``.
    """

    steps: tuple[int, ...] = (18, 6)
    temperature: tuple[float, ...] = (4.5, 4.5)
    guidance: float = 0.0
    guidance_ramp: GuidanceRamp = "constant"
    schedule: ScheduleName = "cosine"
    keep: Literal["confidence", "halton"] = "confidence"
    guidance_start: float = 0.0
    quality: float = 1.0
    revise: Revision = "none"
    revise_share: float = 0.0
    revise_passes: int = 0

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
        for name, kind in (("guidance_ramp", GuidanceRamp), ("revise", Revision)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"decoding.{name}: {getattr(self, name)!r} is not one of {', '.join(get_args(kind))}")
        if not 0 <= self.guidance_start < 1:
            raise ValueError(f"decoding.guidance_start: {self.guidance_start} must be at least 0 and below 1")
        if not 0 <= self.quality <= 1:
            raise ValueError(f"decoding.quality: {self.quality} must lie between 0 and 1")
        shared = self.revise in ("remask", "confidence")
        if not (0 < self.revise_share <= 1 if shared else self.revise_share == 0):
            rule = "above 0 and at most 1" if shared else "0, because no share is revised"
            raise ValueError(f"decoding.revise_share: {self.revise_share} must be {rule} (revise: {self.revise})")
        passes, redraws = self.revise_passes, self.revise == "redraw"
        if type(passes) is not int or not (passes >= 2 if redraws else passes == 0):
            rule = "at least 2" if redraws else "0, because nothing is redrawn"
            raise ValueError(f"decoding.revise_passes: {passes} must be {rule} (revise: {self.revise})")

    @property
    def passes(self) -> tuple[int, ...]:
        """Forward passes of each level, at most: fewer where it has fewer tokens, or with a quality below 1."""
        return tuple(count + self.revise_passes for count in self.steps)

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
        **others: Any,
    ) -> DecodingConfig:
        """These settings (a model's defaults) with a user's choices.

        Args:
            base_levels: number of levels before an upsampler; with steps for these only, decoding stops there.
            steps: of each level.
            temperature: one for all levels, or one for each.
            guidance: scale of classifier-free guidance.
            schedule: of the share of masked tokens.
            called: name of the steps in error messages.
            others: further settings by name, None for the model's own. With ``revise``, share and passes start at 0.

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
        settings = {name: value for name, value in {**others, "schedule": schedule}.items() if value is not None}
        if "revise" in settings:
            settings = {"revise_share": 0.0, "revise_passes": 0, **settings}
        return replace(chosen, **settings)
