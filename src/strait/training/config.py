"""Settings of training (no torch here). Defaults are the paper's, Tables 11 and 12; exceptions: docs/choices.md."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from strait.decoding.config import SCHEDULES, ScheduleName

Precision = Literal["float32", "bfloat16"]
Parallel = Literal["ddp", "fsdp"]


def _check(owner: str, values: dict[str, float], lowest: float) -> None:
    for name, value in values.items():
        if not value >= lowest:  # so that NaN fails too
            raise ValueError(f"{owner}.{name}: {value} must be at least {lowest}")


def _check_betas(owner: str, betas: tuple[float, float]) -> None:
    if not all(0 <= value < 1 for value in betas):
        raise ValueError(f"{owner}.betas: {list(betas)} must lie in [0, 1)")


def _check_batch(owner: str, steps: int, batch_size: int, accumulate: int) -> None:
    _check(owner, {"steps": steps, "batch_size": batch_size, "accumulate": accumulate}, 1)
    if batch_size % accumulate:
        raise ValueError(f"{owner}.accumulate: {accumulate} does not divide a batch_size of {batch_size}")


@dataclass(frozen=True)
class RunConfig:
    """Settings that all parts share.

    Args:
        seed: of all randomness in training.
        precision: of the forward and backward passes; weights, quantization and pixel losses stay in float32.
        checkpoint_seconds: time between checkpoints.
        keep_checkpoints: number of newest checkpoints to keep, beside the one with the best validation loss.
        skip_at_most: how many steps in a row may be skipped for a non-finite loss or gradient before training fails.
        parallel: how several processes train a transformer: each holds all weights (ddp), or a shard (fsdp).
        log_every: steps between lines of the log; each has means since the line before.
        sample_every: steps between sample grids, and between validation losses (which select the best checkpoint); 0
            for neither.
        recompute: activation checkpointing: blocks keep only their inputs and recompute the rest in the backward
            pass, a third more work for a fraction of the memory.
        compile: compile the networks first, which takes about a minute; on a CPU it needs a C++ compiler. Whether it
            helps depends on the part (docs/performance.md).
    """

    seed: int = 0
    precision: Precision = "bfloat16"
    checkpoint_seconds: float = 600.0
    keep_checkpoints: int = 2
    skip_at_most: int = 20
    parallel: Parallel = "ddp"
    log_every: int = 50
    sample_every: int = 1000
    recompute: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        _check("run", {"keep_checkpoints": self.keep_checkpoints, "log_every": self.log_every}, 1)
        if not -(2**63) <= self.seed < 2**63:
            raise ValueError(f"run.seed: {self.seed} does not fit into 64 bits")
        _check("run", {"checkpoint_seconds": self.checkpoint_seconds, "sample_every": self.sample_every}, 0)
        _check("run", {"skip_at_most": self.skip_at_most}, 0)


@dataclass(frozen=True)
class AdversarialConfig:
    """The discriminator and the adversarial loss of stage 1.

    Args:
        weight: of the adversarial loss; 0 trains without a discriminator.
        kind: ``stylegan`` (the paper's), or ``projected``: small heads on features of EfficientNet (extra
            ``perceptual``), which learn on a CPU in minutes.
        loss: form of the adversarial loss.
        start: share of training after which the adversary starts.
        ramp: share of training over which its weight then grows linearly.
        head_start: first steps in which the discriminator learns alone. For a tokenizer that is already trained, whose
            new discriminator would at first take away what an earlier one has taught; needs a start of 0.
        learning_rate: of the discriminator, constant; none uses the tokenizer's.
        betas: of its Adam; none uses the tokenizer's.
        r1_weight: of the R1 penalty, for images in [0, 1]; stylegan only, must be 0 for projected.
        r1_every: steps between R1 penalties, each weighted by this number.
        lecam_weight: of the LeCAM regularisation.
        pixels: whether one more head judges the pixels themselves (projected only).
        channels: width of the first layer (stylegan) or of the heads (projected).
        max_channels: largest width (stylegan).
        normalize: use GroupNorm (stylegan).
    """

    weight: float = 0.1
    kind: Literal["stylegan", "projected"] = "stylegan"
    loss: Literal["non-saturating", "hinge"] = "non-saturating"
    start: float = 0.0
    ramp: float = 0.0
    head_start: int = 0
    learning_rate: float | None = None
    betas: tuple[float, float] | None = None
    r1_weight: float = 10.0
    r1_every: int = 1
    lecam_weight: float = 0.0
    pixels: bool = False
    channels: int = 128
    max_channels: int = 512
    normalize: bool = True

    def __post_init__(self) -> None:
        _check(
            "adversarial",
            {"r1_every": self.r1_every, "channels": self.channels, "max_channels": self.max_channels},
            1,
        )
        if self.kind == "projected" and self.r1_weight:
            raise ValueError(
                f"adversarial.r1_weight: {self.r1_weight} must be 0 for a projected discriminator (spectral norms "
                "already bound it)"
            )
        if self.kind == "projected":
            # Those of the other kind, which would be ignored.
            for name in ("max_channels", "normalize"):
                if getattr(self, name) != getattr(type(self), name):
                    raise ValueError(f"adversarial.{name}: it is for kind stylegan alone; leave it out")
        elif self.pixels:
            raise ValueError("adversarial.pixels: it is for kind projected alone (stylegan sees pixels anyway)")
        if self.learning_rate is not None:
            _check("adversarial", {"learning_rate": self.learning_rate}, 0)
        if self.betas is not None:
            _check_betas("adversarial", self.betas)
        shares = {"weight": self.weight, "start": self.start, "ramp": self.ramp}
        if self.start > 1:
            raise ValueError(f"adversarial.start: {self.start} is a share of training, 1 at most")
        _check("adversarial", {"head_start": self.head_start}, 0)
        if self.head_start and (self.start or not self.weight):
            raise ValueError(
                f"adversarial.head_start: {self.head_start} needs a start of 0 and a weight, so that there is a "
                "discriminator from the first step"
            )
        _check("adversarial", {**shares, "r1_weight": self.r1_weight, "lecam_weight": self.lecam_weight}, 0)


@dataclass(frozen=True)
class CodebookConfig:
    """Losses and restarts of the codebook.

    Args:
        commitment_weight: of the loss that holds features near their codes.
        codebook_weight: of the loss that moves codes to their features.
        entropy_weight: of the entropy term.
        restart_below: a code is dead if used less than this share of uniform use; 0 never restarts.
        restart_every: steps between restarts.
        start: first steps without quantization, after which codes are initialised from the features. Features of an
            untrained encoder are so similar that the codebook losses can collapse them into one point.
    """

    commitment_weight: float = 0.25
    codebook_weight: float = 1.0
    entropy_weight: float = 0.1
    restart_below: float = 0.0
    restart_every: int = 10
    start: int = 0

    def __post_init__(self) -> None:
        _check("codebook", {"restart_every": self.restart_every}, 1)
        names = ("commitment_weight", "codebook_weight", "entropy_weight", "restart_below")
        _check("codebook", {name: getattr(self, name) for name in names}, 0)


@dataclass(frozen=True)
class TokenizerTrainingConfig:
    """Training of the tokenizer (stage 1).

    Args:
        steps: number of updates.
        batch_size: images in an update, over all processes.
        accumulate: pieces into which each process splits its share of a batch, to save memory.
        optimizer: the paper's table says SGD, with settings that are Adam's; docs/choices.md.
        learning_rate: constant, or the peak of a cosine.
        learning_rate_schedule: constant, or cosine to zero.
        warmup_steps: of a linear warm-up.
        betas: of Adam. The default is MaskGIT's and suits its adversary; without one a usual beta_1 learns faster.
        pixel_loss: l1 or l2, with weight 1.
        crop: side in pixels of random squares of the training images to train on; none trains on whole images. The
            tokenizer is convolutional, so half the side is a quarter of the work.
        perceptual: efficientnet (ImageNet weights of the extra ``perceptual``), classifier (the model folder's,
            trained first), lpips, none, or the path of a TorchScript network.
        perceptual_weight: of the perceptual distance.
        feature_zoom: images and reconstructions are resized by the same random factor, within 1 plus or minus this, at
            each step before EfficientNet (perceptual loss and projected discriminator). Otherwise a pattern with the
            period of the network's strides looks the same at every position of its features.
        bottom_dropout: share of samples that are decoded from the top tokens only.
        code_noise: in two thirds of the samples a share of the tokens, uniform up to this, is replaced by similar ones
            before the decoder, which then copes better with a transformer's errors.
        only_decoder: train only the decoder. Encoder, codes and hence tokens do not change, so existing transformers
            still fit: improves the pixels of a trained tokenizer (``--init-from``).
        ema_decay: of the averaged weights, which become the model's; 0 for none.
        adversarial: the discriminator.
        codebook: losses and restarts of the codebook.
    """

    steps: int = 1_000_000
    batch_size: int = 256
    accumulate: int = 1
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: float = 1e-4
    learning_rate_schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: int = 0
    betas: tuple[float, float] = (0.0, 0.99)
    pixel_loss: Literal["l1", "l2"] = "l2"
    crop: int | None = None
    perceptual: str = "lpips"
    perceptual_weight: float = 0.1
    feature_zoom: float = 0.0
    bottom_dropout: float = 0.0
    code_noise: float = 0.0
    only_decoder: bool = False
    ema_decay: float = 0.999
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
    codebook: CodebookConfig = field(default_factory=CodebookConfig)

    def __post_init__(self) -> None:
        owner = "tokenizer_training"
        _check_batch(owner, self.steps, self.batch_size, self.accumulate)
        names = ("learning_rate", "warmup_steps", "perceptual_weight")
        _check(owner, {name: getattr(self, name) for name in names}, 0)
        _check_betas(owner, self.betas)
        if self.optimizer == "sgd":
            for name, betas, default in (
                ("betas", self.betas, type(self).betas),
                ("adversarial.betas", self.adversarial.betas, None),
            ):
                if betas != default:
                    raise ValueError(f"{owner}.{name}: {list(betas or ())} is for optimizer adam alone; leave it out")
        if self.codebook.start >= self.steps:
            raise ValueError(
                f"codebook.start: {self.codebook.start} must be less than the number of steps, {self.steps}"
            )
        if self.crop is not None:
            _check(owner, {"crop": self.crop}, 1)
        if not 0 <= self.feature_zoom < 1:
            raise ValueError(f"{owner}.feature_zoom: {self.feature_zoom} must lie in [0, 1)")
        if self.feature_zoom and not self.sees_features:
            raise ValueError(
                f"{owner}.feature_zoom: {self.feature_zoom} needs perceptual: efficientnet or adversarial.kind: "
                "projected"
            )
        if not 0 <= self.code_noise <= 1:
            raise ValueError(f"{owner}.code_noise: {self.code_noise} must lie in [0, 1]")
        if self.adversarial.head_start >= self.steps:
            raise ValueError(
                f"adversarial.head_start: {self.adversarial.head_start} must be less than the steps, {self.steps}"
            )
        if not 0 <= self.bottom_dropout < 1 or not 0 <= self.ema_decay < 1:
            raise ValueError("tokenizer_training: bottom_dropout and ema_decay must lie in [0, 1)")

    @property
    def sees_features(self) -> bool:
        """Whether the perceptual loss or the adversary uses EfficientNet's features."""
        projected = self.adversarial.weight > 0 and self.adversarial.kind == "projected"
        return projected or (self.perceptual == "efficientnet" and self.perceptual_weight > 0)


