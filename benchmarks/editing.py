"""What edits are worth on photographs the model never saw: infilling, transfer, and their time.

    python benchmarks/editing.py --data DIR --features NETWORK.pt --samples 1000 --sheet sheet.png

Infilling: one half of each photograph (left, right, upper or lower) is drawn anew under its own class and under
another, and is compared with the mean colour of the kept half, with the same half of another photograph, and with the
tokenizer's reconstruction of the half itself. The kept half is the photograph's own in all of them. Transfer: a share
of each photograph's top tokens is kept under another class, with and without bottom-level re-prediction.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from strait.data.images import in_order
from strait.data.sources import ClassesOf, open_images
from strait.decoding.config import DecodingConfig
from strait.editing.config import EditConfig
from strait.editing.infilling import base_decoding, hidden, infill
from strait.editing.transfer import confident_kept, random_kept, transfer
from strait.evaluation.features import FeatureNetwork, Features, open_features
from strait.evaluation.fidelity import frechet_distance
from strait.images_out import contact_sheet, png_bytes, write_new
from strait.model import StraIT
from strait.randomness import image_seeds, key
from strait.tokenizer.perplexity import peak_signal_to_noise
from strait.types import Images

_HALF, _OTHER = 41, 42  # streams of the random choices made here
_COLUMNS = 6  # of the sheet


@dataclass
class Score:
    """What is gathered of one kind of picture."""

    features: list[Features] = field(default_factory=list)
    labels: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    psnr: list[Tensor] = field(default_factory=list)

    def row(self, reference: Tensor | None) -> dict[str, float]:
        logits = torch.cat([features.logits for features in self.features if features.logits is not None])
        labels, targets = torch.cat(self.labels), torch.cat(self.targets)
        chance = logits.softmax(-1).gather(1, targets[:, None])[:, 0]
        row = {
            "accuracy, own class": float((logits.argmax(1) == labels).double().mean()),
            "accuracy, new class": float((logits.argmax(1) == targets).double().mean()),
            "probability, new class": float(chance.double().mean()),
        }
        if reference is not None:
            row["frechet"] = frechet_distance(torch.cat([features.values for features in self.features]), reference)
        if self.psnr:
            row["psnr in the mask"] = float(torch.cat(self.psnr).mean())
        return row


def half_masks(indices: Tensor, size: int) -> Tensor:
    """A random half of each image, bool ``[batch, size, size]``."""
    masks = torch.zeros(len(indices), size, size, dtype=torch.bool)
    for mask, side in zip(masks, (key(0, _HALF, indices) % 4).tolist(), strict=True):
        part = slice(0, size // 2) if side % 2 else slice(size // 2, size)
        mask[(part, slice(None)) if side < 2 else (slice(None), part)] = True
    return masks


def psnr_inside(ours: Images, theirs: Images, masks: Tensor) -> Tensor:
    """PSNR of the masked halves alone, ``[batch]``: what lies outside is equal, and is half of the pixels."""
    inside = torch.where(masks[:, None], ours, theirs)
    return peak_signal_to_noise(inside, theirs) - 10 * torch.log10(torch.tensor(2.0))


def infilled(
    model: StraIT, images: Images, masks: Tensor, labels: Tensor, others: Tensor, at: Tensor, config: EditConfig,
    decoding: DecodingConfig,
) -> dict[str, Images]:  # fmt: skip
    """Each way to fill the masked halves, composited; ``others`` are the classes that are not theirs."""
    blank = hidden(images, masks)
    ways = {
        "infilled, own class": infill(model, blank, masks, labels, 0, at, config, decoding),
        "infilled, another class": infill(model, blank, masks, others, 0, at, config, decoding),
        "mean colour": blank,
        "half of another photograph": images.roll(1, 0),
        "reconstruction of the half": model.decode(model.encode(images)),
    }
    return {name: torch.where(masks[:, None], made, images) for name, made in ways.items()}


def transferred(
    model: StraIT, images: Images, others: Tensor, at: Tensor, shares: list[float], decoding: DecodingConfig
) -> dict[str, Images]:
    """Transfers at several shares of top tokens kept, with and without bottom-level re-prediction."""
    top = model.encode(images).levels[0]
    made = {"reconstruction": model.decode(model.encode(images))}
    for share in shares:
        ways = {"random": random_kept(top, share, image_seeds(0, at))}
        if 0 < share < 1:
            ways["confident"] = confident_kept(model, top, others, share, decoding.guidance)
        for way, kept in ways.items():
            for keep_bottom, name in ((False, "bottom re-predicted"), (True, "bottom kept")):
                title = f"top tokens kept: {share:.0%} {way}; {name}"
                made[title] = transfer(model, images, others, kept, 0, at, keep_bottom, decoding)
    return made


def seconds_an_edit(model: StraIT, image: Images, decoding: DecodingConfig) -> float:
    """The quickest of five infillings of one image."""
    masks, label = half_masks(torch.tensor([0]), image.shape[-1]), torch.tensor([0])
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        infill(model, image, masks, label, decoding=decoding)
        taken.append(time.perf_counter() - start)
    return min(taken)


def table(rows: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join(f"{row[c]:.4g}" if c in row else "" for c in columns) + " |")
    return "\n".join(lines)


def reference_features(network: FeatureNetwork, args: argparse.Namespace, size: int, taken: set[int]) -> Tensor:
    """Features of the validation photographs that are not edited."""
    source = open_images(args.data, "validation")
    rest = [index for index in range(len(source)) if index not in taken]
    return torch.cat([network(batch.images(torch.device("cpu"))).values for batch in in_order(source, size, 50, rest)])


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--features", required=True, help="TorchScript network with logits over the same classes")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--margin", type=int, default=0)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--keep", type=float, nargs="*", default=[0.0, 0.25, 0.5, 0.75])
    parser.add_argument("--only", choices=["infilling", "transfer"])
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    model, network = StraIT.from_pretrained(args.model), open_features(args.features, torch.device("cpu"))
    decoding, size = base_decoding(model), model.config.image_size
    if args.guidance is not None:
        decoding = replace(decoding, guidance=args.guidance)
    if args.temperature is not None:
        decoding = replace(decoding, temperature=(args.temperature,) * len(decoding.steps))
    photographs = open_images(args.data, "validation")
    if list(photographs.classes) != list(model.classes):
        raise ValueError("--data: its classes must be the model's, in the same order, as the network's must")
    source, count = ClassesOf(photographs, model.classes), min(args.samples, len(photographs))
    # Evenly spread with a stride between neighbours, so that "another photograph" is one of another class.
    order = [(place * 37 % count) * len(source) // count for place in range(count)]
    scores: dict[str, Score] = {}
    first: dict[str, Images] = {}
    for batch in tqdm(in_order(source, size, args.batch_size, order), total=-(-count // args.batch_size)):
        images, labels, at = batch.images(torch.device("cpu")), batch.labels, batch.indices
        masks = half_masks(at, size)
        others = (labels + 1 + key(0, _OTHER, at).remainder(len(model.classes) - 1)) % len(model.classes)
        made = {"photographs": images}
        if args.only != "transfer":
            config = EditConfig(margin=args.margin)
            made |= infilled(model, images, masks, labels, others, at, config, decoding)
        halves = set(made)
        if args.only != "infilling":
            made |= transferred(model, images, others, at, args.keep, decoding)
        for name, pictures in made.items():
            score = scores.setdefault(name, Score())
            score.features.append(network(pictures))
            score.labels.append(labels)
            score.targets.append(others)
            if name in halves and name != "photographs":
                score.psnr.append(psnr_inside(pictures, images, masks))
        first = first or {name: pictures[:_COLUMNS] for name, pictures in made.items()}
    reference = None if args.only == "transfer" else reference_features(network, args, size, set(order))
    rows = {name: score.row(reference) for name, score in scores.items()}
    seconds = seconds_an_edit(model, first["photographs"][:1], decoding)
    if args.json:
        print(json.dumps({"samples": count, "seconds an edit": seconds, "scores": rows}, indent=1))
    else:
        print(f"{count} photographs; one infilling takes {seconds:.3f} s with {torch.get_num_threads()} threads\n")
        print(table(rows))
    if args.sheet is not None:
        sheet = contact_sheet(torch.cat(list(first.values())), min(_COLUMNS, count), list(first))
        write_new(args.sheet, png_bytes(sheet.quantize(), {"model": model.weights_hash()}), overwrite=True)


if __name__ == "__main__":
    main()
