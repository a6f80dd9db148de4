"""Every table end to end on tiny random models: what is really decoded is what the paper says was.

What is expected is written out here once more, from the paper, and held against the steps that come out of the
decoding loop: how many of each level, how many tokens each left masked, for how many images, with or without the null
class. Training alone is left out: a row's model has random weights.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from strait.cli import main
from strait.config import Config
from strait.decoding.config import DecodingConfig
from strait.model.strait import StraIT, random_model
from strait.tables import search
from strait.tables.row_models import Trainer
from strait.tables.rows import TableRun
from strait.types import DecodingStep, Level
from test_tables import Network

TOP, BOTTOM = 36, 144
"""Tokens of the grids of ``TINY``: 6x6 and 12x12, on which the paper's steps need not shrink."""

TINY = {
    "image_size": 48,
    "tokenizer": {
        "channels": 8,
        "multipliers": [1, 1, 2, 2],
        "res_blocks": 1,
        "stem_blocks": 1,
        "codebook_size": 64,
        "code_dim": 4,
    },
    "top": {"layers": 2, "width": 32, "mlp": 40, "heads": 4},
    "bottom": {"layers": 1, "width": 16, "mlp": 16, "heads": 2},
    "upsampler": {"layers": 1, "width": 16, "mlp": 16, "heads": 2},
    "decoding": {
        "steps": [5, 3, 2, 2],
        "temperature": [2, 2, 2, 2],
        "guidance": 1.5,
        "guidance_ramp": "linear",
        "guidance_start": 0.5,
        "quality": 0.9,
    },
    "tokenizer_training": {"bottom_dropout": 0.25, "adversarial": {"weight": 0.0}, "perceptual": "none"},
}
SAMPLES, BATCH = 6, 4


@dataclass(frozen=True)
class Decoded:
    """What the images of one row were decoded with.

    Args:
        row: its name.
        tokenizer: its kind.
        steps: of each level.
        guidance: scale.
        schedule: of both levels.
        lengths: tokens of each level.
        samples: different images.
        trained: further settings that the row's model was to be trained with.
    """

    row: str
    tokenizer: str = "vqgan2-r"
    steps: tuple[int, ...] = (18, 6)
    guidance: float = 0.0
    schedule: str = "cosine"
    lengths: tuple[int, ...] = (TOP, BOTTOM)
    samples: int = SAMPLES
    trained: tuple[float, ...] = ()


