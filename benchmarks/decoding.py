r"""Revision, varying guidance and adaptive steps at equal forward passes, on the shipped model.

    python benchmarks/decoding.py --data DIR --features NETWORK --features efficientnet --output rows.jsonl \
        [--plot docs/images/passes.png]

The method `none` is the model's own settings with a constant guidance; the others change it in one respect. Each
method draws the same images (sample i has class i modulo the number of classes) under two seeds. A row is
written as soon as it is there, and a second call continues where the first ended. The table has the means of the
seeds. Errors are standard errors over images: of the distance by the delta method, of recall over the photographs.
They do not contain the choice of photographs, which all methods share. The plot shows the scores of fixed and of
adaptive steps against forward passes; it needs `pip install ".[eval]"`.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from strait.data.sources import open_images
from strait.decoding.adaptive import PassCount
from strait.decoding.config import DecodingConfig
from strait.decoding.stratified import final_tokens
from strait.evaluation.features import FeatureNetwork, open_features
from strait.evaluation.fidelity import Summary, fidelity, frechet_error
from strait.evaluation.provenance import network_provenance
from strait.evaluation.recognised import logit_of_class, recognised
from strait.evaluation.reference import ReferenceSet, features_of, reference_features
from strait.model.strait import StraIT
from strait.runtime.messages import aligned
from strait.types import Images


def methods(base: DecodingConfig) -> dict[str, DecodingConfig]:
    """Settings by their names; all but those with another number of passes in their names take those of ``base``."""
    top, bottom = base.steps

    def with_steps(*steps: int, **changes: Any) -> DecodingConfig:
        return replace(base, steps=steps, **changes)

    settings = {"none": base}
    for share in (0.05, 0.1, 0.2):
        for kind in ("remask", "confidence"):
            settings[f"{kind} {share:g}"] = replace(base, revise=kind, revise_share=share)
    for passes in (2, 4):
        steps = (top - passes, bottom - passes)
        if min(steps) > 0:
            settings[f"redraw {passes}"] = with_steps(*steps, revise="redraw", revise_passes=passes)
    for ramp in ("linear", "power_cosine"):
        for times in (1, 2, 3):
            settings[f"{ramp} x{times}"] = replace(base, guidance_ramp=ramp, guidance=times * base.guidance)
    for start in (0.25, 0.5):
        for times in (1, 2):
            settings[f"late {start:g} x{times}"] = replace(base, guidance_start=start, guidance=times * base.guidance)
    for share in (1 / 2, 3 / 4, 2):
        steps = (round(share * top), round(share * bottom))
        settings[f"none {steps[0]}+{steps[1]}"] = with_steps(*steps)
    for quality in (0.92, 0.9, 0.85, 0.8):
        settings[f"auto {quality:g}"] = replace(base, quality=quality)
    for quality in (0.96, 0.92):
        settings[f"auto {quality:g} of {2 * top}+{2 * bottom}"] = with_steps(2 * top, 2 * bottom, quality=quality)
    return settings


_SCORES = ("recognised", "frechet")


def draw(model: StraIT, decoding: DecodingConfig, samples: int, seed: int, batch: int) -> tuple[list[Images], Any]:
    """The images in batches, and the mean number of forward passes of each level and in all, and seconds, an image."""
    indices, passes, batches = torch.arange(samples), list[list[int]](), list[Images]()
    start = time.perf_counter()
    for rows in indices.split(batch):
        count = PassCount()
        steps = model.decoding_steps(rows % max(1, len(model.classes)), seed, rows, decoding)
        batches.append(model.decode(final_tokens(steps, count)))
        passes += count.rows()
    seconds = time.perf_counter() - start
    levels = [sum(level) / samples for level in zip(*passes, strict=True)]
    return batches, {"passes": levels, "all_passes": sum(levels), "seconds": seconds / samples}


class Scores:
    """Compares images with photographs by one network."""

    def __init__(self, model: StraIT, network: FeatureNetwork, reference: ReferenceSet) -> None:
        self.network = network
        self.real = Summary(reference_features(reference, network, model.device))
        self.classes = logit_of_class(self.real.features, model.classes, reference.source.classes)

    def __call__(self, batches: list[Images], samples: int) -> dict[str, Any]:
        features = features_of(batches, self.network, samples, "scoring")
        assert features is not None
        summary = Summary(features)
        scores = fidelity(self.real, summary)
        recall, share = float(scores["recall"] or 0), {}
        if self.classes is not None:
            share = recognised(features, self.classes[torch.arange(samples) % len(self.classes)])
        return {
            "frechet": scores["fid"],
            "frechet_error": frechet_error(summary, self.real),
            "recall": recall,
            "recall_error": math.sqrt(recall * (1 - recall) / len(self.real.values)),
            **share,
        }


def written_rows(path: Path, about: dict[str, Any], chosen: dict[str, DecodingConfig]) -> list[dict[str, Any]]:
    """The rows of an earlier call; a line that was cut off is removed.

    Raises:
        SystemExit: if they are of another model, other photographs, another number of images, or other settings.
    """
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    if lines and not lines[-1].endswith("\n"):
        lines.pop()
        path.write_text("".join(lines), encoding="utf-8")
    rows = [json.loads(line) for line in lines]
    settings = {name: json.loads(json.dumps(asdict(decoding))) for name, decoding in chosen.items()}
    if any(row["about"] != about or row["decoding"] != settings.get(row["method"], row["decoding"]) for row in rows):
        raise SystemExit(f"--output: the rows of {path} are of other settings; give another file")
    return rows


def table(rows: list[dict[str, Any]], names: list[str]) -> str:
    """A line for each method: the means over its seeds, with their standard errors."""

    def cell(of: list[dict[str, Any]], key: str, digits: int) -> str:
        if any(key not in scores for scores in of):
            return "-"
        mean = sum(scores[key] for scores in of) / len(of)
        error = math.sqrt(sum(scores[f"{key}_error"] ** 2 for scores in of)) / len(of)
        return f"{mean:.{digits}f} ± {error:.{digits}f}"

    header = ["method", "seeds", "forward passes", "seconds an image"]
    for name in names:
        header += [f"Fréchet ({name})", f"recognised ({name})", f"recall ({name})"]
    lines = [header]
    for method in dict.fromkeys(row["method"] for row in rows):
        of_method = [row for row in rows if row["method"] == method]
        means = [sum(level) / len(of_method) for level in zip(*(row["passes"] for row in of_method), strict=True)]
        seconds = sum(row["seconds"] for row in of_method) / len(of_method)
        passes = f"{sum(means):.1f} ({'+'.join(f'{mean:.1f}' for mean in means)})"
        line = [method, str(len(of_method)), passes, f"{seconds:.3f}"]
        for name in names:
            scores = [row["scores"][name] for row in of_method]
            line += [cell(scores, "frechet", 3), cell(scores, "recognised", 3), cell(scores, "recall", 3)]
        lines.append(line)
    return aligned(lines, right=range(1, len(header)))


def plot(rows: list[dict[str, Any]], network: str, path: Path) -> None:
    """Recognised images and distance by ``network`` against forward passes, of fixed and of adaptive steps."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for kind, title, marker in (("none", "fixed steps", "o-"), ("auto", "steps that adapt", "s--")):
        points = []
        for method in {
            row["method"] for row in rows if row["method"].split()[0] == kind and " of " not in row["method"]
        }:
            of_method = [row for row in rows if row["method"] == method]
            passes = sum(row["all_passes"] for row in of_method) / len(of_method)
            scores = [[row["scores"][network][key] for row in of_method] for key in _SCORES]
            errors = [[row["scores"][network][f"{key}_error"] for row in of_method] for key in _SCORES]
            means = [sum(values) / len(values) for values in scores]
            points.append((passes, means, [math.hypot(*values) / len(values) for values in errors]))
        points.sort()
        for number, axis in enumerate(axes):
            values, bars = [point[1][number] for point in points], [point[2][number] for point in points]
            axis.errorbar([point[0] for point in points], values, bars, fmt=marker, capsize=3, label=title)
    for axis, title in zip(axes, ("recognised", "Fréchet distance"), strict=True):
        axis.set(xlabel="forward passes an image", ylabel=title)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--data", required=True)
    parser.add_argument(
        "--features", action="append", required=True, help="efficientnet, inception or a TorchScript file; repeatable"
    )
    parser.add_argument("--samples", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--guidance", type=float, default=1.0, help="constant, of the method none; 1 by default")
    parser.add_argument("--photographs", type=int, help="of the validation split; all by default")
    parser.add_argument("--methods", nargs="+", help="only these, by name")
    parser.add_argument("--output", type=Path, required=True, help="JSON lines; the table is printed")
    parser.add_argument("--plot", type=Path, help="PNG file for the scores against forward passes")
    args = parser.parse_args()
    model = StraIT.from_pretrained(args.model)
    base = model.default_decoding().first(model.config.tokenizer.num_levels)
    chosen = methods(replace(base, guidance=args.guidance, guidance_ramp="constant", guidance_start=0.0))
    unknown = [name for name in args.methods or () if name not in chosen]
    if unknown:
        raise SystemExit(f"--methods: {unknown[0]!r} is not one of {', '.join(chosen)}")
    chosen = {name: chosen[name] for name in args.methods or chosen}
    networks = [open_features(name, model.device) for name in args.features]
    names = [network.name for network in networks]
    photographs = open_images(args.data, "validation")
    reference = ReferenceSet(photographs, "validation", model.config.image_size, args.photographs)
    about = {
        "model": model.weights_hash(),
        "samples": args.samples,
        "batch_size": args.batch_size,
        "features": [network_provenance(network) for network in networks],
        "reference": reference.describe(),
    }
    rows = written_rows(args.output, about, chosen)
    there = {(row["method"], row["seed"]) for row in rows}
    scores = {name: Scores(model, network, reference) for name, network in zip(names, networks, strict=True)}
    draw(model, model.default_decoding(), min(args.batch_size, args.samples), 0, args.batch_size)  # warms up
    for seed in range(args.seeds):
        for method, decoding in chosen.items():
            if (method, seed) in there:
                continue
            batches, cost = draw(model, decoding, args.samples, seed, args.batch_size)
            judged = {name: score(batches, args.samples) for name, score in scores.items()}
            row = {"method": method, "seed": seed, **cost, "scores": judged, "decoding": asdict(decoding)}
            rows.append({**row, "about": about})
            with args.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(rows[-1]) + "\n")
            print(f"{method}, seed {seed}: {cost['all_passes']:.1f} passes", file=sys.stderr)
    print(table(rows, names))
    if args.plot is not None:
        plot(rows, names[0], args.plot)


if __name__ == "__main__":
    main()
