"""Table 1: tokenizers of one and of two scales; which level of VQGAN2-C and of VQGAN2-R is the complex one.

strait table 1 --config tiny-imagenet64-cpu --data DIR --budget 10
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from strait.experiments.table import Claim, Row, Scores, Table, single_scale, with_tokenizer


def _top_over_bottom(rows: Mapping[str, Scores], name: str) -> float:
    return rows[name]["perplexity_top"] - rows[name]["perplexity_bottom"]


TABLE = Table(
    number=1,
    title="tokenizers: reconstruction, and the perplexity of each level",
    rows=(
        Row("VQGAN (f of the top)", {"rfid": 2.04, "psnr": 19.9, "perplexity_tokens": 5893}, single_scale),
        Row(
            "VQGAN (f of the bottom)",
            {"rfid": 0.81, "psnr": 24.3, "perplexity_tokens": 6387},
            partial(single_scale, fine=True),
        ),
        Row(
            "VQGAN2-C",
            {"rfid": 0.65, "psnr": 24.9, "perplexity_top": 405, "perplexity_bottom": 6428},
            partial(with_tokenizer, kind="vqgan2-c-deep"),
        ),
        Row(
            "VQGAN2-R",
            {"rfid": 0.67, "psnr": 24.8, "perplexity_top": 5632, "perplexity_bottom": 1644},
            partial(with_tokenizer, kind="vqgan2-r"),
        ),
    ),
    columns=(
        "rfid",
        "psnr",
        "perplexity_tokens",
        "perplexity_top",
        "perplexity_bottom",
        "psnr_top_alone",
        "psnr_bottom_shuffled",
        "psnr_top_shuffled",
    ),
    tokenizer_alone=True,
    claims=(
        Claim("the bottom of VQGAN2-C is its complex level", lambda rows: -_top_over_bottom(rows, "VQGAN2-C")),
        Claim("the top of VQGAN2-R is its complex level", lambda rows: _top_over_bottom(rows, "VQGAN2-R")),
    ),
)
