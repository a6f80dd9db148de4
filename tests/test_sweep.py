"""Searching settings: what is found, what is tried twice (nothing), and the front."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from strait.cli import main
from strait.data.sources import open_images
from strait.decoding.config import DecodingConfig
from strait.evaluation.features import open_features
from strait.evaluation.generation import Judge, SampleSet
from strait.model.config import from_dict
from strait.model.strait import StraIT, random_model
from strait.runtime.ranks import Stopped
from strait.tables.search import TEMPERATURES, Trials, best_decoding
from strait.tables.sweep import GUIDANCE, TOTALS, decoding_of, everywhere, front, scored_again, sweep
from test_model_folder import CLASSES, CONFIG
from test_tables import Network

START = DecodingConfig(steps=(12, 12), temperature=(3.0, 3.0), guidance=0.0)
GRIDS = ((16, 16), (32, 32))


def bowl(decoding: DecodingConfig) -> dict[str, Any]:
    """A landscape whose best is known: 18+6 at temperatures of 8 and 2, with a guidance of 0.5."""
    fid = 3 + (decoding.steps[0] / sum(decoding.steps) - 0.75) ** 2
    fid += (math.log2(decoding.temperature[0]) - 3) ** 2 + (math.log2(decoding.temperature[1]) - 1) ** 2 / 4
    fid += (decoding.guidance - 0.5) ** 2
    return {"fid": fid, "seconds_per_image": sum(decoding.steps) / 100, "seconds": 1.0}


def test_a_rows_own_best_is_found(tmp_path: Path) -> None:
    best = best_decoding(Trials(tmp_path / "trials", bowl), START, (), GRIDS)
    assert best == dataclasses.replace(START, steps=(18, 6), temperature=(8.0, 2.0))
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


def test_a_sweep_says_how_far_it_is(tmp_path: Path) -> None:
    messages: list[str] = []
    done = sweep(Trials(tmp_path / "trials.jsonl", bowl), START, GRIDS, seconds=3.0, say=messages.append)
    assert messages == [f"setting {place + 1}, about {3 - place} s of searching left" for place in range(3)]
    messages.clear()
    assert sweep(Trials(tmp_path / "trials.jsonl", bowl), START, GRIDS, seconds=3.0, say=messages.append) == done
    assert messages == [], "nothing is left to be tried"
    scored_again(Trials(tmp_path / "front.jsonl", bowl), done, messages.append)
    assert messages[1] == "the best again on other images: 2 of 3, about 2 s left"


def test_a_sweep_spends_its_budget_and_nears_the_best(tmp_path: Path) -> None:
    trials = Trials(tmp_path / "trials.jsonl", bowl)
    done = sweep(trials, START, GRIDS, seconds=120.0)
    assert len(done) == 120
    # 120 of 1,350 settings: the neighbourhood search has to have walked there. One temperature serves both levels.
    best = min(done, key=lambda trial: trial["scores"]["fid"])
    assert best["scores"]["fid"] == pytest.approx(4.0)
    again = sweep(Trials(tmp_path / "trials.jsonl", bowl), START, GRIDS, seconds=125.0)
    assert len(again) == 125
    assert sweep(Trials(tmp_path / "none", bowl, stopped=lambda: True), START, GRIDS, 10.0) == []


def halt() -> dict[str, Any]:
    raise Stopped


def test_a_sweep_that_is_stopped_keeps_what_is_done(tmp_path: Path) -> None:
    """Told to stop before the sixth, or in the midst of it: five stand, and the next run goes on with them."""
    before = Trials(tmp_path / "before", bowl, stopped=lambda: len(before.done) == 5)
    within = Trials(tmp_path / "within", lambda decoding: bowl(decoding) if len(within.done) < 5 else halt())
    for trials in (before, within):
        assert len(sweep(trials, START, GRIDS, seconds=10.0)) == 5
        assert sweep(Trials(trials.path, bowl), START, GRIDS, seconds=10.0)[:5] == trials.done


def test_the_front_is_scored_on_samples_that_did_not_choose_it(tmp_path: Path) -> None:
    """Of settings that are all alike, a search finds the luckiest; other samples are not so lucky."""
    lucky = {(2, 2): 3.0, (4, 4): 2.0, (8, 8): 1.0}
    chosen = [
        {
            "decoding": dataclasses.asdict(dataclasses.replace(START, steps=steps)),
            "scores": {"fid": fid, "seconds_per_image": sum(steps)},
        }
        for steps, fid in lucky.items()
    ]
    chosen = json.loads(json.dumps(chosen))
    fair = Trials(tmp_path / "front.jsonl", lambda decoding: {"fid": 5.0, "seconds_per_image": sum(decoding.steps)})
    trials = scored_again(fair, chosen)
    assert [trial["scores"]["fid"] for trial in trials] == [5.0] * 3
    assert [trial["searched"] for trial in trials] == [trial["scores"] for trial in chosen]
    assert [trial["decoding"] for trial in trials] == [trial["decoding"] for trial in chosen]
    again = scored_again(Trials(tmp_path / "front.jsonl", bowl), chosen)
    assert again == trials, "it was scored a third time"
    halted = Trials(tmp_path / "halted.jsonl", bowl, stopped=lambda: len(halted.done) == 1)
    assert [trial["scores"] is None for trial in scored_again(halted, chosen)] == [False, True, True]


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
    front_points = [(trial["scores"]["seconds_per_image"], trial["scores"]["fid"]) for trial in front(trials)]
    bettered = {
        point for point in pairs for rival in pairs if rival != point and rival[0] <= point[0] and rival[1] <= point[1]
    }
    assert sorted(front_points) == sorted(set(pairs) - bettered)
    assert front_points == sorted(front_points)


@pytest.fixture
def words(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("STRAIT_CACHE", str(tmp_path / "cache"))
    torch.jit.script(Network()).save(str(tmp_path / "network.pt"))
    words = ["sweep", "--data", str(photo_folder), "--features", str(tmp_path / "network.pt"), "--samples", "6"]
    random_model(CONFIG, CLASSES).save_pretrained(tmp_path / "model")
    words += ["--model", str(tmp_path / "model")]  # a small one, whose images are there in a moment
    return [*words, "--budget", "0.005", "--output", str(tmp_path / "out"), "--json"]


def test_the_command(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["trials"]
    assert report["best"]["searched"]["fid"] == min(trial["scores"]["fid"] for trial in report["trials"])
    assert report["front"][-1] == report["best"]
    # Scored on the samples of the next seed: by hand, one of them.
    model = StraIT.from_pretrained(tmp_path / "model")
    about = report["front_provenance"]["samples"]
    assert about["seed"] == report["provenance"]["samples"]["seed"] + 1 == 1
    network = open_features(str(tmp_path / "network.pt"), torch.device("cpu"))
    judge = Judge(model, open_images(words[2], "validation"), network, "validation")
    decoding = from_dict(DecodingConfig, report["best"]["decoding"], "decoding")
    fair = judge.scores(SampleSet(6, 1, decoding, about["batch_size"]))
    assert report["best"]["scores"]["fid"] == pytest.approx(fair["fid"], rel=1e-9)
    assert report["best"]["scores"]["fid"] != report["best"]["searched"]["fid"]
    spent = sum(trial["scores"]["seconds"] for trial in report["trials"][:-1])
    assert spent < 0.3  # the last trial may pass the budget, none begins after it
    (picture,) = (tmp_path / "out").glob("*.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    (page,) = (tmp_path / "out").glob("*.md")
    text = page.read_text()
    assert "| seconds an image | Fréchet distance | Fréchet distance, in the search |" in text
    about = report["provenance"]
    for value in ("lanczos", "centre square", "seed 0", "class i modulo", about["model"], about["versions"]["torch"]):
        assert value in text, value
    for value in (about["features"]["digest"], about["reference"]["fingerprint"], about["hardware"]["device"]):
        assert value in text, value
    assert main(words) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["trials"] == report["trials"], "the budget was spent again"
    assert again["front"] == report["front"], "the front was scored a third time"


def test_trials_of_other_data_or_batches_are_other_trials(
    words: list[str], photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is written under one provenance has been measured under it."""
    words = [*words, "--budget", "0.0001"]  # the first setting alone
    other_data = tmp_path / "others"
    shutil.copytree(photo_folder, other_data)
    next(other_data.rglob("*.jpg")).unlink()
    for more in ([], ["--data", str(other_data)], ["--batch-size", "3"], ["--seed", "1"]):
        assert main([*words, *more]) == 0
        report = json.loads(capsys.readouterr().out)
        assert len(report["trials"]) == 1
        assert report["trials"][0]["scores"]["samples"] == report["provenance"]["samples"]["count"]
        assert report["provenance"]["reference"]["images"] == (39 if str(other_data) in more else 40)
    for kind in ("trials-*.jsonl", "front-*.jsonl", "*.md", "*.json", "*.png"):
        assert len(list((tmp_path / "out").glob(kind))) == 4, kind
    fids = {
        json.loads(line)["scores"]["fid"]
        for file in (tmp_path / "out").glob("trials-*.jsonl")
        for line in file.read_text().splitlines()
    }
    assert len(fids) >= 3, "batches alone change no score"


def test_ctrl_c_ends_a_sweep_that_goes_on_the_next_time(words: list[str], tmp_path: Path) -> None:
    """A real process, stopped by the signal in the midst of its trials."""
    words = [sys.executable, "-m", "strait.cli", *words, "--budget", "60"]
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    trials = tmp_path / "out"
    while process.poll() is None and not any(len(f.read_text().splitlines()) > 1 for f in trials.glob("trials-*")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGINT, messages
    assert "Traceback" not in messages
    assert "saved; rerun the command to resume" in messages
    (file,) = trials.glob("trials-*")
    done = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(done) >= 2
    (page,) = trials.glob("*.json")
    assert json.loads(page.read_text())["trials"] == done
    assert "not finished: rerun the command to resume" in page.with_suffix(".md").read_text()
