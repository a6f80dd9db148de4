"""Train a model's parts in order, each from where it stopped, and let the model folder grow.

M/config.json, classes.txt, PART.safetensors    the model
M/runs/config.yaml                              every setting it was trained with
M/runs/PART/                                    checkpoints, log.jsonl, samples, finished.json
M/runs/tokens/SPLIT/                            the token cache
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from strait.config import Config, read_config, write_config
from strait.data.classes import ClassNames
from strait.data.config import DataConfig
from strait.data.images import BadFiles, ClassesOf, DataError, ImageSource, has_split, in_order, open_images
from strait.data.token_cache import TokenCache, build_token_cache
from strait.data.training_images import default_workers, training_batches
from strait.experiments.preview import PREVIEW, LevelPreview
from strait.files import write_text
from strait.model import (
    ModelError,
    check_part,
    find_folder,
    load_part,
    read_description,
    save_part,
    write_description,
)
from strait.model_config import PARTS
from strait.tokenizer.build import AnyTokenizer, build_tokenizer
from strait.training.loop import Stop, train
from strait.training.tokenizer_loop import TokenizerTrainee
from strait.training.transformer_loop import TransformerTrainee
from strait.transformer.bottom import BottomTransformer
from strait.transformer.top import TopTransformer

_VALIDATION_IMAGES = 2000


class _Stopped(Exception):
    """The token cache was left unfinished; it is made again the next time."""


class PartTraining:
    """The training of one model folder.

    Args:
        folder: of the model; made if need be.
        config: settings; None takes those the folder was begun with.
        data: what ``--data`` names.
        device: where to train.
        stop: asked after each step.
        init_from: a model whose weights a part starts from.
    """

    def __init__(
        self,
        folder: Path,
        config: Config | None,
        data: str,
        device: torch.device,
        stop: Stop,
        init_from: str | None = None,
    ) -> None:
        self.folder, self.device, self.stop = folder, device, stop
        self.config = _compilable(self._settle(config), device)
        self.source: ImageSource = open_images(data, "train")
        self.validation: ImageSource | None = (
            open_images(data, "validation") if has_split(data, "validation") else None
        )
        if self.validation is not None:
            self.validation = ClassesOf(self.validation, self.source.classes)
        self.bad_files = BadFiles()
        self.classes = self._settle_classes(self.source.classes)
        self.init_from = None if init_from is None else find_folder(init_from)
        self.data_name = str(data)

    def parts(self) -> list[str]:
        """The parts of this model in the order of their training."""
        return [part for part in PARTS if part != "bottom" or self.config.bottom is not None]

    def run(self, parts: list[str]) -> bool:
        """Train some parts; False if stopped before the last was done."""
        for part in parts:
            if part not in self.parts():
                raise ModelError(f"{part}: this model has none; its parts are {', '.join(self.parts())}")
            if self.init_from is not None and not (self.init_from / f"{part}.safetensors").exists():
                raise ModelError(f"--init-from: {self.init_from} has no {part}")
        try:
            for part in parts:
                if self.stop.wanted():
                    return False
                if self._finished(part):
                    print(f"{part}: finished already", file=sys.stderr)
                elif not (self._train_tokenizer() if part == "tokenizer" else self._train_transformer(part)):
                    return False
            return True
        except _Stopped:
            return False
        finally:
            self.bad_files.summary()

    def encode(self) -> TokenCache:
        """The token cache of the training images, made if need be."""
        tokenizer = self._load_tokenizer()
        return self._cache(tokenizer, "train", self.source, self.config.data)

    def _settle(self, config: Config | None) -> Config:
        stored = self.folder / "runs" / "config.yaml"
        if not stored.exists():
            if config is None:
                raise ModelError(f"--model: there is no {stored}, which training writes")
            if (self.folder / "config.json").exists():
                raise ModelError(
                    f"--model: {self.folder} holds a model that was not trained here; "
                    f"choose another --model, with --init-from {self.folder} to start from it"
                )
            return config
        before = read_config(stored)
        if config is None:
            return before
        if config.run.seed != before.run.seed:
            raise ModelError(f"run.seed: {self.folder} was begun with {before.run.seed}, not {config.run.seed}")
        for field in dataclasses.fields(config.model):
            mine, theirs = getattr(config.model, field.name), getattr(before.model, field.name)
            if mine != theirs:
                raise ModelError(
                    f"--config: {field.name} differs from what {self.folder} was begun with; "
                    f"choose another --model or leave --config out"
                )
        return config

    def _settle_classes(self, found: ClassNames) -> list[str]:
        names = list(found)
        if (self.folder / "config.json").exists():
            _, before, _ = read_description(self.folder)
            if before != names:
                raise DataError(
                    f"--data: its {len(names)} classes are not the {len(before)} that {self.folder} was begun with"
                )
        return names

    def _begin(self, part: str) -> Path:
        """The part's folder, with the settings written: only once everything that could refuse them has not."""
        write_config(self.folder / "runs" / "config.yaml", self.config)
        write_description(self.folder, self.config.model, self.classes, self.config.decoding)
        run_folder = self.folder / "runs" / part
        run_folder.mkdir(parents=True, exist_ok=True)
        return run_folder

    def _steps(self, part: str) -> int:
        return getattr(self.config, f"{part}_training").steps

    def _finished(self, part: str) -> bool:
        try:
            note = json.loads((self.folder / "runs" / part / "finished.json").read_text())
            if note["steps"] < self._steps(part) or not (self.folder / f"{part}.safetensors").exists():
                return False
        except (OSError, ValueError, KeyError, TypeError):
            return False
        return part == "tokenizer" or note.get("tokenizer") == file_hash(self.folder / "tokenizer.safetensors")

    def _finish(self, part: str, weights: dict[str, Tensor], done: bool) -> None:
        save_part(self.folder, part, weights)
        if part == "tokenizer":
            self._set_aside_others_tokens()
        if done:
            note = {"steps": self._steps(part), "tokenizer": file_hash(self.folder / "tokenizer.safetensors")}
            write_text(self.folder / "runs" / part / "finished.json", json.dumps(note))

    def _set_aside_others_tokens(self) -> None:
        """Transformers of another tokenizer must not be taken for this one's."""
        digest = file_hash(self.folder / "tokenizer.safetensors")
        for part in ("top", "bottom"):
            note, weights = self.folder / "runs" / part / "tokenizer.txt", self.folder / f"{part}.safetensors"
            if weights.exists() and note.exists() and note.read_text() != digest:
                aside = weights.with_name(f"{part}-of-{note.read_text()}.safetensors")
                weights.replace(aside)
                print(f"the {part} was trained on another tokenizer; it is now {aside}", file=sys.stderr)

    def _start_weights(self, part: str, module: torch.nn.Module) -> None:
        if self.init_from is not None:
            check_part(self.init_from, part, module)
            load_part(self.init_from, part, module)

    def _train_tokenizer(self) -> bool:
        config = self.config
        torch.manual_seed(config.run.seed)
        tokenizer = build_tokenizer(config.tokenizer)
        self._start_weights("tokenizer", tokenizer)
        workers = default_workers(config.data, self.device, os.cpu_count() or 1)
        stage1 = config.tokenizer_training

        def batches(step: int):
            return training_batches(
                self.source, config.image_size, stage1.batch_size, config.data, config.run.seed, step, workers
            )

        shown = self.validation if self.validation is not None else self.source
        spread = [index * len(shown) // PREVIEW for index in range(min(PREVIEW, len(shown)))]
        preview = next(in_order(shown, config.image_size, PREVIEW, spread), None)
        if preview is None or not len(preview.labels):
            preview = next(batches(0))
        trainee = TokenizerTrainee(
            tokenizer,
            stage1,
            config.run,
            config.image_size,
            batches,
            preview.images(self.device)[:PREVIEW],
            self.bad_files,
            self.device,
            pretrained=self.init_from is not None,
        )
        run_folder = self._begin("tokenizer")
        done = train(trainee, "tokenizer", run_folder, stage1.steps, config.run, self.stop)
        self._finish("tokenizer", trainee.weights(), done)
        return done

    def _load_tokenizer(self) -> AnyTokenizer:
        tokenizer = build_tokenizer(self.config.tokenizer)
        path = self.folder / "tokenizer.safetensors"
        if not path.exists():
            raise ModelError(
                f"{self.folder} has no tokenizer yet; make it with: "
                f"strait train tokenizer --data {self.data_name} --model {self.folder}"
            )
        check_part(self.folder, "tokenizer", tokenizer)
        load_part(self.folder, "tokenizer", tokenizer)
        return tokenizer.to(self.device).eval()

    def _cache(
        self, tokenizer: AnyTokenizer, split: str, source: ImageSource, data: DataConfig, limit: int | None = None
    ) -> TokenCache:
        made_from = {
            "split": split,
            "tokenizer": file_hash(self.folder / "tokenizer.safetensors"),
        }
        count = (len(source) if limit is None else min(limit, len(source))) * data.cache_variants

        def progress(images: int) -> None:
            bar.update(images)
            if self.stop.wanted():
                raise _Stopped

        with tqdm(total=count, desc=f"encoding {split}", unit="image", dynamic_ncols=True, delay=1) as bar:
            return build_token_cache(
                self.folder / "runs" / "tokens" / split,
                source,
                tokenizer.encode,
                self.config.image_size,
                data,
                made_from,
                self.device,
                self.bad_files,
                limit,
                progress=progress,
            )

    def _train_transformer(self, part: str) -> bool:
        config, level = self.config, PARTS.index(part) - 1
        tokenizer = self._load_tokenizer()
        run_folder = self._begin(part)
        self._refuse_other_tokenizer(part, run_folder)
        cache = self._cache(tokenizer, "train", self.source, config.data)
        validation = None
        if self.validation is not None:
            plain = dataclasses.replace(config.data, cache_variants=1)
            validation = self._cache(tokenizer, "validation", self.validation, plain, _VALIDATION_IMAGES)
        sizes, grids = config.tokenizer.codebook_sizes, config.model.grids
        torch.manual_seed(config.run.seed)
        if level == 0:
            transformer = TopTransformer(config.top, sizes[0], len(self.classes), grids[0])
        else:
            assert config.bottom is not None
            transformer = BottomTransformer(config.bottom, sizes[1], sizes[0], len(self.classes), grids[1], grids[0])
        self._start_weights(part, transformer)
        shown = LevelPreview(transformer, level, tokenizer, validation or cache, config, self.device)
        settings = config.top_training if level == 0 else config.bottom_training
        trainee = TransformerTrainee(transformer, level, settings, config.run, cache, validation, shown, self.device)
        done = train(trainee, part, run_folder, settings.steps, config.run, self.stop)
        self._finish(part, trainee.weights(), done)
        return done

    def _refuse_other_tokenizer(self, part: str, run_folder: Path) -> None:
        """A transformer begun on another tokenizer's tokens cannot go on with these."""
        note, digest = run_folder / "tokenizer.txt", file_hash(self.folder / "tokenizer.safetensors")
        if not note.exists():
            write_text(note, digest)
        elif note.read_text() != digest:
            raise ModelError(
                f"{part} was begun on another tokenizer than the one in {self.folder}; "
                f"delete {run_folder} to train it anew"
            )


def _compilable(config: Config, device: torch.device) -> Config:
    """The settings without compilation where nothing here can compile."""
    if not config.run.compile:
        return config
    try:
        if device.type == "cuda":
            import triton  # noqa: F401
        else:
            from torch._inductor.cpp_builder import get_cpp_compiler

            get_cpp_compiler()
    except Exception:
        print("run.compile: no compiler was found here; training goes on uncompiled, slower", file=sys.stderr)
        return dataclasses.replace(config, run=dataclasses.replace(config.run, compile=False))
    return config


def file_hash(path: Path) -> str:
    """Twelve digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
