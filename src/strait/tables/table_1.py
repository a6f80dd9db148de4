"""Table 1: tokenizers of one and of two scales; which level of VQGAN2-C and of VQGAN2-R is the complex one.

strait table 1 --config tiny-imagenet64-cpu --data DIR --budget 10

VQGAN2-C and VQGAN2-R differ only in their fusion. With bottom dropout, as in our configurations, the dropout
determines what the top carries, whatever the fusion: that row is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from strait.tables.methods import bottom_dropped, bottom_kept
from strait.tables.table import Claim, Mean, Row, Table


def _excess(rows: Mapping[str, Mapping[str, Mean]], name: str, figure: str, complex_: str, simple: str) -> Mean:
    high, low = rows[name][f"{figure}_{complex_}"], rows[name][f"{figure}_{simple}"]
    if high.error is None or low.error is None:
        return Mean(high.value - low.value, None)
    # The levels of a tokenizer compete for codes, so their errors are not independent: at worst they add up.
    return Mean(high.value - low.value, high.error + low.error)


def _claims(where: str, figure: str) -> tuple[Claim, Claim]:
    return (
        Claim(
            f"the bottom of VQGAN2-C is its complex level{where}",
            partial(_excess, name="VQGAN2-C", figure=figure, complex_="bottom", simple="top"),
        ),
        Claim(
            f"the top of VQGAN2-R is its complex level{where}",
            partial(_excess, name="VQGAN2-R", figure=figure, complex_="top", simple="bottom"),
        ),
    )


TABLE = Table(
    number=1,
    title="tokenizers: reconstruction, and the perplexity of each level",
    rows=(
        Row(
            "VQGAN (f of the top)",
            {"rfid": 2.04, "psnr": 19.9, "perplexity_batch_tokens": 5893},
            configuration="maskgit-imagenet256-8192",
            spread={"perplexity_batch_tokens": 2.1},
        ),
        Row(
            "VQGAN (f of the bottom)",
            {"rfid": 0.81, "psnr": 24.3, "perplexity_batch_tokens": 6387},
            configuration="maskgit-imagenet256-f8",
            spread={"perplexity_batch_tokens": 2.8},
        ),
        Row(
            "VQGAN2-C",
            {"rfid": 0.65, "psnr": 24.9, "perplexity_batch_top": 405, "perplexity_batch_bottom": 6428},
            configuration="imagenet256-vqgan2-c-deep",
            change=bottom_kept,
            spread={"perplexity_batch_top": 1.3, "perplexity_batch_bottom": 4.1},
        ),
        Row(
            "VQGAN2-R",
            {"rfid": 0.67, "psnr": 24.8, "perplexity_batch_top": 5632, "perplexity_batch_bottom": 1644},
            configuration="imagenet256",
            change=bottom_kept,
            spread={"perplexity_batch_top": 2.0, "perplexity_batch_bottom": 1.9},
        ),
        Row("VQGAN2-R, bottom dropped (ours)", configuration="imagenet256", change=bottom_dropped),
    ),
    columns=(
        "rfid",
        "psnr",
        "perplexity_batch_tokens",
        "perplexity_batch_top",
        "perplexity_batch_bottom",
        "perplexity_tokens",
        "perplexity_top",
        "perplexity_bottom",
        "psnr_top_alone",
        "psnr_bottom_shuffled",
        "psnr_top_shuffled",
    ),
    tokenizer_alone=True,
    needs="two levels",
    claims=(
        *_claims(", in each batch of training", "perplexity_batch"),
        *_claims("", "perplexity"),
    ),
    notes=(
        "the perplexity of a batch is measured on single batches of training, the only kind in the paper: the mean "
        "over the last tenth of the log ± its standard deviation there; it is low for a batch of few tokens. The "
        "other perplexities are over all evaluated images",
    ),
)
