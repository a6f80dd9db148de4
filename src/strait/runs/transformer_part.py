"""A transformer of any level as a part in training: its tokens, sample grid and conditional augmentation."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from strait.config import Config
from strait.model.config import ModelError
from strait.model.folder import check_part, load_part
from strait.model.parts import build_part, level_networks
from strait.runs.part import ModelRun
from strait.runs.part_tokens import TokensOf, cached_tokens, load_tokenizer
from strait.runs.preview import LevelPreview
from strait.runs.run_folder import refuse_other_tokenizer
from strait.tokenizer.build import AnyTokenizer
from strait.training.condition_augmentation import augmented_condition
from strait.training.config import Precision, TransformerTrainingConfig
from strait.training.transformer_loop import Augment, Preview, TrainingTokens, TransformerTrainee

_VALIDATION_IMAGES = 2000


class TransformerPart:
    """Stage 2 for one part; see ``runs.part.Part``."""

    def __init__(self, run: ModelRun, name: str) -> None:
        self.run, self.name = run, name
        self._tokenizer: AnyTokenizer
        self._tokens: TrainingTokens
        self._augment: Augment | None = None

    def prepare(self, config: Config) -> None:
        """Encode the training and validation photographs with the model's tokenizer."""
        run = self.run
        self._tokenizer = load_tokenizer(run, config)
        run.begin(self.name, config)
        run.job.ranks.on_first(lambda: refuse_other_tokenizer(run.folder, self.name))
        two_sizes = self.name == "upsampler"
        train = TokensOf("train", run.photographs, config.data, two_sizes=two_sizes)
        tokens = cached_tokens(run, self._tokenizer, train, config)
        validation = None
        if run.validation is not None:
            plain = dataclasses.replace(config.data, cache_variants=1, flip=False, shift=0, smallest_crop=1.0)
            held_out = TokensOf("validation", run.validation, plain, _VALIDATION_IMAGES, two_sizes)
            validation = cached_tokens(run, self._tokenizer, held_out, config)
        self._tokens = TrainingTokens(tokens, validation, config.data.balance)
        self._augment = self._augmentation(config)

    def networks(self) -> dict[str, str]:
        return {self.name: ""}

    def trainee(self, network: str, config: Config) -> TransformerTrainee:
        torch.manual_seed(config.run.seed)
        transformer = build_part(config.model, self.name, len(self.run.classes))
        self.run.start_weights(self.name, transformer, config)
        return TransformerTrainee(
            transformer,
            level_networks(transformer),
            self._settings(config),
            config.run,
            self._tokens,
            self.run.job,
            self._preview(transformer, config),
            self._augment,
        )

    def _settings(self, config: Config) -> TransformerTrainingConfig:
        return getattr(config, f"{self.name}_training")

    def _preview(self, transformer: nn.Module, config: Config) -> Preview:
        """The sample grid. Shards cannot be used for decoding: for them the first process keeps a full copy."""
        job, whole = self.run.job, None
        if job.ranks.size > 1 and config.run.parallel == "fsdp" and job.ranks.first and config.run.sample_every > 0:
            whole = build_part(config.model, self.name, len(self.run.classes)).to(job.device)
        networks = level_networks(transformer if whole is None else whole)
        shown = self._tokens.validation or self._tokens.train
        return Preview(LevelPreview(networks, self._tokenizer, shown, config, self.run.classes, job.device), whole)

    def _augmentation(self, config: Config) -> Augment | None:
        """Equation 6 with the model's finished top transformer; None if the settings do not use it."""
        share = self._settings(config).condition_augmentation
        if not share:
            return None
        folder, data = self.run.folder, self.run.data
        if not (folder / "top.safetensors").exists():
            raise ModelError(
                f"bottom_training.condition_augmentation: {share} needs the top transformer; make it with: "
                f"strait train top --data {data} --model {folder}"
            )
        top = build_part(config.model, "top", len(self.run.classes))
        check_part(folder, "top", top)
        load_part(folder, "top", top)
        return augmentation(top, share, config.run.precision, self.run.job.device)


def augmentation(top: nn.Module, share: float, precision: Precision, device: torch.device) -> Augment:
    """Equation 6: replace a share of the top tokens by predictions of the top transformer.

    Args:
        top: the finished top transformer.
        share: of the top tokens to replace.
        precision: of its passes.
        device: to compute on.
    """
    network = level_networks(top.to(device).eval())[0]
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def augment(tokens: Tensor, labels: Tensor, keys: Tensor) -> Tensor:
        with autocast:
            return augmented_condition(network.bind, tokens, network.grid, labels, share, keys)

    return augment
