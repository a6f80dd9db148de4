"""How well a tokenizer gives images back, and which level carries what: the stratification report over a data set."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from tqdm import tqdm

from strait.data.images import BadFiles, in_order
from strait.data.sources import DataError, ImageSource
from strait.model import StraIT
from strait.randomness import permutation
from strait.tokenizer.perplexity import stratification_report
from strait.types import Images


def evaluate_reconstruction(
    model: StraIT, source: ImageSource, samples: int | None = None, batch_size: int = 50
) -> dict[str, float]:
    """The stratification report on the images of a source.

    Args:
        model: whose tokenizer is judged.
        source: images it was not trained on, best.
        samples: take only this many, evenly spread.
        batch_size: images at once; levels are exchanged within a batch.

    Raises:
        ModelError: if the model has no tokenizer.
        DataError: if no image can be read.
    """
    model.require("tokenizer")
    config = model.config.tokenizer
    count = len(source) if samples is None else min(samples, len(source))
    # Evenly spread, then in no order: images are exchanged with their neighbours, which must not be of one class.
    indices = [int(place) * len(source) // count for place in permutation(count, 0)]
    bad_files = BadFiles()
    seen = 0

    def batches() -> Iterator[Images]:
        nonlocal seen
        for batch in in_order(source, model.config.image_size, batch_size, indices):
            bad_files.note(batch.bad)
            seen += len(batch.indices)
            if len(batch.indices):
                yield batch.images(model.device)

    with tqdm(total=count, desc="reconstructing", unit="image", file=sys.stderr, dynamic_ncols=True, delay=1) as bar:
        try:
            report = stratification_report(
                model.tokenizer, config.codebook_sizes, batches(), config.shared_codebook, bar.update
            )
        except ValueError as error:
            if seen:
                raise
            raise DataError(f"--data: none of the {count} images can be read") from error
    bad_files.summary()
    return report


MEANINGS = {
    "images": "images",
    "psnr": "PSNR of the full image, dB",
    "psnr_top_alone": "PSNR of the top alone, dB",
    "psnr_top_thumbnail": "   a thumbnail of the top's grid, dB",
    "psnr_bottom_thumbnail": "   a thumbnail of the bottom's grid, dB",
    "psnr_tokens_thumbnail": "   a thumbnail of the grid, dB",
    "psnr_bottom_shuffled": "PSNR with the bottom of another image, dB",
    "psnr_top_shuffled": "PSNR with the top of another image, dB",
    "perplexity_top": "perplexity of the top",
    "perplexity_bottom": "perplexity of the bottom",
    "perplexity_tokens": "perplexity",
    "tokens_counted_top": "   over so many tokens of each level",
    "tokens_counted_tokens": "   over so many tokens",
    "usage_top": "share of codes the top uses",
    "usage_bottom": "share of codes the bottom uses",
    "usage_tokens": "share of codes used",
    "overlap": "share of used codes both levels use",
}
"""What each figure of the report means, in the order in which a person reads them."""


def report_table(report: dict[str, float]) -> str:
    """The report as lines for people."""
    width = max(len(MEANINGS[name]) for name in MEANINGS if name in report)
    lines = [
        f"{meaning:<{width}}  {report[name]:>10,.{0 if float(report[name]).is_integer() else 3}f}"
        for name, meaning in MEANINGS.items()
        if name in report
    ]
    if report["tokens_per_code"] < 100:
        lines.append(f"({report['tokens_per_code']:.0f} tokens per code: below 100, a perplexity comes out too low)")
    return "\n".join(lines)
