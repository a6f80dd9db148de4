"""A search over settings of decoding within a time budget, and the Pareto front of score and speed (Figure 1).

The first half of the budget is spent on random settings, the second half on neighbours of the front.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from strait.decoding.config import DecodingConfig
from strait.model.config import from_dict
from strait.randomness import permutation
from strait.runtime.ranks import Stopped
from strait.tables.search import SHARES, TEMPERATURES, Trials
from strait.training.progress import duration

TOTALS = (3, 4, 6, 8, 12, 16, 24, 36, 48)
GUIDANCE = (0.0, 0.2, 0.5, 1.0, 2.0)

_EXPLORED = 0.5
_SEED = 61


@dataclasses.dataclass(frozen=True)
class Setting:
    """A point of the search grid: indices into ``TOTALS``, ``SHARES``, ``TEMPERATURES`` and ``GUIDANCE``."""

    total: int
    share: int
    temperature: int
    guidance: int

    def neighbours(self) -> Iterator[Setting]:
        """The settings one step away on one axis."""
        for name, size in _AXES.items():
            for step in (-1, 1):
                index = getattr(self, name) + step
                if 0 <= index < size:
                    yield dataclasses.replace(self, **{name: index})


_AXES = {"total": len(TOTALS), "share": len(SHARES), "temperature": len(TEMPERATURES), "guidance": len(GUIDANCE)}


def everywhere() -> Iterator[Setting]:
    """Every setting once, in a fixed random order."""
    for number in permutation(math.prod(_AXES.values()), _SEED).tolist():
        indices = {}
        for name, size in _AXES.items():
            number, indices[name] = divmod(number, size)
        yield Setting(**indices)


def decoding_of(setting: Setting, start: DecodingConfig, grids: tuple[tuple[int, int], ...]) -> DecodingConfig:
    """The settings of decoding at a grid point; those that are not searched are as in ``start``."""
    lengths = [height * width for height, width in grids]
    total = TOTALS[setting.total]
    levels = min(2, len(start.steps))
    if levels == 1:
        steps = (min(total, lengths[0]),)
    else:
        top = max(1, min(round(SHARES[setting.share] * total), total - 1, lengths[0]))
        steps = (top, min(total - top, lengths[1]))
    return dataclasses.replace(
        start,
        steps=(*steps, *start.steps[levels:]),
        temperature=(TEMPERATURES[setting.temperature],) * len(start.steps),
        guidance=GUIDANCE[setting.guidance],
    )


def sweep(
    trials: Trials,
    start: DecodingConfig,
    grids: tuple[tuple[int, int], ...],
    seconds: float,
    say: Callable[[str], None] = lambda line: None,
) -> list[dict[str, Any]]:
    """Try settings until the budget is spent or the search is stopped; the time of earlier runs counts.

    Args:
        trials: measures settings and stores their scores, with the ``seconds`` of each measurement.
        start: the first settings to try; settings that are not searched stay as here.
        grids: of the levels.
        seconds: the budget.
        say: is given a line before each trial.

    Returns:
        All trials: ``decoding`` and ``scores``.
    """
    with contextlib.suppress(Stopped):
        _search(trials, start, grids, seconds, say)
    return trials.done


def _search(
    trials: Trials,
    start: DecodingConfig,
    grids: tuple[tuple[int, int], ...],
    seconds: float,
    say: Callable[[str], None],
) -> None:
    def spent() -> float:
        return sum(trial["scores"]["seconds"] for trial in trials.done)

    def has_time(share: float) -> bool:
        return spent() < share * seconds

    def attempt(decoding: DecodingConfig) -> None:
        if trials.find(decoding) is None:
            say(f"setting {len(trials.done) + 1}, about {duration(seconds - spent())} of searching left")
        trials(decoding)

    if has_time(1.0):
        attempt(start)
    settings = {decoding_of(setting, start, grids): setting for setting in everywhere()}
    for decoding in settings:
        if not has_time(_EXPLORED):
            break
        attempt(decoding)
    while has_time(1.0):
        neighbours = (
            decoding_of(neighbour, start, grids)
            for trial in front(trials.done)
            if (setting := settings.get(from_dict(DecodingConfig, trial["decoding"], "decoding"))) is not None
            for neighbour in setting.neighbours()
        )
        candidates = itertools.chain(neighbours, settings)
        untried = next((decoding for decoding in candidates if trials.find(decoding) is None), None)
        if untried is None:
            break
        attempt(untried)


def scored_again(
    trials: Trials, chosen: Sequence[dict[str, Any]], say: Callable[[str], None] = lambda line: None
) -> list[dict[str, Any]]:
    """Score selected trials again on other samples, since the scores that they were selected by are biased.

    Args:
        trials: measures settings on other samples.
        chosen: the selected trials.
        say: receives a line before each.

    Returns:
        For each trial ``decoding``, the new ``scores`` (None if stopped first) and ``searched``, the scores that it
        was selected by.
    """
    with contextlib.suppress(Stopped):
        for place, trial in enumerate(chosen):
            times = [other["scores"].get("seconds") for other in chosen[place:]]  # files of older versions have none
            left = "" if None in times else f", about {duration(sum(times))} left"
            say(f"the best again on other images: {place + 1} of {len(chosen)}{left}")
            trials(from_dict(DecodingConfig, trial["decoding"], "decoding"))
    return [
        {
            "decoding": trial["decoding"],
            "scores": trials.find(from_dict(DecodingConfig, trial["decoding"], "decoding")),
            "searched": trial["scores"],
        }
        for trial in chosen
    ]


def timed(measure: Callable[[DecodingConfig], dict[str, Any]]) -> Callable[[DecodingConfig], dict[str, Any]]:
    """Wrap ``measure`` to add the ``seconds`` of each measurement to its scores."""

    def measured(decoding: DecodingConfig) -> dict[str, Any]:
        begin = time.perf_counter()
        scores = measure(decoding)
        return {**scores, "seconds": time.perf_counter() - begin}

    return measured


def front(trials: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The Pareto-optimal trials in Fréchet distance and seconds an image, by increasing time."""
    best: list[dict[str, Any]] = []
    for trial in sorted(trials, key=lambda trial: (trial["scores"]["seconds_per_image"], trial["scores"]["fid"])):
        if not best or trial["scores"]["fid"] < best[-1]["scores"]["fid"]:
            best.append(trial)
    return best
