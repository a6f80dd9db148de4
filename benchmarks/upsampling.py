"""The upsampler compared with a smooth enlargement, on photographs outside the training set.

    python benchmarks/upsampling.py --model M --data DIR --features NETWORK --samples 500 --sheet sheet.png

Each photograph, at twice the model's base size, is compared with: the tokenizer's reconstruction at that size (an
upper bound for the upsampler), the upsampler's result for the true low-resolution tokens, its result for the tokens of
another photograph, and a bicubic enlargement of the low-resolution reconstruction. The score is PSNR; with
``--features`` also the Fréchet distance to the same photographs, and how many are recognised. A sample is not a mean,
so even the PSNR of a perfect upsampler would be below that of the smooth enlargement.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from strait.data.images import in_order
from strait.data.sources import ClassesOf, open_images
from strait.decoding.config import DecodingConfig
from strait.decoding.stratified import final_tokens
from strait.evaluation.features import Features, open_features
from strait.evaluation.fidelity import Summary, frechet_distance, frechet_error
from strait.evaluation.recognised import logit_of_class, recognised
from strait.evaluation.reference import joined
from strait.model.strait import StraIT
from strait.pictures.recipe import png_bytes
from strait.pictures.sheets import contact_sheet
from strait.runs.part_tokens import encode_at_two_sizes
from strait.runtime.files import write_new
from strait.tokenizer.stratification import peak_signal_to_noise
from strait.types import Canvas, Tokens

PHOTOGRAPHS, RECONSTRUCTION = "photographs", "reconstruction at the high resolution"


def upsampled(
    model: StraIT, labels: Tensor, low: tuple[Tensor, ...], indices: Tensor, decoding: DecodingConfig
) -> Tokens:
    """All four levels, of which the first two are given."""
    grids = model.config.grids[2:]
    canvases = [Canvas.known(grid) for grid in low] + [Canvas.blank(len(labels), grid) for grid in grids]
    return final_tokens(model.decoding_steps(labels, seed=0, decoding=decoding, indices=indices, canvases=canvases))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--features", help="inception, efficientnet, or the path of a TorchScript network")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--guidance", type=float, help="of the upsampler; the model's by default")
    parser.add_argument("--temperature", type=float, help="of the upsampler; the model's by default")
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    model = StraIT.from_pretrained(args.model)
    model.require("tokenizer", "top", "bottom", "upsampler")
    decoding = model.default_decoding()
    if args.guidance is not None:
        decoding = replace(decoding, guidance=args.guidance, guidance_start=0.0)
    if args.temperature is not None:
        decoding = replace(decoding, temperature=(args.temperature,) * len(decoding.temperature))
    network = None if args.features is None else open_features(args.features, model.device)
    source = ClassesOf(open_images(args.data, "validation"), model.classes)
    # Evenly spaced, with a stride between neighbours, so that "another photograph" is of another class.
    count = min(args.samples, len(source))
    order = [(place * 37 % count) * len(source) // count for place in range(count)]
    scores: dict[str, dict[str, float]] = {}
    hits = {"top": 0.0, "bottom": 0.0}
    features: dict[str, list[Features]] = {}
    all_labels: list[Tensor] = []
    seen = 0
    for batch in in_order(source, 2 * model.config.image_size, args.batch_size, order):
        images, labels = batch.images("cpu"), batch.labels
        indices = torch.arange(seen, seen + len(labels))
        tokens = encode_at_two_sizes(model.tokenizer, images)
        low, high = tokens.levels[:2], tokens.levels[2:]
        drawn = upsampled(model, labels, low, indices, decoding)
        mixed = upsampled(model, labels, tuple(grid.roll(1, 0) for grid in low), indices, decoding)
        small = model.tokenizer.decode(Tokens(low))
        pictures = {
            PHOTOGRAPHS: images,
            "bicubic enlargement of the low-resolution reconstruction": F.interpolate(
                small, scale_factor=2, mode="bicubic", align_corners=False
            ).clamp(-1, 1),
            "upsampler": model.decode(drawn),
            "upsampler, tokens of another photograph": model.decode(mixed),
            RECONSTRUCTION: model.decode(tokens),
        }
        for name, picture in pictures.items():
            sums = scores.setdefault(name, {"psnr": 0.0})
            sums["psnr"] += float(peak_signal_to_noise(picture, images).sum())
            if network is not None:
                features.setdefault(name, []).append(network(picture))
        for name, ours, true in zip(hits, drawn.levels[2:], high, strict=True):
            hits[name] += float((ours == true).float().mean((1, 2)).sum())
        if args.sheet is not None and seen == 0:
            rows = [picture for name, picture in pictures.items() if "another" not in name]
            sheet = contact_sheet(torch.cat([row[:8] for row in rows]), 8)
            write_new(args.sheet, png_bytes(sheet, {}), overwrite=True)
        all_labels.append(labels)
        seen += len(labels)
    del scores[PHOTOGRAPHS]["psnr"]
    for sums in scores.values():
        sums.update({name: total / seen for name, total in sums.items()})
    if network is not None:
        add_network_scores(scores, {name: joined(parts) for name, parts in features.items()}, source, all_labels)
    report = {
        "samples": seen,
        "tokens drawn as in the photograph": {name: total / seen for name, total in hits.items()},
        "scores": scores,
    }
    print(json.dumps(json.loads(json.dumps(report), parse_float=lambda text: round(float(text), 4)), indent=1))


def add_network_scores(
    scores: dict[str, dict[str, float]], features: dict[str, Features], source: ClassesOf, labels: list[Tensor]
) -> None:
    """The Fréchet distance of each set to the photographs, and its recognised share."""
    photographs = Summary(features[PHOTOGRAPHS])
    logits = logit_of_class(features[PHOTOGRAPHS], source.classes, source.classes)
    for name, image_features in features.items():
        if name != PHOTOGRAPHS:
            samples = Summary(image_features)
            scores[name]["frechet"] = frechet_distance(samples, photographs)
            scores[name]["frechet_error"] = frechet_error(samples, photographs)
        if logits is not None:
            scores[name] |= recognised(image_features, logits[torch.cat(labels)])


if __name__ == "__main__":
    main()
