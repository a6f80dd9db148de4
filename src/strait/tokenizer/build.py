"""From a configuration to a tokenizer."""

from __future__ import annotations

from strait.tokenizer.cascade import CascadeTokenizer
from strait.tokenizer.config import TokenizerConfig
from strait.tokenizer.vqgan import VQGAN
from strait.tokenizer.vqgan2 import StratifiedTokenizer

TrainableTokenizer = StratifiedTokenizer | VQGAN
"""What stage 1 trains as one network."""
AnyTokenizer = TrainableTokenizer | CascadeTokenizer


def build_tokenizer(config: TokenizerConfig) -> AnyTokenizer:
    """The tokenizer of one level or two that a configuration describes, with random weights."""
    if config.kind == "cascade":
        return CascadeTokenizer(config)
    return VQGAN(config) if config.kind == "vqgan" else StratifiedTokenizer(config)


def trainable_networks(tokenizer: AnyTokenizer) -> dict[str, TrainableTokenizer]:
    """What stage 1 trains one after the other, by the prefix of its weights: the tokenizer itself, or the two VQGANs
    of a cascade."""
    if isinstance(tokenizer, CascadeTokenizer):
        return {"coarse": tokenizer.coarse, "fine": tokenizer.fine}
    return {"": tokenizer}
