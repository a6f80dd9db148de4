"""Table 8: one codebook for both levels, or one for each (the bottom's a quarter of the top's).

strait table 8 --config tiny-imagenet64-cpu --data DIR --budget 30
"""

from __future__ import annotations

from typing import Any

from strait.tables.table import Row, Table

_ALIKE: dict[str, Any] = {"steps": (18, 6), "steps_open": True, "decoding": {"guidance": 0.0}}

TABLE = Table(
    number=8,
    title="codebooks",
    rows=(
        Row("shared", {"fid": 3.96, "inception_score": 214.1}, configuration="imagenet256", **_ALIKE),
        Row(
            "separate",
            {"fid": 3.89, "inception_score": 216.3},
            configuration="imagenet256-separate-codebooks",
            **_ALIKE,
        ),
    ),
)
