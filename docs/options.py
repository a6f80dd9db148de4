"""A hook of the site: a line `<!-- options: edit infill -->` becomes what `strait edit infill --help` prints."""

from __future__ import annotations

import contextlib
import io
import re
import textwrap
from typing import Any

from strait.cli import main


def on_page_markdown(markdown: str, **_: Any) -> str:
    return re.sub(r"^( *)<!-- options: ([\w -]+?) -->$", _options, markdown, flags=re.MULTILINE)


def _options(match: re.Match[str]) -> str:
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([*match[2].split(), "--help"])
    if not said.getvalue():
        raise ValueError(f"<!-- options: {match[2]} -->: there is no such verb")
    return textwrap.indent(f"```text\n{said.getvalue().strip()}\n```", match[1])
