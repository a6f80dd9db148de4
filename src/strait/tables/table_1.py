"""Table 1: tokenizers of one and of two scales; which level of VQGAN2-C and of VQGAN2-R is the complex one.

strait table 1 --config tiny-imagenet64-cpu --data DIR --budget 10

VQGAN2-C and VQGAN2-R differ in their fusion alone. With the bottom dropped for some of the samples, as our own
configurations have it, the dropout decides what the top carries, whatever the fusion: that row is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from strait.tables.methods import bottom_dropped, bottom_kept
from strait.tables.table import Claim, Mean, Row, Table


def _over(rows: Mapping[str, Mapping[str, Mean]], name: str, figure: str, one: str, other: str) -> Mean:
    more, less = rows[name][f"{figure}_{one}"], rows[name][f"{figure}_{other}"]
    if more.error is None or less.error is None:
        return Mean(more.value - less.value, None)
    # Not as of independent figures: the levels of one tokenizer compete for codes, and at worst their errors add up.
    return Mean(more.value - less.value, more.error + less.error)


def _claims(where: str, figure: str) -> tuple[Claim, Claim]:
    return (
        Claim(
            f"the bottom of VQGAN2-C is its complex level{where}",
            partial(_over, name="VQGAN2-C", figure=figure, one="bottom", other="top"),
        ),
        Claim(
            f"the top of VQGAN2-R is its complex level{where}",
            partial(_over, name="VQGAN2-R", figure=figure, one="top", other="bottom"),
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
        "a perplexity of a batch is that of one batch of training, the only kind that the paper reports: the mean "
        "over the last tenth of the log and, behind the ±, its standard deviation there; a batch of few tokens cannot "
        "show a high one. The other perplexities are over all images that are judged",
    ),
)
