"""Table 10: mask schedules of decoding; training keeps the configuration's schedule.

strait table 10 --data DIR
"""

from __future__ import annotations

from strait.tables.table import Row, Table

_FIGURES = {
    "logarithmic": (11.32, 167.3),
    "square_root": (7.89, 187.5),
    "linear": (5.13, 200.3),
    "cosine": (3.96, 214.1),
    "square": (4.13, 209.5),
    "cubic": (4.97, 203.1),
    "exponential": (4.09, 212.7),
}

TABLE = Table(
    number=10,
    title="mask schedules",
    needs="two levels",
    rows=tuple(
        Row(
            name.replace("_", " "),
            {"fid": fid, "inception_score": score},
            steps=(18, 6),
            decoding={"guidance": 0.0, "schedule": name},
        )
        for name, (fid, score) in _FIGURES.items()
    ),
)
