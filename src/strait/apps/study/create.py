"""A study from folders of images: choose, copy, deal, and write all of it down."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from strait.apps.study.design import Design, make_sheets, places
from strait.apps.study.pictures import Method, PictureStore
from strait.apps.study.storage import Study, create, refuse_existing


def create_study(folder: Path, methods: Sequence[Method], design: Design, title: str) -> Study:
    """Make a study in a folder.

    Args:
        folder: made if need be.
        methods: the first is compared with each of the others.
        design: how many questions, raters, checks.
        title: of the pages.

    Raises:
        ValueError: if the methods' images are too few, or of other classes.
        FileExistsError: if the folder holds a study.
    """
    refuse_existing(folder)
    sheets = make_sheets(methods, design, PictureStore(folder / "pictures"))
    dealt = [number for number in range(len(sheets)) for _ in range(design.raters)]
    rows = [(number, places(len(sheets[number]), design.seed, invitation)) for invitation, number in enumerate(dealt)]
    settings = {"title": title, "methods": [method.name for method in methods], "design": dataclasses.asdict(design)}
    return create(folder, settings, sheets, rows)
