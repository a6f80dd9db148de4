"""From a configuration to a tokenizer."""

from __future__ import annotations

from strait.tokenizer.config import TokenizerConfig
from strait.tokenizer.vqgan import VQGAN
from strait.tokenizer.vqgan2 import StratifiedTokenizer

AnyTokenizer = StratifiedTokenizer | VQGAN


def build_tokenizer(config: TokenizerConfig) -> AnyTokenizer:
    """The tokenizer of one level or two that a configuration describes, with random weights."""
    return VQGAN(config) if config.num_levels == 1 else StratifiedTokenizer(config)
