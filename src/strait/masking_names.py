"""The names of the mask schedules, for configurations (no torch here). Source: StraIT Table 10."""

from __future__ import annotations

from typing import Literal, get_args

ScheduleName = Literal["linear", "square", "cubic", "square_root", "cosine", "logarithmic", "exponential", "arccos"]
SCHEDULES: tuple[str, ...] = get_args(ScheduleName)
