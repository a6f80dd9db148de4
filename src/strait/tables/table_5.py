"""Table 5: MaskGIT on a short and on a long single sequence.

strait table 5 --config tiny-imagenet64-cpu --data DIR --budget 20
"""

from __future__ import annotations

from strait.tables.table import Ratio, Row, Table

_SHORT, _LONG = "MaskGIT, short (f of the top)", "MaskGIT, long (f of the bottom)"

TABLE = Table(
    number=5,
    title="the length of a single sequence",
    rows=(
        Row(
            _SHORT,
            {"fid": 6.05, "inception_score": 203, "multiply_adds": 48.2e9, "training_cost": 1},
            configuration="maskgit-imagenet256-8192",
            steps=(12,),
            decoding={"guidance": 0.0},
        ),
        Row(
            _LONG,
            {"fid": 6.61, "inception_score": 177.7, "multiply_adds": 216.5e9, "training_cost": 2.6},
            configuration="maskgit-imagenet256-f8",
            steps=(12,),
            decoding={"guidance": 0.0},
        ),
    ),
    columns=("multiply_adds", "seconds_per_training_step", "fid", "inception_score"),
    ratios=(Ratio("training_cost", "seconds_per_training_step", _SHORT),),
)