# Without anything said, a row is StraIT, 18+6 steps, unguided, cosine.
EXPECTED: dict[str, list[Decoded]] = {
    "2": [
        Decoded("MaskGIT, 8 steps", "vqgan", (8,), lengths=(TOP,)),
        Decoded("MaskGIT large, 12 steps", "vqgan", (12,), lengths=(TOP,)),
        Decoded("MaskGIT large, 36 steps", "vqgan", (36,), lengths=(TOP,)),
        Decoded("StraIT, 18+6 steps"),
    ],
    "3": [Decoded("StraIT, no guidance"), Decoded("StraIT, guidance 0.2", guidance=0.2)],
    "4": [
        Decoded("StraIT-U", steps=(18, 6, 9, 3), guidance=0.2, lengths=(TOP, BOTTOM, 4 * TOP, 4 * BOTTOM)),
    ],
    "5": [
        Decoded("MaskGIT, short (f of the top)", "vqgan", (12,), lengths=(TOP,)),
        Decoded("MaskGIT, long (f of the bottom)", "vqgan", (12,), lengths=(BOTTOM,)),
    ],
    "6": [
        Decoded("VQGAN2-C", "vqgan2-c-deep", trained=(0.0,)),
        Decoded("VQGAN2-R", trained=(0.0,)),
        Decoded("VQGAN2-R, bottom dropped (ours)", trained=(0.25,)),
        Decoded("cascade, top alone", "cascade", (18,), lengths=(TOP,), trained=(0.0,)),
        Decoded("cascade", "cascade", trained=(0.0,)),
    ],
    "7": [
        Decoded(f"{top}+{bottom}", steps=(top, bottom))
        for top, bottom in ((3, 21), (6, 18), (9, 15), (12, 12), (15, 9), (18, 6), (21, 3))
    ],
    "8": [Decoded("shared", trained=(64, 64)), Decoded("separate", trained=(64, 16))],
    "9": [
        Decoded("original", trained=(0.0,)),
        Decoded("augmented, 10%", trained=(0.1,)),
        Decoded("augmented, 30%", trained=(0.3,)),
        Decoded("augmented, 50%", trained=(0.5,)),
    ],
    "10": [
        Decoded("logarithmic", schedule="logarithmic"),
        Decoded("square root", schedule="square_root"),
        Decoded("linear", schedule="linear"),
        Decoded("cosine", schedule="cosine"),
        Decoded("square", schedule="square"),
        Decoded("cubic", schedule="cubic"),
        Decoded("exponential", schedule="exponential"),
    ],
}
EXPECTED["equal-cost"] = [
    replace(row, row=row.row + suffix, guidance=guidance)
    for suffix, guidance in (("", 0.0), (", guided", 1.5))
    for row in (
        Decoded("StraIT", steps=(5, 3), trained=(0.0,)),
        Decoded("StraIT, bottom dropped (ours)", steps=(5, 3), trained=(0.25,)),
        Decoded("MaskGIT, short", "vqgan", (12,), lengths=(TOP,), trained=(0.0,)),
        Decoded("MaskGIT, long", "vqgan", (12,), lengths=(BOTTOM,), trained=(0.0,)),
        Decoded("MaskGIT, large", "vqgan", (12,), lengths=(TOP,), trained=(0.0,)),
        Decoded("StraIT on VQGAN2-C", "vqgan2-c-deep", steps=(5, 3), trained=(0.0,)),
        Decoded("cascade", "cascade", steps=(5, 3), trained=(0.0,)),
        Decoded("cascade, top alone", "cascade", steps=(5,), lengths=(TOP,), trained=(0.0,)),
    )
]

TRAINED: dict[str, Callable[[Config], tuple[float, ...]]] = {
    "6": lambda config: (config.tokenizer_training.bottom_dropout,),
    "8": lambda config: config.tokenizer.codebook_sizes,
    "9": lambda config: (config.bottom_training.condition_augmentation,),
    "equal-cost": lambda config: (config.tokenizer_training.bottom_dropout,),
}
"""What the rows of a table train with differently."""

FUSION = {
    "vqgan2-r": "decoder.fusion.bottom.weight",
    "vqgan2-c-deep": "decoder.fusion.join.weight",
    "vqgan": "decoder.fusion.stem.0.weight",
    "cascade": "fine.decoder.fusion.stem.0.weight",
}
"""A parameter that only a tokenizer of that kind has: R must not be compared with R."""

RATIOS: dict[str, Callable[[float, int], float]] = {
    "linear": lambda r, n: 1 - r,
    "square": lambda r, n: 1 - r * r,
    "cubic": lambda r, n: 1 - r * r * r,
    "square_root": lambda r, n: 1 - math.sqrt(r),
    "cosine": lambda r, n: math.cos(math.pi * r / 2),
    "logarithmic": lambda r, n: -math.log(r) / math.log(n),
    "exponential": lambda r, n: 1 - n ** (r - 1),
}


def masked_counts(schedule: str, steps: int, length: int) -> list[int]:
    """Tokens left unknown after each step, by MaskGIT's rule."""
    counts, unknown = [], length
    for step in range(1, steps + 1):
        ratio = min(1, max(1e-6, RATIOS[schedule](step / steps, length)))
        left = math.floor(length * ratio + 1e-5)  # seven eighteenths of 36 are 14, whatever the rounding
        unknown = 0 if step == steps else max(1, min(unknown - 1, left))
        counts.append(unknown)
    return counts


