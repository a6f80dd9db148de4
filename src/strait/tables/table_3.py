"""Table 3: StraIT with classifier-free guidance of 0.2; other methods are quoted.

strait table 3 --data DIR
"""

from __future__ import annotations

from strait.tables.table import Row, Table


def _quoted(name: str, parameters: float, steps: str, fid: float, score: float | None = None) -> Row:
    scores = {"fid": fid} if score is None else {"fid": fid, "inception_score": score}
    return Row(name, {"parameters": parameters, **scores}, quoted={"steps": steps}, ours=False)


TABLE = Table(
    number=3,
    title="generation with guidance",
    rows=(
        _quoted("Improved VQ-Diffusion", 510e6, "100", 4.83),
        _quoted("Token-Critic", 391e6, "18x2", 4.69, 174.5),
        _quoted("DPC", 391e6, "180", 4.45, 244.8),
        _quoted("f-DM", 302e6, "250", 6.8),
        _quoted("Draft-and-Revise", 1.4e9, "68x(1+4)", 3.41, 224.6),
        Row(
            "StraIT, no guidance",
            {"parameters": 863e6, "fid": 3.96, "inception_score": 214.1},
            steps=(18, 6),
            decoding={"guidance": 0.0},
            quoted={"steps": "12*"},
        ),
        Row(
            "StraIT, guidance 0.2",
            {"parameters": 863e6, "fid": 3.36, "inception_score": 259.3},
            steps=(18, 6),
            decoding={"guidance": 0.2},
            quoted={"steps": "18+6"},
        ),
    ),
    columns=("parameters", "steps", "fid", "inception_score", "precision", "recall"),
    needs="two levels",
    notes=("the row without guidance is from the paper's Table 2, which counts steps differently (12*)",),
)
