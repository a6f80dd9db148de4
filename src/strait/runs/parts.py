"""Train a model's parts in order, each from where it stopped, and let the model folder grow.

M/config.json, classes.txt, PART.safetensors    the model
M/runs/config.yaml                              every setting it was trained with
M/classifier.safetensors                        beside it, where the tokenizer's perceptual loss asks for one
M/runs/PART/                                    checkpoints, log.jsonl, samples, finished.json
M/runs/tokens/SPLIT/                            the token cache
"""

from __future__ import annotations

import copy
import dataclasses
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from strait.config import Config, write_config
from strait.data.config import DataConfig
from strait.data.images import BadFiles
from strait.data.sources import ClassesOf, ImageSource, has_split, open_images
from strait.data.streamed import open_stream, stream_has_split
from strait.data.summary import changes, summary
from strait.data.token_cache import TokenCache
from strait.model.config import ModelError
from strait.model.folder import check_part, load_part, save_part, write_description
from strait.model.hub import find_folder
from strait.model.memory import refuse_what_cannot_fit
from strait.model.parts import build_part
from strait.runs.budget import Budget
from strait.runs.classifier_part import build_classifier, classifier_trainee, load_classifier
from strait.runs.part_tokens import WantedTokens, cached_tokens
from strait.runs.run_folder import (
    forget_finished,
    is_finished,
    note_finished,
    refuse_damaged,
    refuse_other_tokenizer,
    runnable,
    set_aside_others_tokens,
    settled_classes,
    settled_config,
)
from strait.runs.starting_weights import keep_tokenizer, start_from
from strait.runs.tokenizer_part import Photographs, tokenizer_trainee
from strait.runs.transformer_part import Learned, augmentation, transformer_trainee
from strait.runtime.ranks import ALONE, Ranks, Stopped
from strait.tokenizer.build import AnyTokenizer, TrainableTokenizer, build_tokenizer, trainable_networks
from strait.training.classifier_loop import ClassifierTrainee
from strait.training.config import TransformerTrainingConfig
from strait.training.loop import Stop, Trainee, train
from strait.training.tokenizer_loop import TokenizerTrainee
from strait.training.transformer_loop import Augment, TransformerTrainee

_VALIDATION_IMAGES = 2000