@dataclass
class Recorder:
    """Stands in for decoding: does it, and notes for each row what came out."""

    row: str = ""
    folder: Path = Path()
    trained: dict[str, Config] = field(default_factory=dict)
    models: dict[str, StraIT] = field(default_factory=dict)
    counts: dict[str, dict[str, list[int]]] = field(default_factory=dict)
    images: dict[str, set[tuple[int, int]]] = field(default_factory=dict)
    guidance: dict[str, set[float]] = field(default_factory=dict)
    labelled: dict[str, Counter[bool]] = field(default_factory=dict)
    temperatures: dict[str, set[tuple[float, ...]]] = field(default_factory=dict)

    def train(self, _trainer: Trainer, name: str, config: Config, parts: list[str]) -> Path:
        """In the place of training: a model of that shape with random weights."""
        row, _, seed = name.rpartition("-seed")
        assert seed == "0"
        target = self.folder / f"{len(self.trained)}"
        self.trained[row] = config
        assert parts == list(config.parts)
        random_model(config.model, ["a", "b"]).save_pretrained(target)
        return target

    def steps(self, model: StraIT, found: Iterator[DecodingStep], decoding: DecodingConfig) -> Iterator[DecodingStep]:
        counts: dict[str, list[int]] = {}
        for step in found:
            left = {int(count) for count in step.canvas.masked.sum(1)}
            assert len(left) == 1, "the images of a batch are decoded alike"
            counts.setdefault(step.level, []).append(left.pop())
            yield step
        assert self.counts.setdefault(self.row, counts) == counts, "all batches of a row are decoded alike"
        self.models[self.row] = model
        self.guidance.setdefault(self.row, set()).add(decoding.guidance)
        self.temperatures.setdefault(self.row, set()).add(decoding.temperature)


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder(folder=tmp_path / "models")
    generate, decode, levels = TableRun._generation, StraIT.decoding_steps, StraIT.levels

    def generation(run: TableRun, model: StraIT, row: Any, *rest: Any) -> dict[str, Any]:
        recorder.row = row.name
        return generate(run, model, row, *rest)

    def decoding_steps(
        model: StraIT, labels: torch.Tensor, seed: int, indices: torch.Tensor, decoding: DecodingConfig
    ) -> Iterator[DecodingStep]:
        recorder.images.setdefault(recorder.row, set()).update((seed, int(index)) for index in indices)
        assert (decoding.guidance_ramp, decoding.guidance_start, decoding.quality) == ("constant", 0.0, 1.0)
        yield from recorder.steps(model, decode(model, labels, seed, indices, decoding), decoding)

    def recorded_levels(model: StraIT) -> list[Level]:
        def watched(level: Level) -> Level:
            def bind(condition: Any) -> Any:
                seen = recorder.labelled.setdefault(recorder.row, Counter())
                seen.update((condition.labels >= 0).tolist())
                return level.bind(condition)

            return replace(level, bind=bind)

        return [watched(level) for level in levels(model)]

    monkeypatch.setattr(Trainer, "train", lambda trainer, *rest: recorder.train(trainer, *rest))
    monkeypatch.setattr(TableRun, "_generation", generation)
    monkeypatch.setattr(StraIT, "decoding_steps", decoding_steps)
    monkeypatch.setattr(StraIT, "levels", recorded_levels)
    return recorder


def words(photo_folder: Path, tmp_path: Path, upsampled: bool, more: list[str]) -> list[str]:
    content = TINY if upsampled else {name: value for name, value in TINY.items() if name != "upsampler"}
    if not upsampled:
        decoding = {**TINY["decoding"], "steps": [5, 3], "temperature": [2, 2]}  # type: ignore[dict-item]
        content = {**content, "decoding": decoding}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    torch.jit.script(Network()).save(str(tmp_path / "network.pt"))
    return [
        *("--config", str(tmp_path / "tiny.yaml"), "--data", str(photo_folder), "--json"),
        *("--features", str(tmp_path / "network.pt"), "--output", str(tmp_path / "tables")),
        *("--samples", str(SAMPLES), "--batch-size", str(BATCH), "--search-samples", "0", *more),
    ]


