"""Measure the rows of a table: train missing parts, search each row's best settings, score; results are stored.

OUTPUT/TABLE/NAME-seedS-KEY.json          a row's scores
OUTPUT/TABLE/NAME-seedS-KEY.trials.jsonl  the trials of its search
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from strait.config import Config
from strait.data.sources import ImageSource, has_split, open_images
from strait.decoding.config import DecodingConfig
from strait.evaluation.features import FeatureNetwork
from strait.evaluation.generation import Judge, SampleSet
from strait.evaluation.reconstruction import evaluate_reconstruction, reconstruction_floor
from strait.model.strait import StraIT
from strait.runtime.files import read_json, write_text
from strait.runtime.ranks import Stopped
from strait.tables.countdown import Countdown
from strait.tables.row_models import Trainer, slug
from strait.tables.search import Trials, best_decoding
from strait.tables.summary import costs
from strait.tables.table import Row, Table, starting_point
from strait.training.pace import mean_seconds

SearchBy = Literal["fid", "fid_to_reconstructions"]


@dataclass(frozen=True)
class Measuring:
    """The extent of the measurements.

    Args:
        seeds: models for each row, trained with different seeds; sets of samples if nothing is trained.
        samples: generated images (or reconstructed photographs) for each row.
        search_samples: images for each setting that a search tries; 0 for no search.
        batch_size: images generated at once.
        search_by: the score that a search minimises: the distance to photographs, as in the paper, or to their
            reconstructions, which excludes errors of the tokenizer.
        search_steps: also search the steps of rows that need not use the paper's.
    """

    seeds: int = 1
    samples: int = 10_000
    search_samples: int = 1000
    batch_size: int = 50
    search_by: SearchBy = "fid"
    search_steps: bool = False


class TableRun:
    """The measurement of a table.

    Args:
        table: to measure.
        output: folder for results.
        network: for features of images.
        measuring: samples and seeds.
        trainer: trains and stores the rows' models.
        config: that the rows start from; None if ``model`` is used for all rows.
        model: for tables whose rows differ only in decoding.
    """

    def __init__(
        self,
        table: Table,
        output: Path,
        network: FeatureNetwork,
        measuring: Measuring,
        trainer: Trainer,
        config: Config | None,
        model: StraIT | None,
    ) -> None:
        self.table, self.network, self.measuring, self.trainer = table, network, measuring, trainer
        self.config, self.model, self.ranks = config, model, trainer.ranks
        self.folder = output / table.slug
        self._judge: tuple[StraIT, int, Judge] | None = None

    @cached_property
    def photographs(self) -> ImageSource:
        """The photographs to compare with: validation photographs if there are any."""
        return open_images(self.trainer.data, self.split)

    @cached_property
    def split(self) -> str:
        """``validation``, or ``train`` if there is no validation split."""
        return "validation" if has_split(self.trainer.data, "validation") else "train"

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the result of every row and seed; ends early if stopped."""
        stop, seeds = self.trainer.stop.wanted, self.measuring.seeds
        chosen = [(row, seed) for row in self.table.rows for seed in range(seeds if row.ours else 0)]
        paths = [self._result_path(row, seed) for row, seed in chosen]
        names = [row.name + (f", seed {seed}" if seeds > 1 else "") for row, seed in chosen]
        countdown = Countdown(names, [path.exists() for path in paths], 60 * (self.trainer.budget or 0.0))
        for place, (row, seed) in enumerate(chosen):
            try:
                self.ranks.stop_if(stop())
                if self.ranks.first:
                    countdown.begin(place)
                result = self._row(row, seed, paths[place])
            except Stopped:
                return
            countdown.end(place)
            yield result

    def _result_path(self, row: Row, seed: int) -> Path:
        config = None if self.config is None else _seeded(row.config(self.config), seed)
        return self.folder / f"{slug(row.name)}-seed{seed}-{self._key(row, config)}.json"

    def floor(self) -> dict[str, Any] | None:
        """The scores of real photographs in the place of ours; None if there is no validation split.

        Raises:
            Stopped: if it was stopped first.
        """
        if self.split == "train":
            return None
        train = open_images(self.trainer.data, "train")
        if not self.table.tokenizer_alone:
            if self._judge is None:
                return None
            judge = self._judge[2]
            # Training photographs in the place of ours; but the network may know them, so others are recognised.
            return judge.floor(train, self.measuring.samples) | judge.recognised_photographs().get("photographs", {})
        assert self.config is not None
        return reconstruction_floor(
            self.photographs,
            train,
            self.config.image_size,
            self.measuring.samples,
            self.network,
            self.trainer.device,
            self.split,
            self.ranks,
            self.trainer.stop.wanted,
        )

    def _row(self, row: Row, seed: int, path: Path) -> dict[str, Any]:
        config = None if self.config is None else _seeded(row.config(self.config), seed)
        result = self.ranks.on_first(lambda: read_json(path, None))
        if result is not None:
            if self._judge is None and not self.table.tokenizer_alone and self.split != "train":
                # For the floor, which is also measured if all rows are done.
                self._judged(self._model_of(result), len(result["provenance"]["samples"]["decoding"]["steps"]))
            return result
        if config is None:
            model, folder = self.model, None
            assert model is not None
        else:
            parts = list(config.tokenizer_parts if self.table.tokenizer_alone else config.parts)
            folder = self.trainer.train(f"{row.name}-seed{seed}", config, parts)
            if folder is None:
                raise Stopped
            model = StraIT.from_pretrained(folder, self.trainer.device)
        result = {"row": row.name, "seed": seed, "folder": None if folder is None else str(folder)}
        if self.table.tokenizer_alone:
            assert folder is not None
            result |= self._reconstructions(model)
            result["scores"] |= batch_perplexities(folder)
        else:
            result |= self._generation(model, row, config, seed if config is None else 0, path)
        result["scores"] |= _costs(model, result, folder)
        self.ranks.on_first(lambda: _write(path, result))
        return result

    def _model_of(self, result: dict[str, Any]) -> StraIT:
        if result["folder"] is None:
            assert self.model is not None
            return self.model
        # By name only, since the output folder can have been moved.
        return StraIT.from_pretrained(self.trainer.models / Path(result["folder"]).name, self.trainer.device)

    def _decoding(self, config: Config | None, model: StraIT | None) -> DecodingConfig:
        """The settings of decoding that a row starts from: the configuration's, since a shared model folder can have
        been trained with other settings of decoding."""
        if config is not None:
            return config.decoding
        assert model is not None
        return model.default_decoding()

    def _key(self, row: Row, config: Config | None) -> str:
        measuring = dataclasses.asdict(self.measuring)
        for name in ("seeds", "batch_size"):  # these do not affect the scores of a row and seed
            del measuring[name]
        if self.table.tokenizer_alone:
            measuring = {"samples": self.measuring.samples}
        about = {
            "measuring": measuring,
            "row": [row.steps, dict(row.decoding), row.levels],
            "features": self.network.digest,
            "photographs": self.ranks.on_first(self.photographs.fingerprint),
        }
        if not self.table.tokenizer_alone:
            about["decoding"] = dataclasses.asdict(self._decoding(config, self.model))
        if config is None:
            assert self.model is not None
            about["model"] = self.model.weights_hash()
        else:
            parts = list(config.tokenizer_parts if self.table.tokenizer_alone else config.parts)
            about["parts"] = self.trainer.part_keys(config, parts)
        return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:8]

    def _reconstructions(self, model: StraIT) -> dict[str, Any]:
        scores = evaluate_reconstruction(
            model,
            self.photographs,
            self.measuring.samples,
            network=self.network,
            split=self.split,
            ranks=self.ranks,
            stopped=self.trainer.stop.wanted,
        )
        return {"provenance": scores.pop("provenance"), "scores": scores}

    def _generation(self, model: StraIT, row: Row, config: Config | None, seed: int, path: Path) -> dict[str, Any]:
        grids = model.config.grids
        start, fixed = starting_point(self._decoding(config, model), grids, row, self.measuring.search_steps)
        judge = self._judged(model, len(start.steps))

        def search_scores(decoding: DecodingConfig) -> dict[str, Any]:
            # Another seed than that of the final samples.
            samples = SampleSet(self.measuring.search_samples, seed + 1, decoding, self.measuring.batch_size)
            return judge.scores(samples, f"{row.name}: searching")

        best = best_for_is = start
        if self.measuring.search_samples:
            trials = Trials(path.with_suffix(".trials.jsonl"), search_scores, self.ranks, self.trainer.stop.wanted)
            best = best_decoding(trials, start, fixed, grids, self.measuring.search_by)
            best_for_is = best
            # The paper sweeps the temperature for the best FID and for the best IS, which needs a network with logits.
            if trials(best)["inception_score"] is not None:
                best_for_is = best_decoding(trials, best, {*fixed, "steps"}, grids, "inception_score")
        samples = SampleSet(self.measuring.samples, seed, best, self.measuring.batch_size)
        scores = judge.scores(samples, row.name)
        provenance = judge.provenance(samples)
        for name in ("", "_std"):
            scores[f"inception_score_at_best_fid{name}"] = scores[f"inception_score{name}"]
        if best_for_is != best:
            is_samples = dataclasses.replace(samples, decoding=best_for_is)
            is_scores = judge.scores(is_samples, f"{row.name}, for its best IS")
            scores |= {name: is_scores[name] for name in ("inception_score", "inception_score_std")}
        provenance["best_inception_score_with"] = dataclasses.asdict(best_for_is)
        scores["reconstruction_fid"] = judge.reconstruction_distance()
        shares = judge.recognised_photographs().get("reconstructions", {})
        scores |= {f"reconstructions_{name}": share for name, share in shares.items()}
        return {"scores": scores, "provenance": provenance}

    def _judged(self, model: StraIT, levels: int) -> Judge:
        """The judge of a model's images from ``levels`` levels, at their size."""
        if self._judge is None or self._judge[0] is not model or self._judge[1] != levels:
            stop = self.trainer.stop.wanted
            judge = Judge(model, self.photographs, self.network, self.split, levels, self.ranks, stop)
            self._judge = (model, levels, judge)
        return self._judge[2]


