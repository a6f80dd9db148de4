"""Table 3: StraIT with classifier-free guidance of 0.2; other methods are quoted.

strait table 3 --data DIR
"""

from __future__ import annotations

from strait.tables.table import Row, Table

TABLE = Table(
    number=3,
    title="generation with guidance",
    rows=(
        Row("Improved VQ-Diffusion", {"fid": 4.83}, ours=False),
        Row("Token-Critic", {"fid": 4.69, "inception_score": 174.5}, ours=False),
        Row("DPC", {"fid": 4.45, "inception_score": 244.8}, ours=False),
        Row("f-DM", {"fid": 6.8}, ours=False),
        Row("Draft-and-Revise", {"fid": 3.41, "inception_score": 224.6}, ours=False),
        Row(
            "StraIT, no guidance",
            {"fid": 3.96, "inception_score": 214.1},
            steps=(18, 6),
            decoding={"guidance": 0.0},
        ),
        Row(
            "StraIT, guidance 0.2",
            {"fid": 3.36, "inception_score": 259.3},
            steps=(18, 6),
            decoding={"guidance": 0.2},
        ),
    ),
)