@pytest.mark.parametrize("table", EXPECTED)
def test_a_table_decodes_what_the_paper_did(
    table: str,
    recorder: Recorder,
    photo_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("STRAIT_CACHE", str(tmp_path / "cache"))
    assert main(["table", table, *words(photo_folder, tmp_path, table == "4", [])]) == 0
    report = json.loads(capsys.readouterr().out)
    expected = EXPECTED[table]
    assert [row["row"] for row in report["rows"]] == [row.row for row in expected]
    for row, result in zip(expected, report["rows"], strict=True):
        model, counts = recorder.models[row.row], list(recorder.counts[row.row].values())
        assert model.config.tokenizer.kind == row.tokenizer, row.row
        assert FUSION[row.tokenizer] in model.tokenizer.state_dict(), row.row
        assert [len(level) for level in counts] == list(row.steps), row.row
        for left, steps, length in zip(counts, row.steps, row.lengths, strict=True):
            assert left == masked_counts(row.schedule, steps, length), row.row
        assert recorder.guidance[row.row] == {row.guidance}, row.row
        # Guidance is a second pass, of the null class; without any there is none.
        assert set(recorder.labelled[row.row]) == ({True, False} if row.guidance else {True}), row.row
        assert recorder.images[row.row] == {(0, index) for index in range(row.samples)}, row.row
        assert result["scores"]["samples"] == row.samples
        if row.trained:
            assert TRAINED[table](recorder.trained[row.row]) == row.trained, row.row


def test_the_large_maskgit_is_large(
    recorder: Recorder,
    photo_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As deep as the small one, and wider as 2,048 is than 768; the published one has an eighth of the codes."""
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("STRAIT_CACHE", str(tmp_path / "cache"))
    assert main(["table", "2", *words(photo_folder, tmp_path, False, [])]) == 0
    small, large, straits = (
        recorder.trained[name] for name in ("MaskGIT, 8 steps", "MaskGIT large, 12 steps", "StraIT, 18+6 steps")
    )
    assert (small.top.layers, large.top.layers, straits.top.layers) == (1, 1, 2)
    assert (small.top.width, large.top.width, straits.top.width) == (32, 88, 32)
    assert (small.top.mlp, large.top.mlp, straits.top.mlp) == (24, 64, 40)
    assert (small.tokenizer.codebook_size, large.tokenizer.codebook_size) == (8, 64)


@pytest.mark.parametrize(("more", "steps"), [([], [18, 6]), (["--search-steps"], [5, 3])])
def test_a_search_leaves_alone_what_a_row_holds(
    more: list[str],
    steps: list[int],
    recorder: Recorder,
    photo_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Temperatures are searched; the steps of Table 8 only where that is asked for."""
    pytest.importorskip("matplotlib")
    monkeypatch.setenv("STRAIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(search, "TEMPERATURES", (1.0, 4.0))
    monkeypatch.setattr(search, "SHARES", (0.25, 0.5))
    recorded: list[tuple[int, ...]] = []

    def steps_of(
        self: Recorder, _model: StraIT, decoding_steps: Iterator[DecodingStep], decoding: DecodingConfig
    ) -> Any:
        recorded.append(decoding.steps)
        self.temperatures.setdefault(self.row, set()).add(decoding.temperature)
        yield from decoding_steps

    monkeypatch.setattr(Recorder, "steps", steps_of)
    all_words = words(photo_folder, tmp_path, False, more)
    all_words[all_words.index("--search-samples") + 1] = "4"
    assert main(["table", "8", *all_words]) == 0
    report = json.loads(capsys.readouterr().out)
    tried = set(recorded)
    assert tuple(steps) in tried
    assert tried == {(18, 6)} if not more else {sum(allocation) for allocation in tried} == {8} and len(tried) > 1
    for row in report["rows"]:
        assert len(recorder.temperatures[row["row"]]) > 3
        about = row["provenance"]
        best = about["best_inception_score_with"]
        assert best["steps"] == about["samples"]["decoding"]["steps"]
        # Of its trials, the settings for the best IS are those with the best IS; likewise for the best FID.
        (file,) = (tmp_path / "tables" / "table-8").glob(f"{row['row']}-*.trials.jsonl")
        trials = [json.loads(line) for line in file.read_text().splitlines()]
        scores = {json.dumps(trial["decoding"], sort_keys=True): trial["scores"] for trial in trials}
        chosen = scores[json.dumps(best, sort_keys=True)]
        reached = [s["inception_score"] for s in scores.values()]
        assert (
            chosen["inception_score"]
            >= scores[json.dumps(about["samples"]["decoding"], sort_keys=True)]["inception_score"]
        )
        assert min(reached) <= chosen["inception_score"] <= max(reached)
