"""Table 9: conditional augmentation, by the share of top tokens replaced by predictions while the bottom trains.

strait table 9 --config tiny-imagenet64-cpu --data DIR --budget 30
"""

from __future__ import annotations

import dataclasses
from functools import partial

from strait.config import Config
from strait.tables.table import Row, Table


def _augmented(config: Config, share: float) -> Config:
    training = dataclasses.replace(config.bottom_training, condition_augmentation=share)
    return dataclasses.replace(config, bottom_training=training)


def _row(name: str, share: float, fid: float, score: float) -> Row:
    return Row(
        name,
        {"fid": fid, "inception_score": score},
        change=partial(_augmented, share=share),
        steps=(18, 6),
        steps_open=True,
        decoding={"guidance": 0.0},
    )


TABLE = Table(
    number=9,
    title="conditional augmentation",
    rows=(
        _row("original", 0.0, 3.96, 214.1),
        _row("augmented, 10%", 0.1, 4.03, 212.8),
        _row("augmented, 30%", 0.3, 4.05, 208.7),
        _row("augmented, 50%", 0.5, 3.99, 213.5),
    ),
)
