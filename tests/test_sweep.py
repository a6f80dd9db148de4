"""Searching settings: what is found, what is tried twice (nothing), and the front."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from strait.cli import main
from strait.decoding.config import DecodingConfig
from strait.experiments.search import TEMPERATURES, Trials, best_decoding
from strait.experiments.sweep import GUIDANCE, TOTALS, decoding_of, everywhere, front, sweep

START = DecodingConfig(steps=(12, 12), temperature=(3.0, 3.0), guidance=0.0)
GRIDS = ((16, 16), (32, 32))


def bowl(decoding: DecodingConfig) -> dict[str, Any]:
    """A landscape whose best is known: 18+6 at temperatures of 8 and 2, with a guidance of 0.5."""
    fid = 3 + (decoding.steps[0] / sum(decoding.steps) - 0.75) ** 2
    fid += (math.log2(decoding.temperature[0]) - 3) ** 2 + (math.log2(decoding.temperature[1]) - 1) ** 2 / 4
    fid += (decoding.guidance - 0.5) ** 2
    return {"fid": fid, "seconds_per_image": sum(decoding.steps) / 100, "seconds": 1.0}


def test_a_rows_own_best_is_found(tmp_path: Path) -> None:
    found = best_decoding(Trials(tmp_path / "trials", bowl), START, (), GRIDS)
    assert found == dataclasses.replace(START, steps=(18, 6), temperature=(8.0, 2.0))
    held = best_decoding(Trials(tmp_path / "held", bowl), START, ("steps", "temperature"), GRIDS)
    assert held == START
    by_time = best_decoding(Trials(tmp_path / "trials", bowl), START, ("temperature",), GRIDS, "seconds_per_image")
    assert by_time == START  # no share of the same steps is faster than another
    single = DecodingConfig(steps=(12,), temperature=(3.0,))

    def one_level(decoding: DecodingConfig) -> dict[str, Any]:
        return {"fid": abs(decoding.temperature[0] - 4.2)}

    assert best_decoding(Trials(tmp_path / "one", one_level), single, (), GRIDS[:1]).temperature == (4.0,)


def test_nothing_is_tried_twice_not_even_by_another_process(tmp_path: Path) -> None:
    counted: list[DecodingConfig] = []

    def measure(decoding: DecodingConfig) -> dict[str, Any]:
        counted.append(decoding)
        return bowl(decoding)

    path = tmp_path / "trials.jsonl"
    first = best_decoding(Trials(path, measure), START, (), GRIDS)
    assert len(counted) == len(set(counted)) == len(path.read_text().splitlines())
    before = len(counted)
    assert best_decoding(Trials(path, measure), START, (), GRIDS) == first
    assert len(counted) == before


def test_a_sweep_spends_its_budget_and_nears_the_best(tmp_path: Path) -> None:
    trials = Trials(tmp_path / "trials.jsonl", bowl)
    done = sweep(trials, START, GRIDS, seconds=120.0, stopped=lambda: False)
    assert len(done) == 120
    # 120 of 1,350 settings: the neighbourhood search has to have walked there. One temperature serves both levels.
    best = min(done, key=lambda trial: trial["scores"]["fid"])
    assert best["scores"]["fid"] == pytest.approx(4.0)
    again = sweep(Trials(tmp_path / "trials.jsonl", bowl), START, GRIDS, seconds=125.0, stopped=lambda: False)
    assert len(again) == 125
    assert sweep(Trials(tmp_path / "none", bowl), START, GRIDS, 10.0, stopped=lambda: True) == []


def test_every_setting_is_on_the_axes_once_and_fits_the_grids() -> None:
    settings = list(everywhere())
    assert len(set(settings)) == len(settings)
    small = ((4, 4), (8, 8))
    decodings = [decoding_of(setting, START, small) for setting in settings]
    assert all(decoding.steps[0] <= 16 and decoding.steps[1] <= 64 for decoding in decodings)
    assert {decoding.guidance for decoding in decodings} == set(GUIDANCE)
    assert {decoding.temperature[0] for decoding in decodings} == set(TEMPERATURES)
    large = {sum(decoding_of(setting, START, GRIDS).steps) for setting in settings}
    assert large == set(TOTALS)


points = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=30)


@given(points)
def test_the_front_is_what_nothing_betters(pairs: list[tuple[int, int]]) -> None:
    trials = [{"scores": {"seconds_per_image": seconds, "fid": fid}} for seconds, fid in pairs]
    found = [(trial["scores"]["seconds_per_image"], trial["scores"]["fid"]) for trial in front(trials)]
    bettered = {one for one in pairs for other in pairs if other != one and other[0] <= one[0] and other[1] <= one[1]}
    assert sorted(found) == sorted(set(pairs) - bettered)
    assert found == sorted(found)


class Network(nn.Module):
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = nn.functional.adaptive_avg_pool2d(images, (2, 2)).flatten(1) / 255
        return features, features[:, :5] * 20


def test_the_command(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("STRAIT_CACHE", str(tmp_path / "cache"))
    torch.jit.script(Network()).save(str(tmp_path / "network.pt"))
    words = ["sweep", "--data", str(photo_folder), "--features", str(tmp_path / "network.pt"), "--samples", "6"]
    words += ["--budget", "0.05", "--output", str(tmp_path / "out"), "--json"]
    assert main(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["trials"]
    assert report["best"]["scores"]["fid"] == min(trial["scores"]["fid"] for trial in report["trials"])
    assert report["front"][-1]["scores"]["fid"] == report["best"]["scores"]["fid"]
    spent = sum(trial["scores"]["seconds"] for trial in report["trials"][:-1])
    assert spent < 3.0  # the last trial may pass the budget, none begins after it
    (picture,) = (tmp_path / "out").glob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    (page,) = (tmp_path / "out").glob("*.md")
    assert "| seconds an image | FID |" in page.read_text()
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["trials"] == report["trials"], "the budget was spent again"
