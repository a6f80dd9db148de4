"""Table 6: the stratified pipeline on VQGAN2-C and VQGAN2-R, and the cascade of two VQGANs.

strait table 6 --config tiny-imagenet64-cpu --data DIR --budget 30
"""

from __future__ import annotations

import dataclasses
from functools import partial

from strait.config import Config
from strait.tables.table import Row, Table, with_tokenizer

_PLAIN = {"guidance": 0.0}


def _cascade(config: Config) -> Config:
    config = with_tokenizer(config, kind="cascade")
    training = dataclasses.replace(config.tokenizer_training, bottom_dropout=0.0)
    return dataclasses.replace(config, tokenizer_training=training)


TABLE = Table(
    number=6,
    title="which tokenizer, which pipeline",
    rows=(
        Row("VQGAN2-C", {"fid": 6.11}, partial(with_tokenizer, kind="vqgan2-c-deep"), decoding=_PLAIN),
        Row("VQGAN2-R", {"fid": 3.96}, partial(with_tokenizer, kind="vqgan2-r"), decoding=_PLAIN),
        Row("cascade, top alone", {"fid": 6.05}, _cascade, decoding=_PLAIN, levels=1),
        Row("cascade", {"fid": 5.71}, _cascade, decoding=_PLAIN),
    ),
)
