"""A transformer in training, whichever level it fills: the tokens it sees, and what it is looked at with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from strait.config import Config
from strait.data.token_cache import TokenCache
from strait.model.parts import build_part, level_networks
from strait.runs.preview import LevelPreview
from strait.runtime.ranks import Ranks
from strait.tokenizer.build import AnyTokenizer
from strait.training.condition_augmentation import augmented_condition
from strait.training.config import Precision, TransformerTrainingConfig
from strait.training.transformer_loop import Augment, TransformerTrainee


@dataclass(frozen=True)
class Learned:
    """A finished tokenizer, the tokens that it made of all photographs, and those of some that are kept apart."""

    tokenizer: AnyTokenizer
    cache: TokenCache
    validation: TokenCache | None
    classes: int


def transformer_trainee(
    transformer: nn.Module,
    part: str,
    config: Config,
    learned: Learned,
    device: torch.device,
    ranks: Ranks,
    augment: Augment | None,
) -> TransformerTrainee:
    """A transformer with all that trains it.

    Args:
        transformer: whose weights are trained.
        part: which it is.
        config: all settings.
        learned: what stage 1 left.
        device: where.
        ranks: the processes that train it together.
        augment: equation 6, or None.
    """
    networks = level_networks(transformer)
    sharded = ranks.size > 1 and config.run.parallel == "fsdp"
    # Shards cannot be decoded with: the first process then keeps a whole copy to look at, if it will.
    seen = sharded and ranks.first and config.run.sample_every > 0
    whole = build_part(config.model, part, learned.classes).to(device) if seen else None
    looked_at = networks if whole is None else level_networks(whole)
    settings: TransformerTrainingConfig = getattr(config, f"{part}_training")
    return TransformerTrainee(
        transformer,
        networks,
        settings,
        config.run,
        learned.cache,
        learned.validation,
        LevelPreview(looked_at, learned.tokenizer, learned.validation or learned.cache, config, device),
        device,
        augment,
        ranks,
        whole,
        config.data.balance,
    )


def augmentation(top: nn.Module, share: float, precision: Precision, device: torch.device) -> Augment:
    """Equation 6: what the top transformer makes of its own masked tokens.

    Args:
        top: the finished top transformer.
        share: of the top tokens that it predicts anew.
        precision: of its passes.
        device: where.
    """
    network = level_networks(top.to(device).eval())[0]
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")

    def augment(tokens: Tensor, labels: Tensor, keys: Tensor) -> Tensor:
        with autocast:
            return augmented_condition(network.bind, tokens, network.grid, labels, share, keys)

    return augment
