"""Train a model's parts in order, each from where it stopped, and let the model folder grow.

M/config.json, classes.txt, PART.safetensors    the model
M/classifier.safetensors                        beside it, where the tokenizer's perceptual loss asks for one
M/runs/config.yaml                              every setting it was trained with
M/runs/PART/                                    checkpoints, log.jsonl, curves.png, samples, finished.json
M/runs/tokens/SPLIT/                            the token cache
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from strait.config import Config
from strait.data.errors import DataError
from strait.data.job import Job
from strait.data.sources import ClassesOf, has_split, open_images
from strait.data.streamed import open_stream, stream_has_split
from strait.data.token_cache import TokenCache
from strait.model.config import ModelError
from strait.model.hub import find_folder
from strait.model.memory import refuse_what_cannot_fit
from strait.runs.budget import Budget
from strait.runs.classifier_part import ClassifierPart
from strait.runs.part import ModelRun, Part
from strait.runs.part_tokens import TokensOf, cached_tokens, load_tokenizer
from strait.runs.run_folder import is_finished, runnable, settled_classes, settled_config, write_part
from strait.runs.said import closing, opening
from strait.runs.starting_weights import keep_tokenizer, require_fit
from strait.runs.tokenizer_part import TokenizerPart
from strait.runs.transformer_part import TransformerPart
from strait.runtime.lock import locked
from strait.runtime.messages import say_once
from strait.runtime.ranks import Stopped
from strait.training.loop import train

_LOCK = "lock"


class ModelTraining:
    """The training of one model folder.

    Args:
        folder: of the model; made where it is missing.
        config: settings; None takes those the folder was begun with.
        data: what ``--data`` names.
        job: where, by which processes and until when; they see the same folder, and only the first writes there.
        init_from: a model whose weights a part starts from.
        budget: minutes of training for all parts together, which become numbers of steps; None keeps the settings'.
        keeps_tokenizer: whether the tokenizer of ``init_from`` stays as it is, and only the transformers are trained.

    Raises:
        ModelError: if the folder is at odds with the settings, or there is no tokenizer to keep.
    """

    def __init__(
        self,
        folder: Path,
        config: Config | None,
        data: str,
        job: Job,
        init_from: str | None = None,
        budget: float | None = None,
        keeps_tokenizer: bool = False,
    ) -> None:
        if keeps_tokenizer and init_from is None:
            raise ModelError("--keep-tokenizer: name the model that has it with --init-from")
        self.keeps_tokenizer, self.job = keeps_tokenizer, job
        self.config = runnable(settled_config(folder, config), job.device)
        self.budget = None if budget is None else Budget(folder, budget, job.ranks)
        streaming = self.config.data.streaming
        opened, apart = (open_stream, stream_has_split) if streaming else (open_images, has_split)
        unlabelled = self.config.data.unlabelled
        photographs = opened(data, "train", unlabelled)
        if self.config.data.balance and not photographs.classes:
            raise DataError("data.balance: these pictures have no classes, and so none is rare; set it to 0")
        validation = None
        if apart(data, "validation"):
            validation = ClassesOf(opened(data, "validation", unlabelled), photographs.classes)
        classes = settled_classes(folder, list(photographs.classes))
        starts_from = None if init_from is None else find_folder(init_from)
        self.model = ModelRun(folder, str(data), photographs, validation, classes, starts_from, job)

    def parts(self) -> list[str]:
        """What is trained of this model, in order: the classifier first if one is asked for, and no tokenizer if one
        is kept."""
        return list(self.config.model.parts[1:] if self.keeps_tokenizer else self.config.parts)

    def run(self, names: Sequence[str]) -> bool:
        """Train some parts; False if stopped before the last was done.

        Raises:
            ModelError: if the model has no such part, if a part that it needs is missing, or if a folder is at odds
                with the settings.
            ValueError: if another process is training the model.
        """
        self._refuse(names)
        model, job = self.model, self.job
        config = self.config if self.budget is None else self.budget.divide(names, self.config)
        with self._locked():
            print(opening(model, config, names, self.budget and self.budget.minutes), file=sys.stderr, flush=True)
            job.ranks.on_first(self._keep_tokenizer)
            for name in names:
                if any(job.stop.agreed(job.ranks)):
                    return False
                # What was compiled for another model's shapes in this process would count as a change of shape.
                torch.compiler.reset()
                if is_finished(model.folder, name, _steps(config, name)):
                    print(f"{name}: finished already", file=sys.stderr)
                    continue
                part = self._part(name)
                part.prepare(config)
                if self.budget is not None:
                    config = self.budget.settle(
                        name, config, [partial(part.trainee, network, config) for network in part.networks()]
                    )
                weights: dict[str, Tensor] = {}
                done = False
                for network, prefix in part.networks().items():
                    trainee = part.trainee(network, config)
                    model.begin(network, config)
                    done = train(trainee, model.run_folder(network), _steps(config, name), config.run, job)
                    weights.update({f"{prefix}{key}": value for key, value in trainee.weights().items()})
                    if not done:
                        break
                    print(closing(model, network), file=sys.stderr, flush=True)
                if done or len(part.networks()) == 1:  # half a cascade cannot be used
                    steps = _steps(config, name) if done else None
                    job.ranks.on_first(partial(write_part, model.folder, name, weights, steps))
                if not done:
                    return False
            job.stop.agreed(job.ranks)
            return True
        return False

    def encode(self) -> TokenCache | None:
        """The token cache of the training images, made where it is missing; None if stopped before it was done."""
        tokenizer = load_tokenizer(self.model, self.config)
        tokens = TokensOf("train", self.model.photographs, self.config.data)
        cache = None
        with self._locked():
            cache = cached_tokens(self.model, tokenizer, tokens, self.config)
        if self.job.ranks.size > 1:  # a single process has said it already
            self.job.bad_files.summary()
        return cache

    def _refuse(self, names: Sequence[str]) -> None:
        """Refuse parts that cannot be trained, before anything is written."""
        init_from = self.model.init_from
        for part in names:
            if self.keeps_tokenizer and part in ("classifier", "tokenizer"):
                raise ModelError(f"--keep-tokenizer: the {part} is not trained then; leave one of them out")
            if part not in ("classifier", *self.parts()):
                raise ModelError(f"{part}: this model has none; its parts are {', '.join(self.parts())}")
            if init_from is not None and (init_from / f"{part}.safetensors").exists():
                if part != "classifier":
                    require_fit(init_from, part, self.config.model)
            elif init_from is not None and self.keeps_tokenizer:
                say_once(f"--init-from: {init_from} has no {part}; it begins from random weights")
            elif init_from is not None and not (part == "classifier" and len(names) > 1):
                # A model is shared without its classifier, which then begins afresh.
                raise ModelError(f"--init-from: {init_from} has no {part}")
            if part != "classifier":  # which is small
                refuse_what_cannot_fit(self.config.model, part, self.job.device)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let no other process write into the run folder. Work that was stopped ends here, and the count of
        unreadable files is said."""
        folder, job = self.model.folder, self.job
        busy = f"--model: another process is training {folder}; wait for it to end, or choose another --model"
        with ExitStack() as stack:

            def lock() -> None:
                stack.enter_context(locked(folder / "runs" / _LOCK, busy))
                stack.callback(_remove_empty, folder)

            job.ranks.on_first(lock)
            try:
                yield
            except Stopped as stopped:
                job.stop.adopt(stopped.signal_number)
            finally:
                if job.ranks.size == 1:  # several have told each other with the log, and may not all be here
                    job.bad_files.summary()

    def _keep_tokenizer(self) -> None:
        if self.keeps_tokenizer and self.model.init_from is not None:
            self.model.folder.mkdir(parents=True, exist_ok=True)
            keep_tokenizer(self.model.init_from, self.model.folder, self.config.model)

    def _part(self, name: str) -> Part:
        if name == "classifier":
            return ClassifierPart(self.model)
        if name == "tokenizer":
            return TokenizerPart(self.model, self.config.tokenizer)
        return TransformerPart(self.model, name)


def _remove_empty(folder: Path) -> None:
    """Leave nothing where training was refused before anything was written."""
    runs = folder / "runs"
    if runs.is_dir() and [path.name for path in runs.iterdir()] == [_LOCK]:
        (runs / _LOCK).unlink()
        with suppress(OSError):
            runs.rmdir()
            folder.rmdir()


def _steps(config: Config, part: str) -> int:
    return getattr(config, f"{part}_training").steps
