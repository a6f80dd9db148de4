"""The paper's tables as experiments: what rows differ in, what is trained once, and what a verdict says."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from strait.cli import main
from strait.config import Config, config_names, config_path, read_config
from strait.decoding.config import DecodingConfig
from strait.evaluation.cost import describe
from strait.model.strait import StraIT
from strait.tables import speed
from strait.tables.countdown import Countdown
from strait.tables.methods import as_named, at_base_size
from strait.tables.report import distance_title, markdown, means, verdicts
from strait.tables.rows import batch_perplexities
from strait.tables.table import (
    EQUAL_COST,
    NUMBERS,
    Difference,
    Mean,
    Row,
    Table,
    find_table,
    starting_point,
    steps_here,
    unchanged,
)

TINY = read_config(config_path("tiny-imagenet64-cpu"))


def differences(one: object, other: object, where: str = "") -> set[str]:
    """The names of the settings in which two configurations differ."""
    if dataclasses.is_dataclass(one) and type(one) is type(other):
        names: set[str] = set()
        for field in dataclasses.fields(one):
            names |= differences(getattr(one, field.name), getattr(other, field.name), f"{where}.{field.name}")
        return names
    return set() if one == other else {where.removeprefix(".")}


@pytest.mark.parametrize("number", NUMBERS)
def test_rows_of_a_table_make_configurations(number: int) -> None:
    table = find_table(number)
    assert table.number == number
    names = [row.name for row in table.rows]
    assert len(set(names)) == len(names)
    for row in table.rows:
        for base in ("tiny-imagenet64-cpu", "smoke", "imagenet256"):
            config = row.config(read_config(config_path(base)))
            assert isinstance(config, Config)
            if row.steps is not None and number != 4:
                assert len(row.steps) == (row.levels or len(config.model.grids))
        if not row.ours:
            assert (row.configuration, row.change) == (None, unchanged)
            assert row.paper


@pytest.mark.parametrize("name", [*NUMBERS, EQUAL_COST])
def test_a_row_of_a_named_model_is_its_named_configuration(name: int | str) -> None:
    """At the paper's size; but for what a row changes besides, and a bottom's training where there is no bottom."""
    base = read_config(config_path("imagenet256"))
    for row in find_table(name).rows:
        if row.configuration is not None:
            named = read_config(config_path(row.configuration))
            differing = differences(row.config(base), named)
            allowed = {"bottom_training.steps"} if named.bottom is None else set()
            if "(ours)" in row.name:
                allowed.add("tokenizer_training.bottom_dropout")
            assert differing <= allowed, row.name


@pytest.mark.parametrize("name", [name for name in config_names() if "imagenet256" in name])
def test_at_its_own_scale_a_named_configuration_is_itself(name: str) -> None:
    named = read_config(config_path(name))
    same = as_named(read_config(config_path("imagenet256")), name)
    assert same.model == named.model
    assert same.decoding == named.decoding


def test_rows_differ_in_what_their_table_is_about_and_in_nothing_else() -> None:
    changed = {
        (number, row.name): differences(TINY, row.config(TINY))
        for number in (1, 6, 7, 8, 9, 10)
        for row in find_table(number).rows
    }
    for number in (1, 6):
        # R and C as the paper has them differ in their fusion alone; R with the bottom dropped is the configuration.
        assert TINY.tokenizer_training.bottom_dropout > 0
        assert changed[number, "VQGAN2-R"] == {"tokenizer_training.bottom_dropout"}
        assert changed[number, "VQGAN2-C"] == {"tokenizer.kind", "tokenizer_training.bottom_dropout"}
        assert changed[number, "VQGAN2-R, bottom dropped (ours)"] == set()
    # The two VQGANs of a cascade have no bottom to drop.
    assert changed[6, "cascade"] == {"tokenizer.kind", "tokenizer_training.bottom_dropout"}
    assert changed[8, "shared"] == set()
    assert changed[8, "separate"] == {"tokenizer.bottom_codebook_size"}
    assert changed[9, "original"] == set()
    for share in (10, 30, 50):
        assert changed[9, f"augmented, {share}%"] == {"bottom_training.condition_augmentation"}
    for number in (7, 10):
        assert all(changed[number, row.name] == set() for row in find_table(number).rows)


def test_single_scale_rows_have_the_grids_of_either_level() -> None:
    assert TINY.model.grids == ((4, 4), (8, 8))
    assert as_named(TINY, "maskgit-imagenet256-8192").model.grids == ((4, 4),)
    assert as_named(TINY, "maskgit-imagenet256-f8").model.grids == ((8, 8),)


def test_a_named_configuration_shrinks_with_the_one_it_is_asked_at() -> None:
    """As much as that one is smaller than imagenet256, setting by setting."""
    small, large = (as_named(TINY, f"maskgit-imagenet256{name}") for name in ("", "-1.3b"))
    # Half of 5 layers, rounded to the even one; 3072 / 5120 of 768; 16 / 32 of 6 heads; 1024 / 8192 of 1,024 codes.
    assert (small.top.layers, small.top.width, small.top.mlp, small.top.heads) == (2, 192, 461, 3)
    assert (small.tokenizer.codebook_size, small.tokenizer.code_dim) == (128, 128)
    # 2048 / 768 of 192; three heads do not divide it.
    assert (large.top.layers, large.top.width, large.top.mlp, large.top.heads) == (2, 512, 1229, 2)
    assert (large.tokenizer.codebook_size, large.tokenizer.code_dim) == (1024, 16)
    assert small.data == TINY.data
    assert small.tokenizer_training.steps == TINY.tokenizer_training.steps


# As the paper prints them: columns, then rows by our names for them; None where a cell is empty. The row of Table 3
# without guidance is that of Table 2. Words stand as they are printed, and "5632 ± 2.0" is a figure with its spread.
FID, BOTH = ("fid",), ("fid", "inception_score")
Cell = float | str | None
PRINTED: dict[int, tuple[tuple[str, ...], dict[str, tuple[Cell, ...]]]] = {
    1: (
        ("rfid", "psnr", "perplexity_batch_tokens", "perplexity_batch_top", "perplexity_batch_bottom"),
        {
            "VQGAN (f of the top)": (2.04, 19.9, "5893 ± 2.1", None, None),
            "VQGAN (f of the bottom)": (0.81, 24.3, "6387 ± 2.8", None, None),
            "VQGAN2-C": (0.65, 24.9, None, "405 ± 1.3", "6428 ± 4.1"),
            "VQGAN2-R": (0.67, 24.8, None, "5632 ± 2.0", "1644 ± 1.9"),
            "VQGAN2-R, bottom dropped (ours)": (None, None, None, None, None),
        },
    ),
    2: (
        ("parameters", "steps", *BOTH, "precision", "recall"),
        {
            "VQVAE-2": (13.5e9, "5120", 31.11, 45, 0.36, 0.57),
            "VQGAN, autoregressive": (1.3e9, "256", 15.78, 78.3, None, None),
            "RQ-Transformer": (3.8e9, "256", 7.55, 137, None, None),
            "ViT-VQ + VIM": (1.7e9, "1024", 4.17, 175.1, None, None),
            "Improved DDPM": (280e6, "250", 12.26, None, 0.70, 0.62),
            "ADM": (554e6, "250", 10.94, 101.0, 0.69, 0.63),
            "VQ-Diffusion": (518e6, "100", 11.89, None, None, None),
            "LDM": (400e6, "250", 10.56, 103.49, 0.71, 0.62),
            "CDM": (1e9, "250", 4.88, 158.71, None, None),
            "MaskGIT, 8 steps": (227e6, "8", 6.18, 182.1, 0.80, 0.51),
            "MaskGIT large, 12 steps": (1.3e9, "12", 5.84, 180.3, 0.73, 0.54),
            "MaskGIT large, 36 steps": (1.3e9, "36", 5.71, 185.9, 0.73, 0.56),
            "StraIT, 18+6 steps": (863e6, "12*", 3.96, 214.1, 0.74, 0.62),
        },
    ),
    3: (
        ("parameters", "steps", *BOTH),
        {
            "Improved VQ-Diffusion": (510e6, "100", 4.83, None),
            "Token-Critic": (391e6, "18x2", 4.69, 174.5),
            "DPC": (391e6, "180", 4.45, 244.8),
            "f-DM": (302e6, "250", 6.8, None),
            "Draft-and-Revise": (1.4e9, "68x(1+4)", 3.41, 224.6),
            "StraIT, no guidance": (863e6, "12*", 3.96, 214.1),
            "StraIT, guidance 0.2": (863e6, "18+6", 3.36, 259.3),
        },
    ),
    4: (
        ("base_steps", "upsampling_steps", *BOTH),
        {
            "Token-Critic": ("36", "-", 6.80, 182.1),
            "ADM": ("250", "-", 23.24, 58.06),
            "ADM-U": ("250", "250", 9.96, 121.78),
            "ADM-U-G": ("250", "250", 3.85, 221.72),
            "StraIT-U": ("12", "12", 3.82, 253.6),
        },
    ),
    5: (
        ("multiply_adds", "training_cost", *BOTH),
        {
            "MaskGIT, short (f of the top)": (48.2e9, 1, 6.05, 203),
            "MaskGIT, long (f of the bottom)": (216.5e9, 2.6, 6.61, 177.7),
        },
    ),
    6: (
        ("fid", "difference"),
        {
            "VQGAN2-C": (6.11, None),
            "VQGAN2-R": (3.96, -2.15),
            "VQGAN2-R, bottom dropped (ours)": (None, None),
            "cascade, top alone": (6.05, None),
            "cascade": (5.71, -0.34),
        },
    ),
    7: (
        (*BOTH, "speedup"),
        {
            "3+21": (5.4, 193, 0.6),
            "6+18": (5.6, 192, 0.7),
            "9+15": (4.5, 201.3, 0.9),
            "12+12": (4.21, 202.7, 1),
            "15+9": (4.05, 214, 1.2),
            "18+6": (3.97, 214.1, 1.5),
            "21+3": (4.0, 209, 1.6),
        },
    ),
    8: (BOTH, {"shared": (3.96, 214.1), "separate": (3.89, 216.3)}),
    9: (
        BOTH,
        {
            "original": (3.96, 214.1),
            "augmented, 10%": (4.03, 212.8),
            "augmented, 30%": (4.05, 208.7),
            "augmented, 50%": (3.99, 213.5),
        },
    ),
    10: (
        BOTH,
        {
            "logarithmic": (11.32, 167.3),
            "square root": (7.89, 187.5),
            "linear": (5.13, 200.3),
            "cosine": (3.96, 214.1),
            "square": (4.13, 209.5),
            "cubic": (4.97, 203.1),
            "exponential": (4.09, 212.7),
        },
    ),
}


def test_a_comparison_at_the_base_size_has_no_upsampler() -> None:
    config = read_config(config_path("imagenette128-cpu"))
    assert (config.model.upsampler is None, len(config.decoding.steps)) == (False, 4)
    base = at_base_size(config)
    assert (base.model.upsampler, base.model.grids) == (None, config.model.grids[:2])
    assert (base.decoding.steps, base.decoding.temperature) == ((12, 6), (3.0, 3.0))
    assert at_base_size(base) == base


def test_rows_of_two_levels_stop_before_an_upsampler() -> None:
    decoding = DecodingConfig(steps=(12, 6, 6, 3), temperature=(3.0, 2.0, 1.0, 0.5))
    grids = ((4, 4), (8, 8), (8, 8), (16, 16))
    start, fixed = starting_point(decoding, grids, Row("two", steps=(18, 6)))
    assert (start.steps, start.temperature, fixed) == ((12, 4), (3.0, 2.0), {"steps"})
    start, _ = starting_point(decoding, grids, Row("four", steps=(18, 6, 9, 3)))
    assert (len(start.steps), start.temperature) == (4, decoding.temperature)


@pytest.mark.parametrize("number", NUMBERS)
def test_the_figures_of_a_table_are_the_papers(number: int) -> None:
    """Each in its own row and column, and no others."""
    columns, rows = PRINTED[number]
    printed = {
        name: {column: cell for column, cell in zip(columns, cells, strict=True) if cell is not None}
        for name, cells in rows.items()
    }
    assert {row.name: cells_of(row) for row in find_table(number).rows} == printed


def cells_of(row: Row) -> dict[str, Cell]:
    spread = {name: f"{row.paper[name]:.0f} ± {value}" for name, value in row.spread.items()}
    return {**row.paper, **spread, **row.quoted}


def test_a_page_says_why_rows_were_decoded_with_fewer_steps() -> None:
    def page(number: int, steps: list[int]) -> str:
        table = find_table(number)
        decoding = {**dataclasses.asdict(DecodingConfig()), "steps": steps}
        row = {"row": table.rows[0].name, "seed": 0, "scores": {}, "provenance": {"samples": {"decoding": decoding}}}
        return markdown(table, [row], None, [])

    assert "all steps shrink in proportion: 3+21 is decoded as 2+14\n" in page(7, [2, 14])
    assert "shrink" not in page(7, [3, 21])
    assert "18+6 is decoded as 12+4" in page(10, [12, 4])


def test_a_countdown_counts_rows_that_are_still_to_be_measured(capsys: pytest.CaptureFixture[str]) -> None:
    now = [100.0]
    countdown = Countdown(["a", "b", "c", "d"], [True, False, False, False], 300.0, lambda: now[0])
    countdown.begin(0)
    countdown.end(0)
    countdown.begin(1)
    now[0] += 360.0
    countdown.end(1)
    countdown.begin(2)
    now[0] += 240.0
    countdown.end(2)
    countdown.begin(3)
    assert capsys.readouterr().err.splitlines() == [
        "row 2 of 4 (b), at least 15 min left",
        "row 3 of 4 (c), about 12 min left",
        "row 4 of 4 (d), about 5 min left",
    ]
    assert Countdown(["a"], [False]).line(0) == "row 1 of 1 (a)"


def test_steps_shrink_with_the_grid() -> None:
    paper = ((16, 16), (32, 32))
    small = ((4, 4), (8, 8))
    assert [steps_here(steps, paper) for steps in ((18, 6), (3, 21))] == [(18, 6), (3, 21)]
    assert [steps_here(steps, small) for steps in ((18, 6), (3, 21), (21, 3))] == [(12, 4), (2, 14), (14, 2)]
    assert steps_here((36,), ((4, 4),)) == (16,)
    assert steps_here((18, 6), ((1, 1), (2, 2))) == (1, 1)


# A top of 4x4 tokens has place for 16 of 24 steps: what a row declares shrinks to two thirds, and what it leaves to
# its named configuration would not.
ON_SMALL_GRIDS: dict[int, list[list[int]]] = {
    2: [[5], [8], [16], [12, 4]],
    3: [[12, 4]] * 2,
    5: [[8], [12]],  # the long sequence has 8x8 tokens
    6: [[12, 4]] * 3 + [[12], [12, 4]],
    7: [[2, 14], [4, 12], [6, 10], [8, 8], [10, 6], [12, 4], [14, 2]],
    8: [[12, 4]] * 2,
    9: [[12, 4]] * 4,
    10: [[12, 4]] * 7,
}


@pytest.mark.parametrize("number", ON_SMALL_GRIDS)
def test_rows_hold_their_steps_at_any_scale(number: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", str(number), "--config", "smoke", "--rows", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["steps"] for row in rows] == ON_SMALL_GRIDS[number]
    assert not any("steps" in row["searched"] for row in rows)


def made_up(rows: dict[str, tuple[float, float]], papers: dict[str, float]) -> tuple[Table, list[dict]]:
    table = Table(5, "made up", tuple(Row(name, {"fid": papers[name]}) for name in rows))
    results = [
        {"row": name, "scores": {"fid": fid, "fid_error": error, "fid_to_reconstructions": -fid}}
        for name, (fid, error) in rows.items()
    ]
    return table, results


def test_a_verdict_counts_pairs_that_hold_lie_within_the_error_and_are_reversed() -> None:
    papers = {"a": 1.0, "b": 2.0, "c": 3.0}
    table, results = made_up({"a": (10, 1), "b": (20, 1), "c": (30, 1)}, papers)
    assert verdicts(table, means(table, results))[0] == "FID: the paper's order holds for all 3 pairs of rows"
    assert verdicts(table, means(table, results), "own.pt")[0].startswith("Fréchet distance: the paper's")
    # a and b differ by 2, with a standard error of sqrt(2): within two of them. c lies below both.
    table, results = made_up({"a": (20, 1), "b": (22, 1), "c": (10, 1)}, papers)
    assert verdicts(table, means(table, results))[0] == (
        "FID: the paper's order holds for 0 of 3 pairs of rows, lies within the error for 1, "
        "is reversed for 2 (a against c; b against c)"
    )


def test_an_error_is_of_sampling_and_of_seeds() -> None:
    table, results = made_up({"a": (10, 3), "b": (1, 1)}, {"a": 1.0, "b": 2.0})
    results.append({"row": "a", "scores": {"fid": 14, "fid_error": 5, "fid_to_reconstructions": 0}})
    averages = means(table, results)
    # Sampling: (9 + 25) / 4; seeds: a variance of 8 over 2.
    assert averages["a"]["fid"] == Mean(12, pytest.approx((34 / 4 + 8 / 2) ** 0.5))
    assert averages["b"]["fid"] == Mean(1, 1)
    assert averages["a"]["fid_to_reconstructions"] == Mean(-5, pytest.approx(5))


def test_a_verdict_says_where_an_error_is_unknown() -> None:
    table, results = made_up({"a": (10, 1), "b": (20, 1), "c": (30, 1)}, {"a": 1.0, "b": 2.0, "c": 3.0})
    del results[2]["scores"]["fid_error"]
    assert verdicts(table, means(table, results))[0] == (
        "FID: the paper's order holds for 1 of 3 pairs of rows, lies within the error for 0, is reversed for 0, "
        "is undecided for 2 (error unknown)"
    )
    # Of several seeds, their spread is an error.
    results.append({"row": "c", "scores": {"fid": 30.1, "fid_to_reconstructions": -30.1}})
    assert verdicts(table, means(table, results))[0] == "FID: the paper's order holds for all 3 pairs of rows"


@pytest.mark.parametrize(
    ("top", "error", "says"),
    [
        (500.0, 10.0, "holds"),
        (430.0, 10.0, "lies within the error"),  # errors of 10 each may add up to 20, and 30 is below twice that
        (370.0, 10.0, "lies within the error"),
        (300.0, 10.0, "does not hold"),
        (500.0, None, "holds (error unknown)"),
        (300.0, None, "does not hold (error unknown)"),
    ],
)
def test_a_claim_counts_from_two_errors_on(top: float, error: float | None, says: str) -> None:
    errors = {} if error is None else {"perplexity_top_error": error, "perplexity_bottom_error": error}
    scores = {"perplexity_top": top, "perplexity_bottom": 400.0, **errors}
    table = find_table(1)
    averages = means(table, [{"row": "VQGAN2-R", "scores": scores}])
    assert verdicts(table, averages) == [f"the top of VQGAN2-R is its complex level: {says}"]


@pytest.mark.parametrize(
    ("maskgit_share", "says"), [(0.48, "holds"), (0.55, "lies within the error"), (0.73, "does not hold")]
)
def test_methods_at_equal_cost_are_compared_by_recognised_images(maskgit_share: float, says: str) -> None:
    """Shares of 0.6 ± 0.03 and 0.04: together 0.05, so a difference counts from 0.1 on."""
    shares = {"StraIT, guided": (0.6, 0.03), "MaskGIT, long, guided": (maskgit_share, 0.04), "cascade": (0.1, 0.0)}
    scores = {
        row: {"recognised": share, "recognised_error": error, "samples": 100} for row, (share, error) in shares.items()
    }
    table = find_table(EQUAL_COST)
    averages = means(table, [{"row": row, "scores": values} for row, values in scores.items()])
    assert verdicts(table, averages) == [f"recognised: StraIT, guided is ahead of MaskGIT, long, guided: {says}"]


def test_the_papers_own_figures_bear_out_its_claims() -> None:
    """The paper has them of the batches of training alone."""
    table = find_table(1)
    papers = {
        row.name: {name: Mean(value, row.spread.get(name, 0.0)) for name, value in row.paper.items()}
        for row in table.rows
    }
    assert [line for line in verdicts(table, papers) if "complex level" in line] == [
        "the bottom of VQGAN2-C is its complex level, in each batch of training: holds",
        "the top of VQGAN2-R is its complex level, in each batch of training: holds",
    ]


def test_a_difference_stands_beside_its_row_with_the_errors_of_both() -> None:
    table, results = made_up({"a": (10, 3), "b": (4, 4)}, {"a": 6.0, "b": 4.0})
    table = dataclasses.replace(table, differences=(Difference("difference", "fid", {"b": "a"}),))
    averages = means(table, results)
    assert averages["b"]["difference"] == Mean(-6, 5)
    assert "difference" not in averages["a"]
    assert "| -6 ± 5 |" in markdown(table, results, None, [])


def test_steps_stand_in_words_beside_the_papers() -> None:
    result = {
        "row": "StraIT-U",
        "scores": {"fid": 1.0},
        "provenance": {"samples": {"decoding": {**dataclasses.asdict(DecodingConfig()), "steps": [18, 6, 9, 3]}}},
    }
    (line,) = [line for line in markdown(find_table(4), [result], None, []).splitlines() if "| StraIT-U |" in line]
    assert line.startswith("| StraIT-U | 18+6 (12) | 9+3 (12) |")
    (line,) = [line for line in markdown(find_table(2), [], None, []).splitlines() if "| CDM |" in line]
    assert line.startswith("| CDM | (1.0G) | (250) |")
    text = markdown(find_table(2), [], None, [])
    assert "| (12*) |" in text
    assert "12*: the paper counts a pass through the whole model, top and bottom, as one step" in text


def test_what_is_not_inceptions_is_not_called_fid() -> None:
    table, results = made_up({"a": (10, 1), "b": (20, 1)}, {"a": 1.0, "b": 2.0})
    own_page = markdown(table, results, None, [], "network.pt")
    assert "| Fréchet distance (paper: FID) |" in own_page
    assert "use the features of network.pt, the paper's those of Inception" in own_page
    theirs = markdown(table, results, None, [], "inception-v3-compat")
    assert "| FID |" in theirs
    assert "use the features" not in theirs
    assert (distance_title("network.pt"), distance_title("inception-v3-compat")) == ("Fréchet distance", "FID")


class Network(nn.Module):
    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = nn.functional.adaptive_avg_pool2d(images, (2, 2)).flatten(1) / 255
        return features, features[:, :5] * 20


@pytest.fixture
def words(photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What every call says: a table of the smallest models, judged by a network of two lines."""
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("STRAIT_CACHE", str(tmp_path / "cache"))
    torch.jit.script(Network()).save(str(tmp_path / "network.pt"))
    words = ["--config", "smoke", "--data", str(photo_folder), "--features", str(tmp_path / "network.pt"), "--json"]
    words += ["--output", str(tmp_path / "tables"), "--samples", "24", "--search-samples", "8"]
    for part in ("tokenizer", "top", "bottom"):
        words += [f"--{part}_training.steps", "6"]
    words += ["--tokenizer_training.codebook.start", "0", "--decoding.steps", "[2,2]", "--run.sample_every", "0"]
    return words