class PartTraining:
    """The training of one model folder.

    Args:
        folder: of the model; made if need be.
        config: settings; None takes those the folder was begun with.
        data: what ``--data`` names.
        device: where to train.
        stop: asked after each step.
        init_from: a model whose weights a part starts from.
        budget: minutes of training for all parts together, which settle their steps; None keeps the settings'.
        ranks: the processes that train it together; they see the same folder, and the first alone writes there.
        keeps_tokenizer: whether the tokenizer of ``init_from`` stays as it is, and the transformers alone are trained.

    Raises:
        ModelError: if the folder is at odds with the settings, or there is no tokenizer to keep.
    """

    def __init__(
        self,
        folder: Path,
        config: Config | None,
        data: str,
        device: torch.device,
        stop: Stop,
        init_from: str | None = None,
        budget: float | None = None,
        ranks: Ranks = ALONE,
        keeps_tokenizer: bool = False,
    ) -> None:
        if keeps_tokenizer and init_from is None:
            raise ModelError("--keep-tokenizer: name the model that has it with --init-from")
        self.keeps_tokenizer = keeps_tokenizer
        self.folder, self.device, self.stop, self.ranks = folder, device, stop, ranks
        self.config = runnable(settled_config(folder, config), device)
        self.budget = None if budget is None else Budget(folder, budget, ranks)
        streaming = self.config.data.streaming
        opened, apart = (open_stream, stream_has_split) if streaming else (open_images, has_split)
        unlabelled = self.config.data.unlabelled
        self.source: ImageSource = opened(data, "train", unlabelled)
        self.validation: ImageSource | None = None
        if apart(data, "validation"):
            self.validation = opened(data, "validation", unlabelled)
        if self.validation is not None:
            self.validation = ClassesOf(self.validation, self.source.classes)
        self.bad_files = BadFiles(ranks)
        self.classes = settled_classes(folder, list(self.source.classes))
        if ranks.first:
            print("\n".join(summary(self.source, self.validation)), file=sys.stderr, flush=True)
        self.init_from = None if init_from is None else find_folder(init_from)
        self.data_name = str(data)

    def parts(self) -> list[str]:
        """What is trained of this model, in order: the classifier first if one is asked for, and no tokenizer if one
        is kept."""
        return list(self.config.model.parts[1:] if self.keeps_tokenizer else self.config.parts)

    def run(self, parts: list[str]) -> bool:
        """Train some parts; False if stopped before the last was done.

        Raises:
            ModelError: if the model has no such part, if a part that it needs is missing, or if a folder is at odds
                with the settings.
        """
        for part in parts:
            if self.keeps_tokenizer and part in ("classifier", "tokenizer"):
                raise ModelError(f"--keep-tokenizer: the {part} is not trained then; leave one of them out")
            if part not in ("classifier", *self.parts()):
                raise ModelError(f"{part}: this model has none; its parts are {', '.join(self.parts())}")
            if self.init_from is not None and not (self.init_from / f"{part}.safetensors").exists():
                if part == "classifier" and len(parts) > 1:
                    continue  # a model is shared without it: it begins afresh
                raise ModelError(f"--init-from: {self.init_from} has no {part}")
            if part != "classifier":  # which is small
                refuse_what_cannot_fit(self.config.model, part, self.device)
        if self.budget is not None:
            self.config = self.budget.divide(parts, self.config)
        self.ranks.on_first(self._keep_tokenizer)
        try:
            for part in parts:
                if any(self.stop.agreed(self.ranks)):
                    return False
                # What was compiled for another model's shapes in this process would count as a change of shape.
                torch.compiler.reset()
                if is_finished(self.folder, part, self._steps(part)):
                    print(f"{part}: finished already", file=sys.stderr)
                elif not self._trainer_of(part)():
                    return False
            self.stop.agreed(self.ranks)
            return True
        except Stopped as stopped:
            self.stop.adopt(stopped.signal_number)
            return False
        finally:
            if self.ranks.size == 1:  # several have told each other with the log, and may not all be here
                self.bad_files.summary()

    def encode(self) -> TokenCache | None:
        """The token cache of the training images, made if need be; None if stopped before it was done."""
        tokenizer = self._load_tokenizer()
        try:
            return self._cache(tokenizer, "train", self.source, self.config.data)
        except Stopped as stopped:
            self.stop.adopt(stopped.signal_number)
            return None

    def _keep_tokenizer(self) -> None:
        if self.keeps_tokenizer and self.init_from is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            keep_tokenizer(self.init_from, self.folder, self.config.model)

    def _begin(self, run_folder: Path) -> None:
        """Make a part's folder and write the settings: only once everything that could refuse them has not."""
        self.ranks.on_first(lambda: self._write_settings(run_folder))

    def _write_settings(self, run_folder: Path) -> None:
        write_config(self.folder / "runs" / "config.yaml", self.config)
        changed = changes(self.folder / "runs" / "data.json", self.source, self.source.fingerprint())
        if changed is not None:
            print(changed, file=sys.stderr)
        write_description(self.folder, self.config.model, self.classes, self.config.decoding)
        run_folder.mkdir(parents=True, exist_ok=True)

    def _steps(self, part: str) -> int:
        return getattr(self.config, f"{part}_training").steps

    def _finish(self, part: str, weights: dict[str, Tensor], done: bool) -> None:
        self.ranks.on_first(lambda: self._write_part(part, weights, done))

    def _write_part(self, part: str, weights: dict[str, Tensor], done: bool) -> None:
        forget_finished(self.folder, part)
        save_part(self.folder, part, weights)
        if part == "tokenizer":
            set_aside_others_tokens(self.folder)
        if done:
            note_finished(self.folder, part, self._steps(part))

    def _trainer_of(self, part: str) -> Callable[[], bool]:
        """What trains a part, and tells whether it is done."""
        own = {"classifier": self._train_classifier, "tokenizer": self._train_tokenizer}
        return own.get(part, partial(self._train_transformer, part))

    def _start_weights(self, part: str, module: torch.nn.Module) -> None:
        if self.init_from is not None and (self.init_from / f"{part}.safetensors").exists():
            start_from(self.init_from, part, module, self.config.model, self.classes)

    def _train_classifier(self) -> bool:
        def trainee_of() -> ClassifierTrainee:
            torch.manual_seed(self.config.run.seed)
            classifier = build_classifier(self.config, len(self.classes), self.data_name)
            self._start_weights("classifier", classifier)
            return classifier_trainee(
                classifier, self.config, self.source, self.validation, self.bad_files, self.device, self.ranks
            )

        if self.budget is not None:
            self.config = self.budget.settle("classifier", self.config, [trainee_of])
        trainee = trainee_of()
        run_folder = self.folder / "runs" / "classifier"
        self._begin(run_folder)
        done = self._trained(trainee, run_folder, trainee.config.steps)
        self._finish("classifier", trainee.weights(), done)
        return done

    def _train_tokenizer(self) -> bool:
        torch.manual_seed(self.config.run.seed)
        tokenizer = build_tokenizer(self.config.tokenizer)
        self._start_weights("tokenizer", tokenizer)
        weights, done, scale = tokenizer.state_dict(), False, ""
        networks = trainable_networks(tokenizer)
        if self.budget is not None:
            rehearsed = [partial(self._tokenizer_trainee, copy.deepcopy(network)) for network in networks.values()]
            self.config = self.budget.settle("tokenizer", self.config, rehearsed)
        for scale, network in networks.items():
            run_folder = self.folder / "runs" / (f"tokenizer-{scale}" if scale else "tokenizer")
            done, found = self._train_scale(network, run_folder)
            weights.update({f"{scale}.{name}" if scale else name: value for name, value in found.items()})
            if not done:
                break
        if done or not scale:  # a cascade of which one half is missing is of no use to anybody
            self._finish("tokenizer", weights, done)
        return done

    def _train_scale(self, network: TrainableTokenizer, run_folder: Path) -> tuple[bool, dict[str, Tensor]]:
        """Train one network of stage 1; whether it is done, and its weights."""
        trainee = self._tokenizer_trainee(network)
        self._begin(run_folder)
        return self._trained(trainee, run_folder, self.config.tokenizer_training.steps), trainee.weights()

    def _tokenizer_trainee(self, network: TrainableTokenizer) -> TokenizerTrainee:
        config = self.config
        classifier = None
        if config.tokenizer_training.perceptual == "classifier":
            classifier = load_classifier(self.folder, config, len(self.classes), self.data_name)
        photographs = Photographs(self.source, self.validation, self.bad_files)
        is_begun = self.init_from is not None
        return tokenizer_trainee(network, config, photographs, self.device, self.ranks, is_begun, classifier)

    def _trained(self, trainee: Trainee, run_folder: Path, steps: int) -> bool:
        config, share = self.config.run, self.bad_files.share
        return train(trainee, run_folder.name, run_folder, steps, config, self.stop, self.ranks, share)

    def _load_tokenizer(self) -> AnyTokenizer:
        tokenizer = build_tokenizer(self.config.tokenizer)
        path = self.folder / "tokenizer.safetensors"
        if not path.exists():
            raise ModelError(
                f"{self.folder} has no tokenizer yet; make it with: "
                f"strait train tokenizer --data {self.data_name} --model {self.folder}"
            )
        refuse_damaged(self.folder, "tokenizer")
        check_part(self.folder, "tokenizer", tokenizer)
        load_part(self.folder, "tokenizer", tokenizer)
        # Encoding is faster so, on a CPU too.
        return tokenizer.to(self.device).to(memory_format=torch.channels_last).eval()  # pyright: ignore

    def _cache(
        self,
        tokenizer: AnyTokenizer,
        name: str,
        source: ImageSource,
        data: DataConfig,
        limit: int | None = None,
        two_sizes: bool = False,
    ) -> TokenCache:
        wanted = WantedTokens(name, source, self.config.image_size, data, limit, two_sizes)
        cache = cached_tokens(self.folder, tokenizer, wanted, self.device, self.bad_files, self.stop, self.ranks)
        model = self.config.model
        cache.require(model.grids, model.level_codebook_sizes, len(self.classes))
        return cache

    def _train_transformer(self, part: str) -> bool:
        config = self.config
        tokenizer = self._load_tokenizer()
        run_folder = self.folder / "runs" / part
        self._begin(run_folder)
        self.ranks.on_first(lambda: refuse_other_tokenizer(self.folder, part))
        two_sizes = part == "upsampler"
        cache = self._cache(tokenizer, "train", self.source, config.data, two_sizes=two_sizes)
        validation = None
        if self.validation is not None:
            plain = dataclasses.replace(config.data, cache_variants=1, flip=False, shift=0, smallest_crop=1.0)
            validation = self._cache(tokenizer, "validation", self.validation, plain, _VALIDATION_IMAGES, two_sizes)

        augment = self._augment(getattr(config, f"{part}_training"))

        def trainee_of() -> TransformerTrainee:
            torch.manual_seed(config.run.seed)
            transformer = build_part(config.model, part, len(self.classes))
            self._start_weights(part, transformer)
            learned = Learned(tokenizer, cache, validation, len(self.classes))
            return transformer_trainee(transformer, part, self.config, learned, self.device, self.ranks, augment)

        if self.budget is not None:
            self.config = self.budget.settle(part, config, [trainee_of])
        trainee = trainee_of()
        self._begin(run_folder)
        done = self._trained(trainee, run_folder, trainee.config.steps)
        self._finish(part, trainee.weights(), done)
        return done

    def _augment(self, settings: TransformerTrainingConfig) -> Augment | None:
        """Equation 6, where the settings ask for it: what the top transformer makes of its own masked tokens."""
        share = settings.condition_augmentation
        if not share:
            return None
        if not (self.folder / "top.safetensors").exists():
            raise ModelError(
                f"bottom_training.condition_augmentation: {share} needs the top transformer; make it with: "
                f"strait train top --data {self.data_name} --model {self.folder}"
            )
        top = build_part(self.config.model, "top", len(self.classes))
        check_part(self.folder, "top", top)
        load_part(self.folder, "top", top)
        return augmentation(top, share, self.config.run.precision, self.device)
