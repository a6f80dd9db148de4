"""What the test files share: one thread, no network, repeatable properties, and photographs made on the spot."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before anything imports huggingface_hub
# One thread each, in the processes that tests start, too: the tests may run beside each other.
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

import shapes
from strait.runtime.messages import say_once

torch.set_num_threads(1)
shapes.check_all()
# A busy machine is slow, and a failure must come back when one looks for it.
settings.register_profile("strait", deadline=None, derandomize=True, database=None, max_examples=30)
settings.load_profile("strait")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What is kept between runs is kept apart from the developer's own."""
    os.environ["STRAIT_CACHE"] = str(tmp_path_factory.mktemp("kept"))


@pytest.fixture(autouse=True)
def nothing_said_yet() -> None:
    """What a process says once, it says in each test."""
    say_once.cache_clear()


def _disc(down: np.ndarray, right: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    middle = draw.uniform(0.35, 0.65, 2)
    return np.hypot(down - middle[0], right - middle[1]) < draw.uniform(0.2, 0.35)


def _gradient(down: np.ndarray, right: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    angle = draw.uniform(0, 2 * np.pi)
    along = np.cos(angle) * down + np.sin(angle) * right
    return (along - along.min()) / np.ptp(along)


def _square(down: np.ndarray, right: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    middle = draw.uniform(0.35, 0.65, 2)
    return np.maximum(abs(down - middle[0]), abs(right - middle[1])) < draw.uniform(0.15, 0.3)


def _stripes(down: np.ndarray, right: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    return np.sin((down if draw.random() < 0.5 else right) * draw.uniform(15, 40)) > 0


_CLASSES = {
    "disc": (_disc, (200, 60, 50)),
    "gradient": (_gradient, (60, 170, 80)),
    "square": (_square, (60, 90, 200)),
    "stripes": (_stripes, (210, 180, 60)),
}


def make_photograph(name: str, number: int) -> Image.Image:
    """A picture of one of the four classes: 40 to 90 pixels a side, always the same for the same number."""
    shape, colour = _CLASSES[name]
    draw = np.random.default_rng([sorted(_CLASSES).index(name), number])
    height, width = draw.integers(40, 91, 2)
    down, right = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    share = np.asarray(shape(down, right, draw), np.float64)[..., None]
    ground = draw.uniform(0, 255, 3)
    front = np.clip(np.array(colour) + draw.uniform(-40, 40, 3), 0, 255)
    pixels = share * front + (1 - share) * ground + draw.normal(0, 4, (height, width, 3))
    return Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8))


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four class folders of ten JPEGs each. Shared by all tests: read it, change nothing in it."""
    folder = tmp_path_factory.mktemp("photographs")
    for name in _CLASSES:
        (folder / name).mkdir()
        for number in range(10):
            make_photograph(name, number).save(folder / name / f"{number:02d}.jpg", quality=92)
    return folder


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A real browser; skips where none can be had."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make browser")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no chromium here: make browser, where apt-get may install it")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture
def browser_page(browser: Any) -> Iterator[Any]:
    """A page of its own; an error on it fails the test."""
    page, errors = browser.new_page(viewport={"width": 1280, "height": 900}), []
    page.set_default_timeout(60_000)  # a busy machine is slow
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    page.close()
    assert errors == []
