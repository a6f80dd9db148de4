"""Unselected samples of the shipped model, as three sheets: 8 classes by 8 seeds, 8 images at increasing numbers of
steps, and 8 images above their nearest training photographs.

    python benchmarks/samples.py --data DIR --features NETWORK --folder docs/images

Memorisation is measured on 64 images: the distance, in the network's features, of each image to the nearest training
photograph, and the same for reconstructed validation photographs, which cannot be memorised. The classes are evenly
spaced in the list; the seeds are 0 to 7.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from strait.data.images import in_order
from strait.data.sources import ImageSource, open_images
from strait.evaluation.features import FeatureNetwork, open_features
from strait.model.strait import StraIT
from strait.pictures.recipe import png_bytes
from strait.pictures.sheets import contact_sheet
from strait.runtime.files import write_new
from strait.types import Images

_CLASSES, _SEEDS, _BATCH = 8, 8, 100
_STEPS = ((1, 1), (2, 1), (4, 2), (8, 4), (12, 6), (16, 16))
_HELD_OUT = 512


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--features", required=True, help="inception, or the path of a TorchScript network")
    parser.add_argument("--folder", type=Path, required=True)
    args = parser.parse_args()
    model, network = StraIT.from_pretrained(args.model), open_features(args.features, torch.device("cpu"))
    about = {"model": model.weights_hash()}
    labels = [(2 * place + 1) * len(model.classes) // (2 * _CLASSES) for place in range(_CLASSES)]
    names = [model.classes.title(label) for label in labels]

    by_seed = [model.generate(labels, seed=seed) for seed in range(_SEEDS)]
    samples = torch.stack(by_seed, 1).flatten(0, 1)  # a row per class
    write(args.folder / "samples.png", samples, names, about)

    steps = [model.generate(labels, decoding=replace(model.default_decoding(), steps=count)) for count in _STEPS]
    titles = [f"{top}+{bottom} steps" for top, bottom in _STEPS]
    write(args.folder / "sample-steps.png", torch.cat(steps), titles, about)

    held_out = open_images(args.data, "validation")
    chosen = [index * len(held_out) // _HELD_OUT for index in range(_HELD_OUT)]
    batches = in_order(held_out, model.config.image_size, _BATCH, chosen)
    seen = torch.cat([model.decode(model.encode(batch.images(torch.device("cpu")))) for batch in batches])
    train = open_images(args.data, "train")
    by_features, by_pixels, far = nearest(torch.cat([samples, seen]), train, model.config.image_size, network)
    first = list(range(0, len(samples), _SEEDS))  # seed 0 of each class
    sheet = torch.cat(
        [
            samples[first],
            photographs(train, [by_features[index] for index in first], model.config.image_size),
            photographs(train, [by_pixels[index] for index in first], model.config.image_size),
        ]
    )
    titles = [
        "generated",
        "the nearest training photographs in features",
        "the nearest training photographs in pixels",
    ]
    write(args.folder / "sample-neighbours.png", sheet, titles, about, columns=_CLASSES)
    generated, reconstructed = far[: len(samples)], far[len(samples) :]
    nearer = (generated < reconstructed.quantile(0.01)).float().mean().item()
    report = {
        "training_photographs": len(train),
        "generated": quartiles(generated),
        "reconstructed_validation": quartiles(reconstructed),
        "generated_nearer_than_1_percent_of_validation": nearer,
    }
    print(json.dumps(report, indent=1))


def write(path: Path, images: Images, titles: Sequence[str], about: dict[str, str], columns: int = _SEEDS) -> None:
    write_new(path, png_bytes(contact_sheet(images, columns, titles), about), overwrite=True)


def photographs(source: ImageSource, indices: list[int], size: int) -> Images:
    return torch.cat([batch.images(torch.device("cpu")) for batch in in_order(source, size, len(indices), indices)])


def nearest(
    images: Images, source: ImageSource, size: int, network: FeatureNetwork
) -> tuple[list[int], list[int], Tensor]:
    """For each image, the nearest photograph in features and in pixels, and the distance in features."""
    queries = torch.cat([network(part).values for part in images.split(_BATCH)]), images.flatten(1)
    least = [torch.full((len(images),), float("inf")) for _ in queries]
    where = [torch.zeros(len(images), dtype=torch.int64) for _ in queries]
    for batch in tqdm(in_order(source, size, _BATCH), total=-(-len(source) // _BATCH), desc="comparing"):
        pixels = batch.images(torch.device("cpu"))
        for kind, candidates in enumerate((network(pixels).values, pixels.flatten(1))):
            distances, positions = torch.cdist(queries[kind], candidates).min(1)
            better = distances < least[kind]
            least[kind][better] = distances[better]
            where[kind][better] = batch.indices[positions[better]]
    return where[0].tolist(), where[1].tolist(), least[0]


def quartiles(values: Tensor) -> list[float]:
    return [round(value, 3) for value in values.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()]


if __name__ == "__main__":
    main()