@dataclass(frozen=True)
class ClassifierTrainingConfig:
    """Training of the classifier for the perceptual loss (beyond the paper).

    Args:
        steps: number of updates.
        batch_size: images in an update, over all processes.
        accumulate: pieces into which each process splits its share of a batch, to save memory.
        learning_rate: at the end of the warm-up; then a cosine to zero.
        warmup_steps: of a linear warm-up.
        weight_decay: of AdamW, on matrices and convolutions.
        betas: of AdamW.
        label_smoothing: of the cross-entropy.
        smallest_crop: smallest area of a random crop, as a share of the image, which is then resized; 1 for no crops.
            Flips and shifts are settings of ``data``.
        ema_decay: of the averaged weights, which are saved; 0 for none.
    """

    steps: int = 10_000
    batch_size: int = 128
    accumulate: int = 1
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.99)
    label_smoothing: float = 0.1
    smallest_crop: float = 0.35
    ema_decay: float = 0.999

    def __post_init__(self) -> None:
        _check_batch("classifier_training", self.steps, self.batch_size, self.accumulate)
        names = ("learning_rate", "warmup_steps", "weight_decay")
        _check("classifier_training", {name: getattr(self, name) for name in names}, 0)
        _check_betas("classifier_training", self.betas)
        for name in ("label_smoothing", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"classifier_training.{name}: {getattr(self, name)} must lie in [0, 1)")
        if not 0 < self.smallest_crop <= 1:
            raise ValueError(f"classifier_training.smallest_crop: {self.smallest_crop} must lie in (0, 1]")