def _write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(result, indent=1))


def _seeded(config: Config, seed: int) -> Config:
    return dataclasses.replace(config, run=dataclasses.replace(config.run, seed=config.run.seed + seed))


def batch_perplexities(folder: Path) -> dict[str, float]:
    """Perplexities of batches in a tokenizer's training: the mean over the last tenth of its log, and as error their
    standard deviation there, as in the paper."""
    log = folder / "runs" / "tokenizer" / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.exists() else []
    perplexities: dict[str, float] = {}
    for name in dict.fromkeys(key for line in lines for key in line if key.startswith("perplexity_batch_")):
        values = [line[name] for line in lines if name in line]
        values = values[-max(2, len(values) // 10) :]
        perplexities[name] = statistics.fmean(values)
        if len(values) > 1:
            perplexities[f"{name}_error"] = statistics.stdev(values)
    return perplexities


def _costs(model: StraIT, result: dict[str, Any], folder: Path | None) -> dict[str, float]:
    """Parameters and multiply-adds of a row, and the seconds of a training step of its transformers (in the rehearsal
    of a budget, or else in training)."""
    decoding = result["provenance"].get("samples", {}).get("decoding")
    steps = () if decoding is None else decoding["steps"]
    model_costs = costs(model.config, len(model.classes), len(steps) or None)
    transformers = [part for part in model.config.parts if part != "tokenizer"]
    row_costs: dict[str, float] = {name: model_costs[name] for name in ("parameters", "multiply_adds")}
    # Not with an upsampler, whose two levels are one part in the costs.
    if decoding is not None and len(steps) <= model.config.tokenizer.num_levels:
        passes = 2 if decoding["guidance"] else 1
        row_costs["multiply_adds_per_image"] = passes * sum(
            count * model_costs["parts"][part]["multiply_adds"]
            for part, count in zip(transformers, steps, strict=False)
        )
    if folder is not None:
        seconds = [_seconds_per_step(folder, part) for part in transformers]
        if None not in seconds:
            row_costs["seconds_per_training_step"] = sum(filter(None, seconds))
    return row_costs


def _seconds_per_step(folder: Path, part: str) -> float | None:
    settled = read_json(folder / "runs" / "budget.json", {})
    return settled[part]["seconds_per_step"] if part in settled else mean_seconds(folder / "runs" / part)
