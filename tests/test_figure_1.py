"""Figure 1 as a command: published scores are the paper's, ours come from the files of other verbs, both are drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from strait.cli import main
from strait.decoding.config import DecodingConfig
from strait.model.strait import random_model
from strait.tables import plots
from strait.tables.figure_1 import measured, published
from test_bad_input import CONFIG
from test_tables import PRINTED, Network

matplotlib = pytest.importorskip("matplotlib", reason="plots need matplotlib (the extra eval)")


def test_published_scores_are_the_papers() -> None:
    """Those of Table 2 as it is printed, and of times the two of appendix D."""
    columns, rows = PRINTED[2]
    steps, fid = columns.index("steps"), columns.index("fid")
    printed = {name: (int(str(cells[steps]).strip("*")), cells[fid]) for name, cells in rows.items()}
    entries = [entry for entry in published() if entry.steps is not None]
    assert {entry.name: (entry.steps, entry.fid) for entry in entries} == printed
    assert all((entry.source, entry.seconds) == ("Table 2", None) for entry in entries)
    timed = [entry for entry in published() if entry.seconds is not None]
    assert [(entry.name, entry.seconds, entry.fid) for entry in timed] == [
        ("StraIT on a V100", 0.39, 3.96),
        ("StraIT on a TPUv3", 0.18, 3.96),
    ]
    assert len(published()) == len(entries) + len(timed) == 15


def result(row: str, fid: float, seconds: float, steps: list[int], network: str = "a.pt", seed: int = 0) -> dict:
    scores = {"fid": fid, "fid_error": fid / 10, "seconds_per_image": seconds}
    about = {"samples": {"decoding": {"steps": steps}}, "features": {"network": network}}
    return {"row": row, "seed": seed, "scores": scores, "provenance": about}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(name: str, content: Any) -> str:
        (tmp_path / name).write_text(json.dumps(content))
        return str(tmp_path / name)

    return write


@pytest.mark.parametrize("network", ["a.pt", "inception-v3-compat"])
def test_what_is_drawn_is_what_was_measured_and_what_is_published(
    network: str, write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = []
    as_png = plots._png
    monkeypatch.setattr(plots, "_png", lambda figure: (figures.append(figure), as_png(figure))[1])
    rows = [result("18+6", 40.0, 0.25, [18, 6], network), result("3+21", 50.0, 0.5, [3, 21], network)]
    file = write("table-7.json", {"table": 7, "rows": rows})
    picture = tmp_path / "figure-1.png"
    assert main(["figure", "1", file, "--output", str(picture)]) == 0
    output = capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    axes = figures[0].axes
    drawn = [line.get_xydata().tolist() for axis in axes for line in axis.get_lines() if len(line.get_xydata())]
    assert [[24.0, 40.0], [24.0, 50.0]] in drawn
    assert [[0.25, 40.0], [0.5, 50.0]] in drawn
    assert [[float(e.steps), e.fid] for e in published() if e.steps] in drawn
    assert [[0.39, 3.96], [0.18, 3.96]] in drawn
    names = [text.get_text() for axis in axes for text in axis.texts]
    assert {"18+6", "3+21", "ADM", "CDM", "LDM", "ViT-VQ + VIM", "StraIT on a V100"} <= set(names)
    # Distances on other features share no axis with the paper's.
    assert len(axes) == (2 if network == "inception-v3-compat" else 4)
    assert any("published" in axis.get_title() for axis in axes)
    line = next(line for line in output.splitlines() if line.startswith("18+6"))
    assert line.split() == ["18+6", "24", "0.2500", "40", "±", "4", "measured"]
    assert next(line for line in output.splitlines() if line.startswith("ADM")).endswith("paper, Table 2")


def test_files_of_every_verb_that_scores(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Really written by them, of a tiny model; the points have the figures that they printed."""
    monkeypatch.setenv("STRAIT_CACHE", str(tmp_path / "cache"))
    torch.jit.script(Network()).save(str(tmp_path / "network.pt"))
    model = random_model(CONFIG, ["a", "b"])
    model.decoding = DecodingConfig(steps=(2, 2), temperature=(1.0, 1.0))
    model.save_pretrained(tmp_path / "model")
    words = ["--model", tmp_path / "model", "--data", photo_folder, "--features", tmp_path / "network.pt", "--json"]

    def said_by(*verb: Any) -> dict[str, Any]:
        assert main([str(word) for word in (*verb, *words)]) == 0
        return json.loads(capsys.readouterr().out)

    table = said_by("table", "3", "--output", tmp_path / "tables", "--samples", "6", "--search-samples", "0")
    sweep = said_by("sweep", "--output", tmp_path / "sweep", "--samples", "6", "--budget", "0.0001")
    evaluation = said_by("evaluate", "generation", "--samples", "6")
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    (page,) = (tmp_path / "sweep").glob("*.json")
    files = [tmp_path / "tables" / "table-3.json", page, tmp_path / "evaluation.json"]
    assert main(["figure", "1", *map(str, files), "--output", str(tmp_path / "one.png"), "--json"]) == 0
    points = json.loads(capsys.readouterr().out)["measured"]
    scores = [
        *(row["scores"] for row in table["rows"]),
        *(trial["scores"] for trial in sweep["front"]),
        evaluation,
    ]
    assert [(point["fid"], point["seconds"]) for point in points] == [
        (score["fid"], score["seconds_per_image"]) for score in scores
    ]
    assert [point["steps"] for point in points[-1:]] == [4]
    assert {point["network"] for point in points} == {"network.pt"}
    assert main(["figure", "1", str(files[0]), "--output", str(tmp_path / "one.png")]) == 2
    assert "exists and differs" in capsys.readouterr().err


def test_a_row_alone_and_several_seeds(write: Any) -> None:
    (alone,) = measured(Path(write("row.json", result("15+9", 3.0, 1.0, [15, 9]))))
    assert (alone.name, alone.steps, alone.error) == ("15+9", 24, 0.3)
    rows = [result("18+6", 40.0, 0.25, [18, 6], seed=seed) for seed in range(2)]
    points = measured(Path(write("table.json", {"rows": rows})))
    assert [point.name for point in points] == ["18+6, seed 0", "18+6, seed 1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"rows": [{"row": "R", "seed": 0, "scores": {"psnr": 20.0}, "provenance": {}}]}, "holds no score of generat"),
        ([1, 2], "holds no score of generat"),
        (
            {"rows": [result("a", 1, 1, [2]), result("b", 1, 1, [2], "b.pt")]},
            "a.pt and b.pt, which cannot be compared",
        ),
    ],
)
def test_what_cannot_be_drawn_is_a_line(
    content: Any, message: str, write: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["figure", "1", write("x.json", content), "--output", str(tmp_path / "x.png")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["6"], "figure: 6 is drawn by strait edit transfer"),
        (["3"], "figure: 3 is drawn by python docs/figures.py"),
        (["13", "x.json"], "figure: 13 is not one of 1, 2, 3"),
        (["1"], "RESULTS is needed"),
        (["1", "nowhere.json"], "there is no file nowhere.json"),
        (["1", "nowhere.json", "--output", "x.jpg"], "x.jpg must end in .png"),
    ],
)
def test_a_figure_that_is_asked_for_wrongly(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["figure", *words]) == 2
    assert message in capsys.readouterr().err
