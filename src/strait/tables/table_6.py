"""Table 6: the stratified pipeline on VQGAN2-C and VQGAN2-R, and the cascade of two VQGANs.

strait table 6 --config tiny-imagenet64-cpu --data DIR --budget 30

As in the paper, VQGAN2-C and VQGAN2-R differ only in their fusion; VQGAN2-R with bottom dropout is ours (Table 1).
"""

from __future__ import annotations

from typing import Any

from strait.tables.methods import bottom_dropped, bottom_kept
from strait.tables.table import Difference, Row, Table

_PLAIN: dict[str, Any] = {"steps_open": True, "decoding": {"guidance": 0.0}}
_ALIKE: dict[str, Any] = {"steps": (18, 6), **_PLAIN}
_C, _R, _OURS = "VQGAN2-C", "VQGAN2-R", "VQGAN2-R, bottom dropped (ours)"
_TOP, _BOTH = "cascade, top alone", "cascade"

TABLE = Table(
    number=6,
    title="which tokenizer, which pipeline",
    rows=(
        Row(
            _C,
            {"fid": 6.11},
            configuration="imagenet256-vqgan2-c-deep",
            change=bottom_kept,
            **_ALIKE,
        ),
        Row(
            _R,
            {"fid": 3.96, "difference": -2.15},
            configuration="imagenet256",
            change=bottom_kept,
            **_ALIKE,
        ),
        Row(_OURS, configuration="imagenet256", change=bottom_dropped, **_ALIKE),
        Row(_TOP, {"fid": 6.05}, configuration="cascade-imagenet256", steps=(18,), levels=1, **_PLAIN),
        Row(_BOTH, {"fid": 5.71, "difference": -0.34}, configuration="cascade-imagenet256", **_ALIKE),
    ),
    needs="two levels",
    differences=(Difference("difference", "fid", {_R: _C, _OURS: _C, _BOTH: _TOP}),),
)
