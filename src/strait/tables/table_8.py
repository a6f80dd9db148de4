"""Table 8: one codebook for both levels, or one each (the bottom's a quarter of the top's).

strait table 8 --config tiny-imagenet64-cpu --data DIR --budget 30
"""

from __future__ import annotations

from strait.config import Config
from strait.tables.table import Row, Table, with_tokenizer


def _shared(config: Config) -> Config:
    return with_tokenizer(config, bottom_codebook_size=None)


def _separate(config: Config) -> Config:
    return with_tokenizer(config, bottom_codebook_size=config.tokenizer.codebook_size // 4)


TABLE = Table(
    number=8,
    title="codebooks",
    rows=(
        Row("shared", {"fid": 3.96, "inception_score": 214.1}, _shared, decoding={"guidance": 0.0}),
        Row("separate", {"fid": 3.89, "inception_score": 216.3}, _separate, decoding={"guidance": 0.0}),
    ),
)
