"""Table 7: the allocation of 24 steps to the levels.

strait table 7 --data DIR
strait table 7 --config imagenet256 --random-weights     only the speed, which needs neither data nor training
"""

from __future__ import annotations

from strait.tables.table import Ratio, Row, Table

_FIGURES = {
    (3, 21): (5.4, 193, 0.6),
    (6, 18): (5.6, 192, 0.7),
    (9, 15): (4.5, 201.3, 0.9),
    (12, 12): (4.21, 202.7, 1.0),
    (15, 9): (4.05, 214, 1.2),
    (18, 6): (3.97, 214.1, 1.5),
    (21, 3): (4.0, 209, 1.6),
}

TABLE = Table(
    number=7,
    title="decoding steps of the top + of the bottom",
    rows=tuple(
        Row(
            f"{top}+{bottom}",
            {"fid": fid, "inception_score": score, "speedup": speedup},
            steps=(top, bottom),
            decoding={"guidance": 0.0},
        )
        for (top, bottom), (fid, score, speedup) in _FIGURES.items()
    ),
    columns=("fid", "inception_score", "multiply_adds_per_image", "seconds_per_image"),
    needs="two levels",
    ratios=(
        Ratio("speedup", "seconds_per_image", "12+12", speed=True),
        Ratio("speedup_by_multiply_adds", "multiply_adds_per_image", "12+12", speed=True),
    ),
)