@dataclass(frozen=True)
class TransformerTrainingConfig:
    """Training of a transformer (stage 2).

    Args:
        steps: number of updates.
        batch_size: images in an update, over all processes.
        accumulate: pieces into which each process splits its share of a batch, to save memory.
        learning_rate: at the end of the warm-up; then a cosine to zero.
        warmup_steps: of a linear warm-up.
        optimizer: AdamW, or Muon on the matrices of the layers and AdamW on the rest.
        weight_decay: on matrices.
        betas: of AdamW.
        gradient_clip: largest norm of the gradient.
        label_smoothing: of the cross-entropy.
        label_drop_rate: share of samples trained with the null class ("uncond cutoff").
        mask_schedule: of the training masks, at a uniform progress.
        loss: mean over each sample's masked tokens (MaskGIT), or sum over them (the paper).
        ema_decay: of the averaged weights, which become the model's; 0 for none.
        condition_augmentation: share of the top tokens that are replaced by predictions of the top transformer
            (equation 6, Table 9); bottom only.
    """

    steps: int = 1_000_000
    batch_size: int = 256
    accumulate: int = 1
    learning_rate: float = 1e-4
    warmup_steps: int = 5000
    optimizer: Literal["adamw", "muon"] = "adamw"
    weight_decay: float = 0.045
    betas: tuple[float, float] = (0.9, 0.96)
    gradient_clip: float = 3.0
    label_smoothing: float = 0.1
    label_drop_rate: float = 0.1
    mask_schedule: ScheduleName = "cosine"
    loss: Literal["mean", "sum"] = "mean"
    ema_decay: float = 0.0
    condition_augmentation: float = 0.0

    def __post_init__(self) -> None:
        _check_batch("training", self.steps, self.batch_size, self.accumulate)
        names = ("learning_rate", "warmup_steps", "weight_decay")
        _check("training", {name: getattr(self, name) for name in names}, 0)
        _check_betas("training", self.betas)
        for name in ("label_smoothing", "ema_decay"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"training.{name}: {getattr(self, name)} must lie in [0, 1)")
        for name in ("label_drop_rate", "condition_augmentation"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"training.{name}: {getattr(self, name)} must lie in [0, 1]")
        if not self.gradient_clip > 0:
            raise ValueError(f"training.gradient_clip: {self.gradient_clip} must be above 0")
        if self.mask_schedule not in SCHEDULES:
            raise ValueError(f"training.mask_schedule: {self.mask_schedule!r} is not one of {', '.join(SCHEDULES)}")
