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
    """What all parts share.

    Args:
        seed: decides every draw of training.
        precision: of the forward and backward passes; weights, quantizing and pixels' losses stay in float32.
        checkpoint_seconds: a checkpoint is written when this much time has passed since the last.
        keep_checkpoints: how many of the newest are kept, beside the one of the best validation loss.
        skip_at_most: steps in a row that may be skipped because their loss or gradients are not finite; one more ends
            training.
        parallel: how several processes share a transformer: each holds all of it (ddp), or a part (fsdp).
        log_every: steps between lines of the log, each the mean since the last.
        sample_every: steps between sample grids, and between looks at images kept apart (the validation loss, by
            which the best checkpoint is known); 0 for neither.
        recompute: activation checkpointing: blocks keep only their inputs and recompute the rest in the backward
            pass, a third more work for a fraction of the memory.
        compile: compile the networks first (a minute or so; on a CPU it needs a C++ compiler, and then convolutions
            train about twice as fast).
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
    """The discriminator's part in stage 1.

    Args:
        weight: of the adversarial loss; 0 trains without a discriminator.
        kind: ``stylegan`` (the paper's) or ``projected``: small heads on the features of
            EfficientNet (extra ``perceptual``), which learn on a CPU in minutes.
        loss: which form.
        start: share of training after which it begins.
        ramp: share of training over which its weight then grows to full.
        learning_rate: of the discriminator, constant; none takes the tokenizer's at each step.
        betas: of its Adam; none takes the tokenizer's.
        r1_weight: cost of R1, for images in [0, 1]; for stylegan only; 0 for projected.
        r1_every: steps between penalties (each counted that many times over).
        lecam_weight: of the LeCAM regularisation.
        channels: width of the discriminator's first layer, or of a projected one's heads.
        max_channels: width at which it stops doubling (stylegan).
        normalize: GroupNorm in the discriminator (stylegan).
    """

    weight: float = 0.1
    kind: Literal["stylegan", "projected"] = "stylegan"
    loss: Literal["non-saturating", "hinge"] = "non-saturating"
    start: float = 0.0
    ramp: float = 0.0
    learning_rate: float | None = None
    betas: tuple[float, float] | None = None
    r1_weight: float = 10.0
    r1_every: int = 1
    lecam_weight: float = 0.0
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
                f"adversarial.r1_weight: {self.r1_weight} must be 0 for a projected discriminator (its norms bound it)"
            )
        if self.kind == "projected":
            # Those of the other kind, which would be ignored.
            for name in ("max_channels", "normalize"):
                if getattr(self, name) != getattr(type(self), name):
                    raise ValueError(f"adversarial.{name}: it is for kind stylegan alone; leave it out")
        if self.learning_rate is not None:
            _check("adversarial", {"learning_rate": self.learning_rate}, 0)
        if self.betas is not None:
            _check_betas("adversarial", self.betas)
        shares = {"weight": self.weight, "start": self.start, "ramp": self.ramp}
        if self.start > 1:
            raise ValueError(f"adversarial.start: {self.start} is a share of training, 1 at most")
        _check("adversarial", {**shares, "r1_weight": self.r1_weight, "lecam_weight": self.lecam_weight}, 0)


@dataclass(frozen=True)
class CodebookConfig:
    """The codebook's losses and care.

    Args:
        commitment_weight: holds features to their codes.
        codebook_weight: moves codes to their features.
        entropy_weight: of the entropy term.
        restart_below: a code is dead when used less than this share of a uniform code's use; 0 never restarts.
        restart_every: steps between restarts.
        start: steps at the beginning during which features pass unquantized. Codes are then initialised from
            features that already say something: those of an untrained encoder lie so close together that the
            codebook's losses can pull them into one point.
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
    """Stage 1.

    Args:
        steps: updates in all.
        batch_size: images an update, of all processes together.
        accumulate: pieces in which each process takes its part of a batch, one after the other, to save memory.
        optimizer: the paper's table says SGD beside settings that are Adam's; docs/choices.md.
        learning_rate: constant, or the peak of a cosine.
        learning_rate_schedule: constant, or cosine to zero.
        warmup_steps: linear.
        betas: Adam's; MaskGIT's serve its adversary, an ordinary first moment learns faster without one.
        pixel_loss: l1 or l2, of weight 1.
        crop: side in pixels of the squares that are cut out of the training images to train on; none trains on whole
            images. A tokenizer is convolutional, and half the side is a quarter of the work.
        perceptual: efficientnet (ImageNet weights of the extra ``perceptual``), classifier (the model folder's own,
            trained before), lpips, none, or the path of a TorchScript network.
        perceptual_weight: of that distance.
        feature_zoom: images and reconstructions are enlarged or reduced alike by a random factor of up to this share,
            anew at each step, before EfficientNet sees them for perceptual loss and projected discriminator. A pattern
            that repeats with the network's own strides would otherwise look the same at every place of its features.
        bottom_dropout: share of samples that are decoded from the top tokens only.
        only_decoder: train only the decoder. Encoder and codes stay as they are, and so do all tokens and the
            transformers that learned them: for better pixels from a tokenizer to go on from (``--init-from``).
        ema_decay: of the averaged weights that become the model's; 0 for none.
        adversarial: the discriminator.
        codebook: losses and care.
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
                f"codebook.start: {self.codebook.start} leaves nothing of {self.steps} steps to train the codes in"
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
        if not 0 <= self.bottom_dropout < 1 or not 0 <= self.ema_decay < 1:
            raise ValueError("tokenizer_training: bottom_dropout and ema_decay must lie in [0, 1)")

    @property
    def sees_features(self) -> bool:
        """Whether EfficientNet's features are needed, by perceptual loss or adversary."""
        projected = self.adversarial.weight > 0 and self.adversarial.kind == "projected"
        return projected or (self.perceptual == "efficientnet" and self.perceptual_weight > 0)


@dataclass(frozen=True)
class ClassifierTrainingConfig:
    """The classifier whose features may judge a tokenizer (beyond the paper).

    Args:
        steps: updates in all.
        batch_size: images an update, of all processes together.
        accumulate: pieces in which each process takes its part of a batch, one after the other, to save memory.
        learning_rate: at the end of the warm-up; a cosine takes it to zero.
        warmup_steps: linear.
        weight_decay: AdamW's, on matrices and convolutions.
        betas: AdamW's.
        label_smoothing: of the cross-entropy.
        smallest_crop: images are crops of a random share of their area, brought back to size: from this share to all
            of it; 1 for none. Mirrored and moved they are as ``data`` says.
        ema_decay: of the averaged weights that are kept; 0 for none.
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
    """Stage 2, either level.

    Args:
        steps: updates in all.
        batch_size: images an update, of all processes together.
        accumulate: pieces in which each process takes its part of a batch, one after the other, to save memory.
        learning_rate: at the end of the warm-up; a cosine takes it to zero.
        warmup_steps: linear.
        optimizer: AdamW, or Muon on the matrices of the layers and AdamW on the rest.
        weight_decay: on matrices.
        betas: AdamW's.
        gradient_clip: largest norm of the gradient.
        label_smoothing: of the cross-entropy.
        label_drop_rate: share of samples trained under the null class ("uncond cutoff").
        mask_schedule: of the training masks, at a uniform progress.
        loss: the mean over each sample's masked tokens (MaskGIT's), or the paper's sum over them.
        ema_decay: of the averaged weights that become the model's; 0 for none.
        condition_augmentation: share of the top tokens that the top transformer predicts anew while the bottom
            trains (equation 6, Table 9); for the bottom only.
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
