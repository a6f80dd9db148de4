"""Table 1: tokenizers of one and of two scales; which level of VQGAN2-C and of VQGAN2-R is the complex one.

strait table 1 --config tiny-imagenet64-cpu --data DIR --budget 10
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from strait.tables.table import Claim, Mean, Row, Table, single_scale, with_tokenizer


def _over(rows: Mapping[str, Mapping[str, Mean]], name: str, one: str, other: str) -> Mean:
    more, less = rows[name][f"perplexity_{one}"], rows[name][f"perplexity_{other}"]
    if more.error is None or less.error is None:
        return Mean(more.value - less.value, None)
    # Not as of independent figures: the levels of one tokenizer compete for codes, and at worst their errors add up.
    return Mean(more.value - less.value, more.error + less.error)


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
        Claim(
            "the bottom of VQGAN2-C is its complex level", partial(_over, name="VQGAN2-C", one="bottom", other="top")
        ),
        Claim("the top of VQGAN2-R is its complex level", partial(_over, name="VQGAN2-R", one="top", other="bottom")),
    ),
)
