"""Settings of decoding searched on a budget, and the front of score against time (Figure 1, for one's own model).

The first half of the budget goes to settings drawn from all over, the second to the neighbours of the best.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
    """A place on the axes that are searched: an index into ``TOTALS``, ``SHARES``, ``TEMPERATURES``, ``GUIDANCE``."""

    total: int
    share: int
    temperature: int
    guidance: int

    def neighbours(self) -> Iterator[Setting]:
        """The settings one notch away on one axis."""
        for name, size in _AXES.items():
            for notch in (-1, 1):
                place = getattr(self, name) + notch
                if 0 <= place < size:
                    yield dataclasses.replace(self, **{name: place})


_AXES = {"total": len(TOTALS), "share": len(SHARES), "temperature": len(TEMPERATURES), "guidance": len(GUIDANCE)}


def everywhere() -> Iterator[Setting]:
    """Every setting once, in a fixed order that keeps near none."""
    count = 1
    for size in _AXES.values():
        count *= size
    for number in permutation(count, _SEED).tolist():
        places = {}
        for name, size in _AXES.items():
            number, places[name] = divmod(number, size)
        yield Setting(**places)


def decoding_of(setting: Setting, start: DecodingConfig, grids: tuple[tuple[int, int], ...]) -> DecodingConfig:
    """The settings of decoding at a place; what is not searched is as in ``start``."""
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
    """Try settings until the budget is spent, or until told to stop; what earlier runs spent counts.

    Args:
        trials: measures settings, and remembers them; its scores hold the ``seconds`` that each took.
        start: what is not searched, and the first to be tried.
        grids: of the levels.
        seconds: the budget.
        say: is given a line before each trial.

    Returns:
        Every trial that is done: ``decoding`` and ``scores``.
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

    def go_on(share: float) -> bool:
        return spent() < share * seconds

    def attempt(decoding: DecodingConfig) -> None:
        if trials.find(decoding) is None:
            say(f"setting {len(trials.done) + 1}, about {duration(seconds - spent())} of searching left")
        trials(decoding)

    if go_on(1.0):
        attempt(start)
    places = {decoding_of(setting, start, grids): setting for setting in everywhere()}
    for decoding in places:
        if not go_on(_EXPLORED):
            break
        attempt(decoding)
    while go_on(1.0):
        near = (
            decoding_of(other, start, grids)
            for trial in front(trials.done)
            if (place := places.get(from_dict(DecodingConfig, trial["decoding"], "decoding"))) is not None
            for other in place.neighbours()
        )
        untried = next((decoding for decoding in near if trials.find(decoding) is None), None)
        if untried is None:
            untried = next((decoding for decoding in places if trials.find(decoding) is None), None)
        if untried is None:
            break
        attempt(untried)


def scored_again(
    trials: Trials, chosen: Sequence[dict[str, Any]], say: Callable[[str], None] = lambda line: None
) -> list[dict[str, Any]]:
    """The trials of a front with scores of samples that they were not chosen by: those of a search flatter its best.

    Args:
        trials: measures settings on other samples, and remembers them.
        chosen: trials.
        say: is given a line before each.

    Returns:
        Each as ``decoding``, ``scores`` (None where a stop came first) and ``searched``, the scores it was chosen by.
    """
    with contextlib.suppress(Stopped):
        for place, trial in enumerate(chosen):
            left = sum(other["scores"]["seconds"] for other in chosen[place:])
            say(f"the best again on other images: {place + 1} of {len(chosen)}, about {duration(left)} left")
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
    """Scores with the seconds that measuring them took."""

    def measured(decoding: DecodingConfig) -> dict[str, Any]:
        begin = time.perf_counter()
        scores = measure(decoding)
        return {**scores, "seconds": time.perf_counter() - begin}

    return measured


def front(trials: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The trials that no other betters in both Fréchet distance and seconds an image, from fast to good."""
    best: list[dict[str, Any]] = []
    for trial in sorted(trials, key=lambda trial: (trial["scores"]["seconds_per_image"], trial["scores"]["fid"])):
        if not best or trial["scores"]["fid"] < best[-1]["scores"]["fid"]:
            best.append(trial)
    return best
