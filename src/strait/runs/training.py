"""Train a model's parts in order, each resumed where it stopped, and write them to the model folder.

M/config.json, classes.txt, PART.safetensors    the model
M/classifier.safetensors                        the classifier, if the tokenizer's perceptual loss uses one
M/runs/config.yaml                              all settings of training
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
from strait.data.job import Job
from strait.data.rows import DataError
from strait.data.sources import ClassesOf, has_split, open_images
from strait.data.streamed import open_stream, stream_has_split
from strait.data.token_cache import TokenCache
from strait.model.config import ModelError
from strait.model.hub import find_folder
from strait.model.memory import refuse_what_cannot_fit
from strait.runs.announcements import closing, estimate, opening
from strait.runs.budget import Budget
from strait.runs.classifier_part import ClassifierPart
from strait.runs.part import ModelRun, Part
from strait.runs.part_tokens import TokensOf, cached_tokens, load_tokenizer
from strait.runs.run_folder import is_finished, runnable, settled_classes, settled_config, write_part
from strait.runs.starting_weights import keep_tokenizer, require_fit
from strait.runs.tokenizer_part import TokenizerPart
from strait.runs.transformer_part import TransformerPart
from strait.runtime.lock import locked
from strait.runtime.messages import say_once
from strait.runtime.ranks import Stopped
from strait.training.loop import train

_LOCK = "lock"


class ModelTraining:
    """The training of a model folder.

    Args:
        folder: of the model; created if it is missing.
        config: settings; None uses those in the folder.
        data: the value of ``--data``.
        job: the device, the processes and the stop request; all processes read the folder, only the first writes.
        init_from: a model whose weights parts start from.
        budget: minutes of training for all parts together, converted to numbers of steps; None uses the settings'.
        keeps_tokenizer: whether to keep the tokenizer of ``init_from`` unchanged and train only the transformers.
        partly: start only the tokenizer from ``init_from``, and only with the weights that fit.

    Raises:
        ModelError: if the folder does not fit the settings, or ``init_from`` is missing for ``keeps_tokenizer``.
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
        partly: bool = False,
    ) -> None:
        if keeps_tokenizer and init_from is None:
            raise ModelError("--keep-tokenizer: name the model with this tokenizer with --init-from")
        self.keeps_tokenizer, self.job = keeps_tokenizer, job
        self.config = runnable(settled_config(folder, config), job.device)
        self.budget = None if budget is None else Budget(folder, budget, job.ranks)
        streaming, unlabelled = self.config.data.streaming, self.config.data.unlabelled
        open_source = open_stream if streaming else open_images
        photographs = open_source(data, "train", unlabelled)
        if self.config.data.balance and not photographs.classes:
            raise DataError("data.balance: these pictures have no classes; set it to 0")
        validation = None
        if (stream_has_split if streaming else has_split)(data, "validation"):
            validation = ClassesOf(open_source(data, "validation", unlabelled), photographs.classes)
        classes = settled_classes(folder, list(photographs.classes))
        init_folder = None if init_from is None else find_folder(init_from)
        self.model = ModelRun(folder, str(data), photographs, validation, classes, init_folder, partly, job)

    def parts(self) -> list[str]:
        """The parts to train, in order: the classifier first if the settings use one, and no tokenizer if it is
        kept."""
        return list(self.config.model.parts[1:] if self.keeps_tokenizer else self.config.parts)

    def run(self, names: Sequence[str]) -> bool:
        """Train parts, in the given order; False if the job was stopped before the last was finished.

        Raises:
            ModelError: if the model has no such part, a part that it needs is missing, or a folder does not fit the
                settings.
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
                # Otherwise networks compiled before in this process would count as changed shapes.
                torch.compiler.reset()
                if is_finished(model.folder, name, _steps(config, name)):
                    print(f"{name}: already finished", file=sys.stderr)
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
                    whole = self.budget is None and len(part.networks()) == 1
                    say = partial(self._say_time, config, names[names.index(name) :]) if whole else None
                    done = train(trainee, model.run_folder(network), _steps(config, name), config.run, job, say)
                    weights.update({f"{prefix}{key}": value for key, value in trainee.weights().items()})
                    if not done:
                        break
                    print(closing(model, network), file=sys.stderr, flush=True)
                if done or len(part.networks()) == 1:  # a cascade is useless until both networks are finished
                    steps = _steps(config, name) if done else None
                    job.ranks.on_first(partial(write_part, model.folder, name, weights, steps))
                if not done:
                    return False
            job.stop.agreed(job.ranks)
            return True
        return False

    def _say_time(self, config: Config, parts: Sequence[str], seconds: float) -> None:
        line = estimate(config, len(self.model.classes), parts, seconds)
        if line is not None and self.job.ranks.first:
            print(f"\n{line}", file=sys.stderr, flush=True)

    def encode(self) -> TokenCache | None:
        """The token cache of the training images, built if it is missing; None if the job was stopped first."""
        tokenizer = load_tokenizer(self.model, self.config)
        tokens = TokensOf("train", self.model.photographs, self.config.data)
        cache = None
        with self._locked():
            cache = cached_tokens(self.model, tokenizer, tokens, self.config)
        if self.job.ranks.size > 1:  # a single process has already reported it
            self.job.bad_files.summary()
        return cache

    def _refuse(self, names: Sequence[str]) -> None:
        """Refuse parts that cannot be trained, before anything is written."""
        init_from = None if self.model.partly else self.model.init_from
        for part in names:
            if self.keeps_tokenizer and part in ("classifier", "tokenizer"):
                raise ModelError(f"--keep-tokenizer: the {part} cannot be trained with this option; omit one of them")
            if part not in ("classifier", *self.parts()):
                raise ModelError(f"{part}: this model has no such part; its parts are {', '.join(self.parts())}")
            if init_from is not None and (init_from / f"{part}.safetensors").exists():
                if part != "classifier":
                    require_fit(init_from, part, self.config.model)
            elif init_from is not None and self.keeps_tokenizer:
                say_once(f"--init-from: {init_from} has no {part}; it starts from random weights")
            elif init_from is not None and not (part == "classifier" and len(names) > 1):
                # Models are shared without their classifier, which then starts from random weights.
                raise ModelError(f"--init-from: {init_from} has no {part}")
            if part != "classifier":  # small enough for any machine
                refuse_what_cannot_fit(self.config.model, part, self.job.device)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Keep other processes out of the run folder. ``Stopped`` ends the context, and the number of unreadable files
        is reported."""
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
                if job.ranks.size == 1:  # a collective call would hang if another process has failed
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
    """Remove a folder with nothing but the lock: training was refused before it wrote anything."""
    runs = folder / "runs"
    if runs.is_dir() and [path.name for path in runs.iterdir()] == [_LOCK]:
        (runs / _LOCK).unlink()
        with suppress(OSError):
            runs.rmdir()
            folder.rmdir()


def _steps(config: Config, part: str) -> int:
    return getattr(config, f"{part}_training").steps
