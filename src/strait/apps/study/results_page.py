"""The results of a study as one HTML file, which needs nothing else."""

from __future__ import annotations

from pathlib import Path

from strait.apps.study.design import KINDS
from strait.apps.study.results import Results, why_nothing_counts
from strait.runtime.messages import library_needed


def results_page(results: Results, title: str) -> bytes:
    """The page.

    Args:
        results: of a study; with or without answers that count.
        title: of the study.

    Raises:
        ValueError: if jinja2 is missing.
    """
    try:
        from jinja2 import Environment, select_autoescape
    except ImportError as error:
        raise ValueError(f"--page: it needs {library_needed(error, 'app')}") from error
    text = Path(__file__).with_name("results.html").read_text(encoding="utf-8")
    page = Environment(autoescape=select_autoescape(default=True), trim_blocks=True, lstrip_blocks=True)
    entries = [(kind, [entry for entry in results.preferences if entry.kind == kind]) for kind in KINDS]
    return (
        page.from_string(text)
        .render(
            title=title,
            results=results,
            kinds=[(kind, some) for kind, some in entries if some],
            nothing=why_nothing_counts(results),
            percent=lambda share: f"{share:.1%}",
        )
        .encode()
    )