def test_a_table_end_to_end(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tables" / "models").mkdir(parents=True)
    (tmp_path / "tables" / "models" / "notes.txt").write_text("a file of the user's is no model")
    assert main(["table", "9", *words]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["row"] for row in report["rows"]] == [row.name for row in find_table(9).rows]
    folders = {row["row"]: Path(row["folder"]) for row in report["rows"]}
    weights = {
        part: {(folder / f"{part}.safetensors").read_bytes() for folder in folders.values()}
        for part in ("tokenizer", "top", "bottom")
    }
    # The rows share a tokenizer and a top; each has a bottom of its own.
    assert [len(weights[part]) for part in ("tokenizer", "top", "bottom")] == [1, 1, 4]
    logs = [folder / "runs" / "tokenizer" / "log.jsonl" for folder in folders.values()]
    assert len({log.stat().st_mtime_ns for log in logs}) == 1, "the tokenizer was trained more than once"
    for row in report["rows"]:
        decoding = row["provenance"]["samples"]["decoding"]
        assert decoding["guidance"] == 0
        trials = list((tmp_path / "tables" / "table-9").glob(f"{row['row'].split(',')[0]}*.trials.jsonl"))
        assert trials
    text = (tmp_path / "tables" / "table-9.md").read_text()
    assert "(3.96)" in text
    assert "Fréchet distance: the paper's order" in text
    for row in report["rows"]:  # each with the hash of its own model
        assert f"{row['row']}, seed 0: {row['provenance']['model']}" in text
    assert (tmp_path / "tables" / "table-9.png").read_bytes().startswith(b"\x89PNG")

    trained = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    assert main(["table", "9", *words]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == report["rows"]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")} == trained


def test_tables_share_models_and_a_single_level_can_be_judged_alone(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*words, "--search-samples", "0"]
    assert main(["table", "6", *words]) == 0
    six = json.loads(capsys.readouterr().out)
    rows = {row["row"]: row for row in six["rows"]}
    assert rows["cascade"]["folder"] == rows["cascade, top alone"]["folder"]
    assert rows["cascade"]["scores"]["fid"] != rows["cascade, top alone"]["scores"]["fid"]
    assert len(rows["cascade, top alone"]["provenance"]["samples"]["decoding"]["steps"]) == 1
    assert main(["table", "8", *words]) == 0
    eight = {row["row"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    ours = rows["VQGAN2-R, bottom dropped (ours)"]
    assert eight["shared"]["folder"] == ours["folder"] != rows["VQGAN2-R"]["folder"]
    assert eight["shared"]["scores"]["fid"] == ours["scores"]["fid"]


def test_a_table_of_tokenizers(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", "1", *words, "--seeds", "2"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [(row["row"], row["seed"]) for row in report["rows"]] == [
        (row.name, seed) for row in find_table(1).rows for seed in (0, 1)
    ]
    assert not any((Path(row["folder"]) / "top.safetensors").exists() for row in report["rows"])
    psnr = [row["scores"]["psnr"] for row in report["rows"][:2]]
    assert psnr[0] != psnr[1]
    assert report["means"]["VQGAN (f of the top)"]["psnr"]["value"] == pytest.approx(sum(psnr) / 2)
    assert any("the top of VQGAN2-R is its complex level: " in line for line in report["verdicts"])


@pytest.mark.slow
@pytest.mark.parametrize("number", [2, 3, 4, 5, 7, 10])
def test_the_other_tables_run(number: int, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--search-samples", "0"]
    if number in (3, 4):  # the third is of two levels, with an upsampler or without
        more += [
            "--upsampler.layers",
            "1",
            "--upsampler.width",
            "32",
            "--upsampler.mlp",
            "64",
            "--upsampler.heads",
            "2",
        ]
        more += ["--upsampler_training.steps", "4", "--upsampler_training.batch_size", "4"]
        more += ["--decoding.steps", "[2,2,2,2]", "--decoding.temperature", "[1,1,1,1]"]
    assert main(["table", str(number), *words, *more]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["row"] for row in report["rows"]] == [row.name for row in find_table(number).rows if row.ours]
    assert all(set(find_table(number).columns) <= set(means) for means in report["means"].values())


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["table", "11"], "table: 11 is not one of 1, 2"),
        (["table", "8"], "--config: the rows of this table are trained"),
        (
            ["table", "4", "--config", "smoke"],
            "--config: table 4 needs StraIT's own tokenizer and an upsampler, "
            "as in imagenet512, imagenette128-cpu, nature64-cpu\n",
        ),
        (["table", "4"], "give a configuration: imagenet512, imagenette128-cpu, nature64-cpu"),
        (["table", "2", "--config", "cascade-imagenet256"], "table 2 needs StraIT's own tokenizer"),
        (["table", "6", "--config", "maskgit-imagenet256"], "table 6 needs two levels of tokens, as in cascade-"),
        (["table", "7", "--config", "maskgit-imagenet256", "--rows"], "table 7 needs two levels of tokens"),
        (["table", "3", "--random-weights", "--config", "smoke"], "--random-weights: only table 7"),
        (["table", "7", "--random-weights"], "measures a configuration; give one, such as imagenet256"),
        (["table", "7", "--random-weights", "--rows", "--config", "smoke"], "pass either --rows or --random-weights"),
        (["table", "7", "--dtype", "bfloat16"], "--dtype: only for --random-weights"),
        (["table", "7", "--config", "smoke", "--model", "M"], "pass either --config or --model"),
        (["table", "7", "--budget", "5"], "--budget: nothing is trained without --config"),
        (["table", "7", "--tokenizer-budget", "5"], "--tokenizer-budget: only for a table that trains tokenizers and"),
        (["table", "1", "--config", "smoke", "--tokenizer-budget", "5"], "--tokenizer-budget: only for a table that"),
        (["table", "5", "--config", "smoke", "--tokenizer-budget", "5"], "--tokenizer-budget: also give --budget"),
        (
            ["table", "5", "--config", "smoke", "--budget", "5", "--tokenizer-budget", "0"],
            "--tokenizer-budget: 0.0 must be above 0 minutes",
        ),
        (["evaluate", "generation", "--grid", "x.png"], "--grid"),
        (["evaluate", "reconstruction", "--steps", "8+4"], "--steps"),
        (["evaluate", "--json"], "evaluate: say what to evaluate: reconstruction or generation"),
        (["table", "7", "--seeds", "0"], "--seeds: 0 must be at least 1"),
        (["table", "7", "--search-samples", "2"], "--search-samples: 2 must be 0 or at least 4"),
        (["sweep", "--budget", "0"], "--budget: 0.0 must be above 0 minutes"),
    ],
)
def test_what_cannot_be_done_is_said(
    more: list[str], message: str, photo_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    torch.jit.script(Network()).save(str(tmp_path / "network.pt"))
    words = [*more, "--data", str(photo_folder), "--features", str(tmp_path / "network.pt")]
    assert main(words) == 2
    assert message in capsys.readouterr().err


def test_the_speed_of_table_7_needs_no_weights(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither data nor training: seven allocations of the paper's 24 steps, here on 16 and 64 tokens."""
    monkeypatch.setattr(speed, "_ROUNDS", 1)
    words = [
        "table",
        "7",
        "--config",
        "smoke",
        "--random-weights",
        "--json",
        "--batch-size",
        "2",
    ]
    assert main(words) == 0
    report = json.loads(capsys.readouterr().out)
    rows = report["rows"]
    assert [tuple(row["steps"]) for row in rows] == [(2, 14), (4, 12), (6, 10), (8, 8), (10, 6), (12, 4), (14, 2)]
    assert [row["paper"]["speedup"] for row in rows] == [0.6, 0.7, 0.9, 1, 1.2, 1.5, 1.6]
    assert (report["batch"], report["dtype"]) == (2, "float32")
    top, bottom = (
        describe(read_config(config_path("smoke")).model, 1000)["parts"][part]["multiply_adds"]
        for part in ("top", "bottom")
    )
    base = rows[3]
    for row in rows:
        adds = row["steps"][0] * top + row["steps"][1] * bottom
        assert row["multiply_adds_per_image"] == pytest.approx(adds)
        assert row["speedup_by_multiply_adds"] == pytest.approx(base["multiply_adds_per_image"] / adds)
        assert row["speedup"] == pytest.approx(base["seconds_per_image"] / row["seconds_per_image"])
        assert row["seconds_per_image"] > 0


def test_perplexities_of_batches_are_those_of_the_end_of_training(tmp_path: Path) -> None:
    log = tmp_path / "runs" / "tokenizer" / "log.jsonl"
    log.parent.mkdir(parents=True)
    values = [1000.0] * 27 + [10.0, 14.0, 18.0]
    lines = [{"step": 10 * place, "perplexity_batch_top": value} for place, value in enumerate(values)]
    log.write_text("".join(json.dumps(line) + "\n" for line in [{"step": 0, "loss": 1.0}, *lines]))
    assert batch_perplexities(tmp_path) == {"perplexity_batch_top": 14.0, "perplexity_batch_top_error": 4.0}
    log.unlink()
    assert batch_perplexities(tmp_path) == {}
    row = Row("VQGAN2-R", {"perplexity_batch_top": 5632}, spread={"perplexity_batch_top": 2.0})
    table = Table(1, "made up", (row,), ("perplexity_batch_top",), tokenizer_alone=True)
    scores = {"perplexity_batch_top": 14.0, "perplexity_batch_top_error": 4.0}
    text = markdown(table, [{"row": "VQGAN2-R", "scores": scores}], None, [])
    assert "| VQGAN2-R | 14 ± 4 (5,632 ± 2) |" in text


def test_rows_of_a_model_that_serves_them_all_are_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a configuration the shipped model's: its own shape, its own settings but for those that rows hold."""
    assert main(["table", "3", "--rows", "--json", "--samples", "50000"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    model = StraIT.from_pretrained()
    cost = describe(model.config, len(model.classes))
    for row, guidance in zip(rows, (0.0, 0.2), strict=True):
        assert row["parameters"] == cost["parameters"]
        assert row["multiply_adds"] == sum(cost["parts"][part]["multiply_adds"] for part in ("top", "bottom"))
        assert (row["guidance"], row["samples"], row["schedule"]) == (guidance, 50000, model.decoding.schedule)
        assert tuple(row["steps"]) == steps_here((18, 6), model.config.grids)


def test_rows_for_people_say_at_which_scale_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["table", "2", "--config", "smoke", "--rows"]) == 0
    text = capsys.readouterr().out
    assert "named configurations are scaled by the ratio of smoke" in text
    assert "relative to the paper" not in text
    assert main(["table", "8", "--config", "imagenet256", "--rows", "--search-steps"]) == 0
    assert "searched for rows that do not fix them: steps, temperature" in capsys.readouterr().out


def test_the_score_at_the_best_fid_has_its_own_error() -> None:
    scores = {"inception_score": 5.0, "inception_score_std": 1.0}
    scores |= {"inception_score_at_best_fid": 4.0, "inception_score_at_best_fid_std": 2.0}
    averages = means(find_table(3), [{"row": "StraIT, no guidance", "scores": scores}])["StraIT, no guidance"]
    assert averages["inception_score"].error == pytest.approx(1 / math.sqrt(10))
    assert averages["inception_score_at_best_fid"].error == pytest.approx(2 / math.sqrt(10))
