"""Table 4: images of twice the base size by the upsampler; other methods are quoted.

strait table 4 --config imagenette128-cpu --data DIR --budget 60

The paper's 12 steps of the base are its way of counting 18+6 (Table 2); those of U are shared by three to one, too.
"""

from __future__ import annotations

from strait.tables.table import Row, Table

TABLE = Table(
    number=4,
    title="generation at twice the base size",
    rows=(
        Row("Token-Critic", {"fid": 6.80, "inception_score": 182.1}, ours=False),
        Row("ADM", {"fid": 23.24, "inception_score": 58.06}, ours=False),
        Row("ADM-U", {"fid": 9.96, "inception_score": 121.78}, ours=False),
        Row("ADM-U-G", {"fid": 3.85, "inception_score": 221.72}, ours=False),
        Row("StraIT-U", {"fid": 3.82, "inception_score": 253.6}, steps=(18, 6, 9, 3), decoding={"guidance": 0.2}),
    ),
    columns=("fid", "inception_score", "precision", "recall", "seconds_per_image"),
)
