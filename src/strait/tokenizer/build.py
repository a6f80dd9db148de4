"""Build the tokenizer that a configuration describes: the one place that knows all kinds."""

from __future__ import annotations

from strait.tokenizer.cascade import CascadeTokenizer
from strait.tokenizer.config import TokenizerConfig
from strait.tokenizer.vqgan import VQGAN
from strait.tokenizer.vqgan2 import StratifiedTokenizer

TrainableTokenizer = StratifiedTokenizer | VQGAN
"""Tokenizers that stage 1 trains as one network."""
AnyTokenizer = TrainableTokenizer | CascadeTokenizer


def build_tokenizer(config: TokenizerConfig) -> AnyTokenizer:
    """A tokenizer of one or two levels with random weights."""
    if config.kind == "cascade":
        return CascadeTokenizer(config)
    return VQGAN(config) if config.kind == "vqgan" else StratifiedTokenizer(config)


def trainable_networks(tokenizer: AnyTokenizer) -> dict[str, TrainableTokenizer]:
    """The networks that stage 1 trains one after the other, by the prefix of their weights: the tokenizer itself, or
    the two VQGANs of a cascade."""
    if isinstance(tokenizer, CascadeTokenizer):
        return {"coarse": tokenizer.coarse, "fine": tokenizer.fine}
    return {"": tokenizer}
