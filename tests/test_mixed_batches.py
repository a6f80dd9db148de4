"""Rows of one batch under settings of their own: what a service needs, and the same images as alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from strait.decoding.config import DecodingConfig
from strait.decoding.stratified import final_tokens
from strait.model.strait import StraIT, random_model
from test_model_folder import CLASSES, CONFIG

BASE = DecodingConfig(steps=(6, 3), temperature=(3.0, 2.0), guidance=1.0)
ROWS = [
    # label, seed, index, temperature, guidance, steps
    (3, 0, 0, (3.0, 2.0), 1.0, (6, 3)),
    (3, 0, 1, (3.0, 2.0), 1.0, (6, 3)),
    (17, 2**62, 5, (0.0, 0.0), 0.0, (1, 1)),
    (-1, -4, 0, (9.0, 0.5), 0.3, (12, 1)),
    (29, 7, 2, (1.5, 4.5), -0.5, (2, 9)),
    (17, 7, 2, (1.5, 4.5), 2.0, (8, 5)),
]
MANY_STEPS = (2, 7, 2, (1.5, 4.5), 2.0, (40, 5))  # more than the small model has top tokens


@pytest.fixture(scope="module")
def model() -> StraIT:
    return StraIT.from_pretrained()


@pytest.mark.parametrize("size", ["shipped", "small"])
def test_rows_of_other_settings_are_what_they_are_alone(model: StraIT, size: str) -> None:
    rows = ROWS
    if size == "small":
        model, rows = random_model(CONFIG, CLASSES), [row for row in ROWS if row[0] < len(CLASSES)] + [MANY_STEPS]
    labels, seeds, indices = (torch.tensor([row[part] for row in rows]) for part in range(3))
    configs = [replace(BASE, temperature=row[3], guidance=row[4], steps=row[5]) for row in rows]
    together = final_tokens(model.decoding_steps(labels, seeds, indices, configs))
    pixels = model.decode(together)
    for number, (label, seed, index, *_) in enumerate(rows):
        steps = model.decoding_steps(torch.tensor([label]), seed, torch.tensor([index]), configs[number])
        alone = final_tokens(steps)
        for single, many in zip(alone.levels, together.levels, strict=True):
            assert torch.equal(single[0], many[number])
        assert torch.equal(model.decode(alone)[0], pixels[number])


def test_images_do_not_depend_on_the_size_of_their_batch(model: StraIT) -> None:
    count = 19
    labels = torch.arange(count)
    configs = [
        replace(BASE, temperature=(row % 5, 3.0), guidance=row % 3 / 2, steps=(1 + row % 3, 1 + row % 2))
        for row in range(count)
    ]
    together = final_tokens(model.decoding_steps(labels, torch.arange(count), torch.zeros(count).long(), configs))
    for size in (1, 2, 7, 16):
        for start in range(0, count, size):
            part = slice(start, start + size)
            steps = model.decoding_steps(
                labels[part], torch.arange(count)[part], torch.zeros(count).long()[part], configs[part]
            )
            for some, every in zip(final_tokens(steps).levels, together.levels, strict=True):
                assert torch.equal(some, every[part])


def test_what_a_batch_must_share_is_refused_otherwise(model: StraIT) -> None:
    labels = torch.tensor([1, 2])
    for settings in (
        BASE.first(1),
        replace(BASE, schedule="linear"),
        replace(BASE, keep="halton"),
        replace(BASE, guidance_ramp="linear"),
    ):
        with pytest.raises(
            ValueError, match=r"^decoding: rows of one batch may differ only in steps, temperature and gui"
        ):
            final_tokens(model.decoding_steps(labels, 0, None, [BASE, settings]))
    with pytest.raises(ValueError, match=r"^decoding: there are settings for 1 rows, but the batch has 2"):
        final_tokens(model.decoding_steps(labels, 0, None, [BASE]))
