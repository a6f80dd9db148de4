"""The results of a study: preference rates, their confidence intervals and the raters' agreement, as in Figure 4."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from strait.apps.study.design import KINDS
from strait.apps.study.statistics import effective_trials, krippendorff_alpha, wilson
from strait.apps.study.storage import Answer, Study
from strait.runtime.messages import library_needed

_ROOM = 22
"""Percent of a bar's full length that its number needs."""


@dataclass(frozen=True)
class Preference:
    """How often the study's first method was preferred over another. Source: StraIT Figure 4.

    Attributes:
        kind: quality or diversity.
        other: the method it was compared with.
        answers: number of answers by raters who passed their attention checks.
        pairs: number of comparisons with answers.
        rate: preferred answers / answers.
        interval: Wilson's 95% interval with all answers as independent.
        interval_pairs: Wilson's 95% interval at the effective number of independent answers, since answers about the
            same pair are correlated (``statistics.effective_trials``).
        agreement: Krippendorff's alpha between raters, or None if undefined.
    """

    kind: str
    other: str
    answers: int
    pairs: int
    rate: float
    interval: tuple[float, float]
    interval_pairs: tuple[float, float]
    agreement: float | None


@dataclass(frozen=True)
class Results:
    """The results of a whole study.

    Attributes:
        first: the method whose preference is counted.
        preferences: for each kind and other method with answers.
        agreement: of each kind, over all methods.
        invitations: number of invitations with answers.
        unfinished: number of them with unanswered attention checks. By default their answers do not count: otherwise a
            rater could avoid failing a check by not answering it.
        left_out: number of invitations with failed attention checks, whose answers do not count.
        first_side: share of answers, without checks, for left or top: about one half, since sides are random.
    """

    first: str
    preferences: list[Preference]
    agreement: dict[str, float | None]
    invitations: int
    unfinished: int
    left_out: int
    first_side: float | None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def read_results(study: Study, allowed_failures: int = 0, include_unfinished: bool = False) -> Results:
    """Count the answers so far, of raters who answered all their attention checks.

    Args:
        study: finished or not.
        allowed_failures: attention checks that a rater may fail on an invitation and still count.
        include_unfinished: also count raters with unanswered checks.
    """
    answers = study.answers()
    failures: dict[int, int] = {}
    for answer in answers:
        failures[answer.invitation] = failures.get(answer.invitation, 0) + (answer.is_check and answer.chosen != 0)
    unanswered = study.unanswered_checks()
    counted = {
        invitation
        for invitation, count in failures.items()
        if count <= allowed_failures and (include_unfinished or not unanswered.get(invitation))
    }
    kept = [answer for answer in answers if not answer.is_check and answer.invitation in counted]
    first, *rivals = study.settings["methods"]
    preferences = [
        _preference(kind, rival, [answer for answer in kept if answer.kind == kind and answer.methods[1] == rival])
        for kind in KINDS
        for rival in rivals
    ]
    return Results(
        first=first,
        preferences=[preference for preference in preferences if preference.answers],
        agreement={
            kind: krippendorff_alpha(_by_question([answer for answer in kept if answer.kind == kind]))
            for kind in KINDS
            if any(answer.kind == kind for answer in kept)
        },
        invitations=len(failures),
        unfinished=sum(bool(unanswered.get(invitation)) for invitation in failures),
        left_out=sum(count > allowed_failures for count in failures.values()),
        first_side=sum(answer.shown == 0 for answer in kept) / len(kept) if kept else None,
    )


def _by_question(answers: list[Answer]) -> list[list[int]]:
    units: dict[int, list[int]] = {}
    for answer in answers:
        units.setdefault(answer.question, []).append(int(answer.chosen == 0))
    return list(units.values())


