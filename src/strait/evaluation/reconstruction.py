"""How well a tokenizer gives images back, and which level carries what: the stratification report over a data set."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
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
    """The stratification report on the images of a source, and how near the reconstructions are to them.

    Args:
        model: whose tokenizer is judged.
        source: images it was not trained on, best.
        samples: take only this many, evenly spread.
        batch_size: images at once; levels are exchanged within a batch.
        network: whose features give the Fréchet distance of the reconstructions, ``rfid``; None for no such score.
        split: the name of the source's split, for the record.
        ranks: processes that all do this, and stop together.
        stopped: asked between batches.

    Returns:
        The report; ``ssim`` and ``lpips`` where what they need is installed; ``rfid`` with its error; the shares that
        the network recognises, ``recognised`` (reconstructions), ``recognised_top_alone`` and
        ``recognised_photographs``, each with its error, where it has a logit for each class; ``provenance``.

    Raises:
        ModelError: if the model has no tokenizer.
        DataError: if no image can be read.
        FeatureError: if features are no numbers; the message names the image.
        Stopped: if any process was told to stop.
    """
    model.require("tokenizer")
    config = model.config.tokenizer
    reference = ReferenceSet(source, split, model.config.image_size, samples)
    real = None
    if network is not None:
        real = reference_features(reference, network, model.device, ranks=ranks, stopped=stopped)
        warn_if_few(len(real), real.values.shape[1])
    spread = reference.indices()
    # Evenly spread, then in no order: images are exchanged with their neighbours, which must not be of one class.
    indices = [spread[int(place)] for place in permutation(len(spread), 0)]
    stratification = Stratification(model.tokenizer, config.codebook_sizes, config.shared_codebook)
    distances = _distances(model.device)
    sums = dict.fromkeys(distances, 0.0)
    seen: dict[str, list[Features]] = {"": [], "_top_alone": []}
    taken: list[Tensor] = []
    bad_files, halted = BadFiles(), False
    with tqdm(
        total=len(indices), desc="reconstructing", unit="image", file=sys.stderr, dynamic_ncols=True, delay=1
    ) as bar:
        for batch in in_order(source, model.config.image_size, batch_size, indices):
            halted = stopped()
            if halted:
                break
            bad_files.note(batch.bad)
            if not len(batch.indices):
                continue
            images = batch.images(model.device)
            decoded = stratification.add(images)
            taken.append(batch.indices)
            for name, distance in distances.items():
                sums[name] += float(distance(decoded.images, images)) * len(images)
            if network is not None:
                seen[""].append(network(decoded.images))
                if decoded.top_alone is not None:
                    seen["_top_alone"].append(network(decoded.top_alone))
            bar.update(len(images))
    ranks.stop_if(halted)
    if not taken:
        raise DataError(f"--data: none of the {len(indices)} images can be read")
    bad_files.summary()
    report: dict[str, Any] = stratification.report()
    report.update({name: value / report["images"] for name, value in sums.items()})
    if network is not None and real is not None:
        order = torch.cat(taken)
        drawn = {name: replace(joined(parts), indices=order) for name, parts in seen.items() if parts}
        check_finite(drawn[""], "reconstructed")
        ours, theirs = Summary(drawn[""]), Summary(real)
        report["rfid"] = frechet_distance(ours, theirs)
        report["rfid_error"] = frechet_error(ours, theirs)
        if logit_of_class(real, source.classes, source.classes) is not None:
            labels = torch.from_numpy(source.labels())
            for name, features in {**drawn, "_photographs": real}.items():
                assert features.indices is not None
                share = recognised(features, labels[features.indices])
                report.update({key.replace("recognised", f"recognised{name}"): value for key, value in share.items()})
    report["provenance"] = {
        "features": None if network is None else network_provenance(network),
        "reference": reference.describe(),
        "reconstructed": {"order": "permuted", "batch_size": batch_size},
        "model": model.weights_hash(),
        **versions_and_hardware(model.device, ranks),
    }
    return report


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
    """The ``rfid`` that as many photographs of the training set would have in the place of reconstructions.

    A reconstruction is compared with its own photograph among others, so a good tokenizer comes below this; a
    difference between tokenizers that is small beside it is small.

    Args:
        source: the photographs that are reconstructed.
        train: others.
        size: side in pixels.
        samples: of each.
        network: whose features are compared.
        device: where.
        split: the name of the source's split, for the record.
        ranks: the processes that share the work.
        stopped: asked between batches.

    Returns:
        ``rfid``, ``rfid_error``, ``images`` and ``provenance``.
    """
    sets = ReferenceSet(source, split, size, samples), ReferenceSet(train, "train", size, samples)
    theirs, ours = (Summary(reference_features(some, network, device, ranks=ranks, stopped=stopped)) for some in sets)
    scores = ranks.on_first(
        lambda: {"rfid": frechet_distance(ours, theirs), "rfid_error": frechet_error(ours, theirs)}
    )
    about = {
        "features": network_provenance(network),
        "reference": sets[0].describe(),
        "photographs": sets[1].describe(),
    }
    return {**scores, "images": len(ours.values), "provenance": {**about, **versions_and_hardware(device, ranks)}}


def _distances(device: torch.device) -> dict[str, Callable[[Images, Images], Tensor]]:
    """SSIM, and LPIPS, where their library and its weights are at hand; each a mean over a batch."""
    found: dict[str, Callable[[Images, Images], Tensor]] = {}
    try:
        from torchmetrics.functional.image import structural_similarity_index_measure
    except Exception as error:  # a torchvision that does not fit this torch takes torchmetrics with it, by any error
        print(f"no SSIM: it needs {library_needed(error, 'eval')}", file=sys.stderr)
    else:

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
"""What each figure of the report means, in the order in which a person reads them."""


def report_table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Reports as lines for people, a column each under the names they go by; below them what they depend on."""
    names = [name for name in MEANINGS if any(name in report for report in reports.values())]
    rows = [["", *reports]] if len(reports) > 1 else []
    rows += [[MEANINGS[name], *(figure(report.get(name)) for report in reports.values())] for name in names]
    lines = [aligned(rows, right=range(1, len(reports) + 1))]
    fewest = min(report["tokens_per_code"] for report in reports.values())
    if fewest < 100:
        lines.append(f"({fewest:.0f} tokens per code: below 100, a perplexity comes out too low)")
    lines += ["", *provenance_lines([report["provenance"] for report in reports.values()], list(reports))]
    return "\n".join(lines)
