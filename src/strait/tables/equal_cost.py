"""Not a table of the paper, but its argument: StraIT, MaskGIT on one grid, short and long, and StraIT's pipeline on
VQGAN2-C, each trained for the same time with as many parameters of transformers, and decoded at its own best, without
guidance and with the configuration's.

strait table equal-cost --config tiny-imagenet64-cpu --data DIR --budget 30
"""

from __future__ import annotations

import dataclasses
from functools import partial

from strait.config import Config
from strait.evaluation.cost import describe
from strait.tables.table import Row, Table, single_scale, unchanged, with_tokenizer


def maskgit(config: Config, fine: bool = False) -> Config:
    """MaskGIT on one grid, its transformer with as many layers as fit the parameters of all of StraIT's levels.

    Args:
        config: StraIT's.
        fine: the grid is the bottom's, not the top's.
    """

    def parameters(of: Config) -> int:
        parts = describe(of.model, 1)["parts"]
        return sum(parts[part]["parameters"] for part in parts if part not in ("tokenizer", "upsampler"))

    def with_layers(count: int) -> Config:
        return dataclasses.replace(single, top=dataclasses.replace(single.top, layers=count))

    single = single_scale(config, fine)
    own = parameters(single)
    layer = parameters(with_layers(single.top.layers + 1)) - own
    return with_layers(single.top.layers + (parameters(config) - own) // layer)


_METHODS = (
    ("StraIT", unchanged, {"fid": 3.96, "inception_score": 214.1}),
    ("MaskGIT, short", maskgit, {"fid": 6.05, "inception_score": 203}),
    ("MaskGIT, long", partial(maskgit, fine=True), {"fid": 6.61, "inception_score": 177.7}),
    ("StraIT on VQGAN2-C", partial(with_tokenizer, kind="vqgan2-c-deep"), {"fid": 6.11}),
)
"""Name, what is changed, and the paper's figures without guidance (Tables 2, 5 and 6)."""

TABLE = Table(
    number=None,
    title="methods at equal cost",
    rows=(
        *(Row(name, paper, change, decoding={"guidance": 0.0}) for name, change, paper in _METHODS),
        *(Row(f"{name}, guided", {}, change) for name, change, _ in _METHODS),
    ),
    columns=("fid", "inception_score", "precision", "recall", "reconstruction_fid", "parameters", "seconds_per_image"),
)
