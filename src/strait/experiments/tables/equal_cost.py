"""Not a table of the paper, but its argument: StraIT, MaskGIT on one grid, short and long, and StraIT's pipeline on
VQGAN2-C, each trained for the same time and decoded at its own best, without guidance and with the configuration's.

strait table equal-cost --config tiny-imagenet64-cpu --data DIR --budget 30
"""

from __future__ import annotations

from functools import partial

from strait.experiments.table import Row, Table, single_scale, unchanged, with_tokenizer

_METHODS = (
    ("StraIT", unchanged, {"fid": 3.96, "inception_score": 214.1}),
    ("MaskGIT, short", single_scale, {"fid": 6.05, "inception_score": 203}),
    ("MaskGIT, long", partial(single_scale, fine=True), {"fid": 6.61, "inception_score": 177.7}),
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