def _preference(kind: str, other: str, answers: list[Answer]) -> Preference:
    units, count = _by_question(answers), len(answers)
    preferred = sum(map(sum, units))
    effective = effective_trials(units)
    rate = preferred / count if count else 0.5
    return Preference(
        kind=kind,
        other=other,
        answers=count,
        pairs=len(units),
        rate=rate,
        interval=wilson(preferred, count),
        interval_pairs=wilson(rate * effective, effective),
        agreement=krippendorff_alpha(units),
    )


def results_table(results: Results) -> str:
    """The results as text."""
    if not results.preferences:
        reason = (
            f"; of {results.invitations} raters {results.left_out} failed their checks, and {results.unfinished} have "
            "unanswered checks"
        )
        return "no answers count yet" + (reason if results.invitations else "")
    lines = [
        f"how often {results.first} was preferred (95% intervals: answers as independent; pairs as independent)",
        f"{'question':<10} {'over':<20} {'rate':>6}  {'answers':^13}  {'pairs':^13} "
        f"{'answers':>8} {'pairs':>6} {'alpha':>6}",
    ]
    for entry in results.preferences:
        lines.append(
            f"{entry.kind:<10} {entry.other:<20} {entry.rate:>6.1%}  {_range(entry.interval):^13}  "
            f"{_range(entry.interval_pairs):^13} {entry.answers:>8} {entry.pairs:>6} {_alpha(entry.agreement):>6}"
        )
    agreements = ", ".join(f"{kind} {_alpha(value)}" for kind, value in results.agreement.items())
    lines.append(f"agreement of raters (Krippendorff's alpha): {agreements}")
    lines.append(
        f"{results.invitations} invitations with answers, {results.left_out} excluded for failed attention checks, "
        f"{results.unfinished} unfinished (unanswered attention checks; --include-unfinished counts them); "
        f"{results.first_side:.1%} of the answers are for left or top"
    )
    return "\n".join(lines)


def _range(interval: tuple[float, float]) -> str:
    return f"{interval[0]:.1%}-{interval[1]:.1%}"


def _alpha(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def results_chart(results: Results) -> bytes:
    """Figure 4 as a PNG: for each question and method, the share of answers that prefer the first method.

    Raises:
        ValueError: if no answer counts, or matplotlib is missing.
    """
    if not results.preferences:
        raise ValueError("--chart: no answers count yet")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ValueError(f"--chart needs {library_needed(error, 'app')}") from error
    import io

    kinds = [kind for kind in KINDS if any(entry.kind == kind for entry in results.preferences)]
    most = max(sum(entry.kind == kind for entry in results.preferences) for kind in kinds)
    figure = Figure(figsize=(5.2 * len(kinds), 1.5 + 0.55 * most), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(kinds), squeeze=False)[0]
    for axes, kind in zip(panels, kinds, strict=True):
        entries = [entry for entry in results.preferences if entry.kind == kind][::-1]
        rates = [100 * entry.rate for entry in entries]
        names = [entry.other for entry in entries]
        low = [100 * (entry.rate - entry.interval_pairs[0]) for entry in entries]
        high = [100 * (entry.interval_pairs[1] - entry.rate) for entry in entries]
        axes.barh(names, rates, 0.62, color="#3b6fd4", label=results.first)
        axes.barh(names, [100 - rate for rate in rates], 0.62, left=rates, color="#d3d8e2", label="the other method")
        axes.errorbar(rates, names, xerr=[low, high], fmt="none", ecolor="#1c2024", elinewidth=1, capsize=3)
        for position, rate in enumerate(rates):
            # A short bar has its number beside it, above the line of the interval.
            inside = rate >= _ROOM
            axes.text(
                2 if inside else rate + 2,
                position if inside else position + 0.16,
                f"{rate:.1f}%",
                va="center",
                ha="left",
                color="white" if inside else "#1c2024",
                fontweight="bold",
            )
        axes.axvline(50, color="#1c2024", linewidth=0.8, linestyle=":")
        axes.set(xlim=(0, 100), title=kind.capitalize(), xlabel=f"answers that prefer {results.first} (%)")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(left=False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()
