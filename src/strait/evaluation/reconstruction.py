"""Evaluation of a tokenizer on a data set: the quality of its reconstructions and the role of each level."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from strait.data.images import in_order
from strait.data.job import BadFiles
from strait.data.sources import DataError, ImageSource
from strait.evaluation.features import FeatureNetwork, Features
from strait.evaluation.fidelity import Summary, check_finite, frechet_distance, frechet_error, warn_if_few
from strait.evaluation.provenance import network_provenance, provenance_lines, versions_and_hardware
from strait.evaluation.recognised import logit_of_class, recognised
from strait.evaluation.reference import ReferenceSet, joined, reference_features
from strait.model.strait import StraIT
from strait.randomness import permutation
from strait.runtime.messages import aligned, figure, library_needed
from strait.runtime.ranks import ALONE, Ranks
from strait.tokenizer.perceptual import build_perceptual
from strait.tokenizer.stratification import Stratification
from strait.types import Images


def evaluate_reconstruction(
    model: StraIT,
    source: ImageSource,
    samples: int | None = None,
    batch_size: int = 50,
    network: FeatureNetwork | None = None,
    split: str = "validation",
    ranks: Ranks = ALONE,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """The stratification report on the images of a source, and the distances of their reconstructions.

    Args:
        model: whose tokenizer is evaluated.
        source: images, preferably not of the training set.
        samples: take only this many, evenly spaced.
        batch_size: images at once; levels are exchanged within a batch.
        network: computes the features for the Fréchet distance ``rfid``; None to omit it.
        split: name of the source's split, for the report.
        ranks: the processes, each of which does all the work, and which stop together.
        stopped: called between batches.

    Returns:
        The report of ``Stratification``; ``ssim`` and ``lpips`` if their libraries are installed; ``rfid`` with its
        error; if the network has a logit for each class, the recognised shares ``recognised`` (reconstructions),
        ``recognised_top_alone`` and ``recognised_photographs``, each with its error; ``provenance``.

    Raises:
        ModelError: if the model has no tokenizer.
        DataError: if no image can be read.
        FeatureError: if features are not finite; the message names the image.
        Stopped: if any process is to stop.
    """
    model.require("tokenizer")
    reference = ReferenceSet(source, split, model.config.image_size, samples)
    real = None
    if network is not None:
        real = reference_features(reference, network, model.device, ranks=ranks, stopped=stopped)
        warn_if_few(len(real), real.values.shape[1])
    distances = _distances(model.device)
    reconstructions = _reconstruct(model, reference, batch_size, network, distances, ranks, stopped)
    report: dict[str, Any] = reconstructions.stratification.report()
    report.update({name: total / report["images"] for name, total in reconstructions.sums.items()})
    if real is not None:
        report.update(_network_scores(source, real, reconstructions.features))
    report["provenance"] = {
        "features": None if network is None else network_provenance(network),
        "reference": reference.describe(),
        "reconstructed": {"order": "permuted", "batch_size": batch_size},
        "model": model.weights_hash(),
        **versions_and_hardware(model.device, ranks),
    }
    return report


@dataclass(frozen=True)
class _Reconstructions:
    """The results of one pass over the photographs.

    Attributes:
        stratification: with all images added.
        sums: each distance summed over the images.
        features: of the reconstructions ("") and of the tops alone ("_top_alone"); empty without a network.
    """

    stratification: Stratification
    sums: dict[str, float]
    features: dict[str, Features]


def _reconstruct(
    model: StraIT,
    reference: ReferenceSet,
    batch_size: int,
    network: FeatureNetwork | None,
    distances: Mapping[str, Callable[[Images, Images], Tensor]],
    ranks: Ranks,
    stopped: Callable[[], bool],
) -> _Reconstructions:
    config = model.config.tokenizer
    spaced = reference.indices()
    # Shuffled, since levels are exchanged between neighbours, which must not be of the same class.
    indices = [spaced[int(position)] for position in permutation(len(spaced), 0)]
    stratification = Stratification(model.tokenizer, config.codebook_sizes, config.shared_codebook)
    sums = dict.fromkeys(distances, 0.0)
    features: dict[str, list[Features]] = {"": [], "_top_alone": []}
    read: list[Tensor] = []
    bad_files, halted = BadFiles(), False
    with tqdm(
        total=len(indices), desc="reconstructing", unit="image", file=sys.stderr, dynamic_ncols=True, delay=1
    ) as bar:
        for batch in in_order(reference.source, reference.size, batch_size, indices):
            halted = stopped()
            if halted:
                break
            bad_files.note(batch.bad)
            if not len(batch.indices):
                continue
            images = batch.images(model.device)
            decoded = stratification.add(images)
            read.append(batch.indices)
            for name, distance in distances.items():
                sums[name] += float(distance(decoded.images, images)) * len(images)
            if network is not None:
                features[""].append(network(decoded.images))
                if decoded.top_alone is not None:
                    features["_top_alone"].append(network(decoded.top_alone))
            bar.update(len(images))
    ranks.stop_if(halted)
    if not read:
        raise DataError(f"--data: none of the {len(indices)} images can be read")
    bad_files.summary()
    order = torch.cat(read)
    sets = {suffix: replace(joined(parts), indices=order) for suffix, parts in features.items() if parts}
    return _Reconstructions(stratification, sums, sets)


def _network_scores(source: ImageSource, real: Features, reconstructed: Mapping[str, Features]) -> dict[str, float]:
    """The Fréchet distance of reconstructions and the recognised shares, each with its error."""
    check_finite(reconstructed[""], "reconstructed")
    samples, reference = Summary(reconstructed[""]), Summary(real)
    scores = {"rfid": frechet_distance(samples, reference), "rfid_error": frechet_error(samples, reference)}
    if logit_of_class(real, source.classes, source.classes) is None:
        return scores
    labels = torch.from_numpy(source.labels())
    for suffix, features in {**reconstructed, "_photographs": real}.items():
        assert features.indices is not None
        share = recognised(features, labels[features.indices])
        scores.update({key.replace("recognised", f"recognised{suffix}"): value for key, value in share.items()})
    return scores


def reconstruction_floor(
    source: ImageSource,
    train: ImageSource,
    size: int,
    samples: int,
    network: FeatureNetwork,
    device: torch.device,
    split: str = "validation",
    ranks: Ranks = ALONE,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """The ``rfid`` of training photographs in place of reconstructions.

    The reference of a reconstruction includes its own photograph, so a good tokenizer scores below this floor.
    Differences between tokenizers that are small compared with the floor are insignificant.

    Args:
        source: the reference photographs.
        train: photographs of the training set.
        size: side in pixels.
        samples: number of each.
        network: computes the features.
        device: of the network.
        split: name of the source's split, for the report.
        ranks: the processes that share the work.
        stopped: called between batches.

    Returns:
        ``rfid``, ``rfid_error``, ``images`` and ``provenance``.
    """
    sets = ReferenceSet(source, split, size, samples), ReferenceSet(train, "train", size, samples)
    reference, photographs = (
        Summary(reference_features(subset, network, device, ranks=ranks, stopped=stopped)) for subset in sets
    )
    scores = ranks.on_first(
        lambda: {
            "rfid": frechet_distance(photographs, reference),
            "rfid_error": frechet_error(photographs, reference),
        }
    )
    provenance = {
        "features": network_provenance(network),
        "reference": sets[0].describe(),
        "photographs": sets[1].describe(),
        **versions_and_hardware(device, ranks),
    }
    return {**scores, "images": len(photographs.values), "provenance": provenance}


def _distances(device: torch.device) -> dict[str, Callable[[Images, Images], Tensor]]:
    """SSIM and LPIPS, if their libraries and weights are available; each a mean over a batch."""
    distances: dict[str, Callable[[Images, Images], Tensor]] = {}
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except Exception as error:  # a torchvision built for another torch makes this import fail with any error
        print(f"no SSIM: it needs {library_needed(error, 'eval')}", file=sys.stderr)
    else:

        def similarity(reconstructions: Images, images: Images) -> Tensor:
            ssim = structural_similarity_index_measure(reconstructions.float(), images.float(), data_range=2.0)
            assert isinstance(ssim, Tensor)
            return ssim

        distances["ssim"] = similarity
    try:
        distances["lpips"] = build_perceptual("lpips", device)
    except ValueError as error:
        print(f"no LPIPS: {str(error).partition(': ')[2]}", file=sys.stderr)
    return distances


def side_by_side(models: Sequence[StraIT], photographs: Images) -> Images:
    """Photographs and their reconstructions by each tokenizer, in rows (Figure 7).

    Args:
        models: tokenizers of the same image size.
        photographs: ``[count, 3, size, size]`` in [-1, 1].

    Returns:
        ``[rows * count, 3, size, size]``: the photographs, then for each model the full reconstruction and, with two
        levels, the top alone.
    """
    rows = [photographs]
    for model in models:
        tokens = model.tokenizer.encode(photographs.to(model.device))
        for levels in range(model.tokenizer.levels, 0, -1):
            rows.append(model.tokenizer.decode(tokens, levels).to(photographs.device))
    return torch.cat(rows)


def row_titles(models: Mapping[str, StraIT]) -> list[str]:
    """The titles of the rows of ``side_by_side``, for models by name."""
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
    "recognised": "recognised by the network",
    "recognised_error": "   its sampling error",
    "recognised_top_alone": "   the top alone",
    "recognised_top_alone_error": "   its sampling error",
    "recognised_photographs": "   the photographs themselves",
    "recognised_photographs_error": "   its sampling error",
    "ssim": "SSIM",
    "lpips": "LPIPS",
    "psnr": "PSNR of the full image, dB",
    "psnr_error": "   its sampling error",
    "psnr_top_alone": "PSNR of the top alone, dB",
    "psnr_top_alone_error": "   its sampling error",
    "psnr_top_thumbnail": "   a thumbnail of the top's grid, dB",
    "psnr_bottom_thumbnail": "   a thumbnail of the bottom's grid, dB",
    "psnr_tokens_thumbnail": "   a thumbnail of the grid, dB",
    "psnr_bottom_shuffled": "PSNR with the bottom of another image, dB",
    "psnr_top_shuffled": "PSNR with the top of another image, dB",
    "perplexity_top": "perplexity of the top",
    "perplexity_top_error": "   its sampling error",
    "perplexity_bottom": "perplexity of the bottom",
    "perplexity_bottom_error": "   its sampling error",
    "perplexity_tokens": "perplexity",
    "perplexity_tokens_error": "   its sampling error",
    "tokens_counted_top": "   over so many tokens of each level",
    "tokens_counted_tokens": "   over so many tokens",
    "usage_top": "share of codes the top uses",
    "usage_bottom": "share of codes the bottom uses",
    "usage_tokens": "share of codes used",
    "overlap": "share of used codes both levels use",
}
"""The label of each figure of the report, in display order."""


def report_table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Reports as text, a column per report, with their provenance below."""
    names = [name for name in MEANINGS if any(name in report for report in reports.values())]
    rows = [["", *reports]] if len(reports) > 1 else []
    rows += [[MEANINGS[name], *(figure(report.get(name)) for report in reports.values())] for name in names]
    lines = [aligned(rows, right=range(1, len(reports) + 1))]
    fewest = min(report["tokens_per_code"] for report in reports.values())
    if fewest < 100:
        lines.append(f"({fewest:.0f} tokens per code: below 100, perplexity is underestimated)")
    lines += ["", *provenance_lines([report["provenance"] for report in reports.values()], list(reports))]
    return "\n".join(lines)
