"""How well a tokenizer gives images back, and which level carries what: the stratification report over a data set."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from strait.data.images import BadFiles, in_order
from strait.data.sources import DataError, ImageSource
from strait.evaluation.features import FeatureNetwork, Features
from strait.evaluation.fidelity import check_finite, frechet_distance, frechet_error
from strait.evaluation.reference import joined
from strait.evaluation.report import aligned, figure
from strait.model import StraIT
from strait.randomness import permutation
from strait.tokenizer.perceptual import build_perceptual
from strait.tokenizer.perplexity import stratification_report
from strait.types import Images


def evaluate_reconstruction(
    model: StraIT,
    source: ImageSource,
    samples: int | None = None,
    batch_size: int = 50,
    network: FeatureNetwork | None = None,
) -> dict[str, float]:
    """The stratification report on the images of a source, and how near the reconstructions are to them.

    Args:
        model: whose tokenizer is judged.
        source: images it was not trained on, best.
        samples: take only this many, evenly spread.
        batch_size: images at once; levels are exchanged within a batch.
        network: whose features give the Fréchet distance of the reconstructions, ``rfid``; None for no such score.

    Returns:
        The report, with ``ssim`` and ``lpips`` where what they need is installed, and ``rfid`` with its error.

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
    found = 0

    def batches() -> Iterator[Images]:
        nonlocal found
        for batch in in_order(source, model.config.image_size, batch_size, indices):
            bad_files.note(batch.bad)
            found += len(batch.indices)
            if len(batch.indices):
                yield batch.images(model.device)

    distances = _distances(model.device)
    sums = dict.fromkeys(distances, 0.0)
    features: tuple[list[Features], list[Features]] = ([], [])

    def seen(images: Images, reconstructions: Images) -> None:
        bar.update(len(images))
        for name, distance in distances.items():
            sums[name] += float(distance(reconstructions, images)) * len(images)
        if network is not None:
            features[0].append(network(images))
            features[1].append(network(reconstructions))

    with tqdm(total=count, desc="reconstructing", unit="image", file=sys.stderr, dynamic_ncols=True, delay=1) as bar:
        try:
            report = stratification_report(
                model.tokenizer, config.codebook_sizes, batches(), config.shared_codebook, seen
            )
        except ValueError as error:
            if found:
                raise
            raise DataError(f"--data: none of the {count} images can be read") from error
    bad_files.summary()
    report.update({name: value / report["images"] for name, value in sums.items()})
    if network is not None:
        real, again = (joined(some) for some in features)
        check_finite(real, "real")
        check_finite(again, "reconstructed")
        report["rfid"] = frechet_distance(again.values, real.values)
        report["rfid_error"] = frechet_error(again.values, real.values)
    return report


def _distances(device: torch.device) -> dict[str, Callable[[Images, Images], Tensor]]:
    """SSIM, and LPIPS, where their library and its weights are at hand; each a mean over a batch."""
    found: dict[str, Callable[[Images, Images], Tensor]] = {}
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except Exception:  # a torchvision that does not fit this torch takes torchmetrics with it, with what it likes
        print("no SSIM: it needs torchmetrics (pip install 'strait[eval]')", file=sys.stderr)
        return found

    def similarity(reconstructions: Images, images: Images) -> Tensor:
        found = structural_similarity_index_measure(reconstructions.float(), images.float(), data_range=2.0)
        assert isinstance(found, Tensor)
        return found

    found["ssim"] = similarity
    try:
        found["lpips"] = build_perceptual("lpips", device)
    except ValueError as error:
        print(f"no LPIPS: {str(error).partition(': ')[2]}", file=sys.stderr)
    return found


def side_by_side(models: Sequence[StraIT], photographs: Images) -> Images:
    """Photographs and how each tokenizer gives them back, in rows (Figure 7).

    Args:
        models: tokenizers of one image size.
        photographs: ``[count, 3, size, size]`` in [-1, 1].

    Returns:
        ``[rows * count, 3, size, size]``: the photographs, then for each model the full image and, where it has two
        levels, the top alone.
    """
    rows = [photographs]
    for model in models:
        tokens = model.tokenizer.encode(photographs.to(model.device))
        for levels in range(model.tokenizer.levels, 0, -1):
            rows.append(model.tokenizer.decode(tokens, levels).to(photographs.device))
    return torch.cat(rows)


def row_titles(models: Mapping[str, StraIT]) -> list[str]:
    """What the rows of ``side_by_side`` show, for models by name."""
    titles = ["photographs"]
    for name, model in models.items():
        titles += [
            f"{name}, top alone" if levels == 1 < model.tokenizer.levels else name
            for levels in range(model.tokenizer.levels, 0, -1)
        ]
    return titles


MEANINGS = {
    "images": "images",
    "rfid": "Fréchet distance of the reconstructions",
    "rfid_error": "   its sampling error",
    "ssim": "SSIM",
    "lpips": "LPIPS",
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


def report_table(reports: Mapping[str, dict[str, float]]) -> str:
    """Reports as lines for people, a column each under the names they go by."""
    names = [name for name in MEANINGS if any(name in report for report in reports.values())]
    rows = [["", *reports]] if len(reports) > 1 else []
    rows += [[MEANINGS[name], *(figure(report.get(name)) for report in reports.values())] for name in names]
    lines = [aligned(rows, right=range(1, len(reports) + 1))]
    fewest = min(report["tokens_per_code"] for report in reports.values())
    if fewest < 100:
        lines.append(f"({fewest:.0f} tokens per code: below 100, a perplexity comes out too low)")
    return "\n".join(lines)
