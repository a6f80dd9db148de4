"""The quality of edits on photographs outside the training set: infilling, transfer, and their time.

    python benchmarks/editing.py --data DIR --features NETWORK.pt --samples 1000 --seeds 3 --sheet sheet.png

Infilling: one half of each photograph (left, right, upper or lower) is redrawn under its own class and under another.
It is compared with the mean colour of the kept half, with the same half of another photograph, and with the
tokenizer's reconstruction of the half. The kept half is always the photograph's own. Transfer: a share of each
photograph's top tokens is kept under another class, with and without bottom-level re-prediction.

Halves, other classes and other photographs are the same for every seed, which only affects the drawn tokens. Errors
are standard errors over photographs, averaged over seeds. Claims are tested by paired differences
(``strait.evaluation.paired``).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from editing_time import seconds_a_command, seconds_an_edit
from torch import Tensor
from tqdm import tqdm

from strait.data.images import in_order
from strait.data.sources import ClassesOf, open_images
from strait.decoding.config import DecodingConfig
from strait.editing.config import EditConfig
from strait.editing.infilling import base_decoding, hidden, infill
from strait.editing.transfer import confident_kept, random_kept, transfer
from strait.evaluation.features import FeatureNetwork, Features, open_features
from strait.evaluation.fidelity import frechet_distance, frechet_error
from strait.evaluation.paired import Difference, paired_jackknife, paired_mean, standard_error
from strait.model.strait import StraIT
from strait.pictures.recipe import png_bytes
from strait.pictures.sheets import contact_sheet
from strait.randomness import image_seeds, key
from strait.runtime.files import write_new
from strait.tokenizer.stratification import peak_signal_to_noise
from strait.types import Images

_HALF, _OTHER = 41, 42  # streams of the random choices made here
_COLUMNS = 6  # of the sheet
_OWN, _ANOTHER, _MEAN, _HALF_OF_ANOTHER = (
    *("infilled, own class", "infilled, another class"),
    *("mean colour", "half of another photograph"),
)
FRECHET, ACCURACY, CHANCE, PSNR = "frechet", "accuracy, own class", "probability, new class", "psnr in the mask"
Row = dict[str, tuple[float, float]]


@dataclass
class Score:
    """The results of one kind of picture, by seed; kinds without randomness have a single seed."""

    features: dict[int, list[Features]] = field(default_factory=dict)
    psnr: dict[int, list[Tensor]] = field(default_factory=dict)

    def values(self) -> list[Tensor]:
        """Features of each seed, ``[images, width]``."""
        return [torch.cat([batch.values for batch in of_seed]) for of_seed in self.features.values()]

    def by_photograph(self, labels: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Scores ``[images]``, each the mean over the seeds."""
        scores: dict[str, list[Tensor]] = {}
        for seed, batches in self.features.items():
            logits = torch.cat([batch.logits for batch in batches if batch.logits is not None]).double()
            scores.setdefault(ACCURACY, []).append((logits.argmax(1) == labels).double())
            scores.setdefault("accuracy, new class", []).append((logits.argmax(1) == targets).double())
            scores.setdefault(CHANCE, []).append(logits.softmax(1).gather(1, targets[:, None])[:, 0])
            if seed in self.psnr:
                scores.setdefault(PSNR, []).append(torch.cat(self.psnr[seed]).double())
        return {name: torch.stack(seeds).mean(0) for name, seeds in scores.items()}

    def distance(self, reference: Tensor, images: Tensor | None = None) -> float:
        """Fréchet distance of these images (all by default), averaged over the seeds."""
        chosen = [values if images is None else values[images] for values in self.values()]
        return sum(frechet_distance(values, reference) for values in chosen) / len(chosen)

    def row(self, labels: Tensor, targets: Tensor, reference: Tensor | None) -> Row:
        """Each score with its standard error."""
        row = {
            name: (float(values.mean()), standard_error(values))
            for name, values in self.by_photograph(labels, targets).items()
        }
        if reference is not None:
            # The seeds share their photographs, so their errors are averaged without dividing by a root.
            errors = [frechet_error(values, reference) for values in self.values()]
            row[FRECHET] = (self.distance(reference), sum(errors) / len(errors))
        return row


@dataclass
class Gathered:
    """All results, in the order of the photographs, and the first pictures for the sheet."""

    scores: dict[str, Score] = field(default_factory=dict)
    labels: list[Tensor] = field(default_factory=list)
    targets: list[Tensor] = field(default_factory=list)
    first: dict[str, Images] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """The claim that one kind of picture scores higher than another, or lower."""

    ours: str
    theirs: str
    figure: str
    more: bool = True

    def tested(
        self, scores: dict[str, Score], labels: Tensor, targets: Tensor, reference: Tensor | None
    ) -> Difference:
        ours, theirs = scores[self.ours], scores[self.theirs]
        if self.figure != FRECHET or reference is None:
            first, second = (score.by_photograph(labels, targets)[self.figure] for score in (ours, theirs))
            return paired_mean(first, second)
        return paired_jackknife(
            lambda images: ours.distance(reference, images) - theirs.distance(reference, images), len(labels)
        )


def claims(names: Sequence[str]) -> list[Claim]:
    """The claims that the available rows allow."""
    candidates = [
        Claim(_OWN, _MEAN, FRECHET, more=False),
        Claim(_OWN, _MEAN, ACCURACY),
        Claim(_OWN, _ANOTHER, FRECHET, more=False),
        Claim(_OWN, _ANOTHER, ACCURACY),
        Claim(_OWN, _ANOTHER, PSNR),
        Claim(_OWN, _HALF_OF_ANOTHER, PSNR),
    ]
    for name in names:
        if name.endswith("bottom re-predicted"):
            candidates += [
                Claim(name, "photographs", CHANCE),
                Claim(name, "reconstruction", CHANCE),
                Claim(name, name.replace("re-predicted", "kept"), CHANCE),
            ]
    return [claim for claim in candidates if {claim.ours, claim.theirs} <= set(names)]


def half_masks(indices: Tensor, size: int) -> Tensor:
    """A random half of each image, bool ``[batch, size, size]``."""
    masks = torch.zeros(len(indices), size, size, dtype=torch.bool)
    for mask, side in zip(masks, (key(0, _HALF, indices) % 4).tolist(), strict=True):
        part = slice(0, size // 2) if side % 2 else slice(size // 2, size)
        mask[(part, slice(None)) if side < 2 else (slice(None), part)] = True
    return masks


def psnr_inside(ours: Images, theirs: Images, masks: Tensor) -> Tensor:
    """PSNR within the masked halves, ``[batch]``: the other half of the pixels is equal."""
    inside = torch.where(masks[:, None], ours, theirs)
    return peak_signal_to_noise(inside, theirs) - 10 * torch.log10(torch.tensor(2.0))


def filled(
    model: StraIT, images: Images, masks: Tensor, labels: dict[str, Tensor], at: Tensor, config: EditConfig,
    decoding: DecodingConfig, seeds: Sequence[int],
) -> dict[tuple[str, int], Images]:  # fmt: skip
    """Each method of filling the masked halves, composited, by name and seed; ``labels`` names the infillings."""
    blank = hidden(images, masks)
    first = seeds[0]
    ways = {
        (name, seed): infill(model, blank, masks, of_name, seed, at, config, decoding)
        for name, of_name in labels.items()
        for seed in seeds
    }
    ways |= {(_MEAN, first): blank, (_HALF_OF_ANOTHER, first): images.roll(1, 0)}
    ways["reconstruction of the half", first] = model.decode(model.encode(images))
    return {way: torch.where(masks[:, None], pictures, images) for way, pictures in ways.items()}


def transferred(
    model: StraIT, images: Images, others: Tensor, at: Tensor, shares: Sequence[float], decoding: DecodingConfig,
    seeds: Sequence[int],
) -> dict[tuple[str, int], Images]:  # fmt: skip
    """Transfers at several shares of top tokens kept, with and without bottom-level re-prediction."""
    top = model.encode(images).levels[0]
    results = {("reconstruction", seeds[0]): model.decode(model.encode(images))}
    for share in shares:
        ways: dict[str, Callable[[int], Tensor]] = {
            "random": lambda seed, share=share: random_kept(top, share, image_seeds(seed, at))
        }
        if 0 < share < 1:
            confident = confident_kept(model, top, others, share, decoding.guidance)
            ways["confident"] = lambda seed, confident=confident: confident
        for way, kept in ways.items():
            for keep_bottom, name in ((False, "bottom re-predicted"), (True, "bottom kept")):
                for seed in seeds:
                    title = f"top tokens kept: {share:.0%} {way}; {name}", seed
                    results[title] = transfer(model, images, others, kept(seed), seed, at, keep_bottom, decoding)
    return results


def table(rows: dict[str, Row]) -> str:
    """The rows as a Markdown table."""
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    lines = [f"| | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, row in rows.items():
        cells = [f"{row[column][0]:.4g} ± {row[column][1]:.2g}" if column in row else "" for column in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def reference_features(network: FeatureNetwork, args: argparse.Namespace, size: int, taken: set[int]) -> Tensor:
    """Features of the validation photographs that are not edited."""
    source = open_images(args.data, "validation")
    rest = [index for index in range(len(source)) if index not in taken]
    return torch.cat([network(batch.images(torch.device("cpu"))).values for batch in in_order(source, size, 50, rest)])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--data", required=True)
    parser.add_argument("--features", required=True, help="TorchScript network with logits over the same classes")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--seeds", type=int, default=1, help="number of consecutive seeds")
    parser.add_argument("--batch-size", type=int, default=50)
    parser.add_argument("--margin", type=int, default=0)
    parser.add_argument("--guidance", type=float)
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--keep", type=float, nargs="*", default=[0.0, 0.25, 0.5, 0.75])
    parser.add_argument("--only", choices=["infilling", "transfer"])
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.seeds < 1 or args.samples < 2:
        parser.error("--seeds, --samples: at least one seed and two photographs are needed")
    return args


def gathered(model: StraIT, network: FeatureNetwork, args: argparse.Namespace, order: list[int]) -> Gathered:
    """Edit the photographs of these indices with every method, and compute the features of the results."""
    size, decoding, seeds = model.config.image_size, decoding_of(model, args), range(args.seed, args.seed + args.seeds)
    source = ClassesOf(open_images(args.data, "validation"), model.classes)
    results = Gathered()
    for batch in tqdm(in_order(source, size, args.batch_size, order), total=-(-len(order) // args.batch_size)):
        images, labels, at = batch.images(torch.device("cpu")), batch.labels, batch.indices
        masks = half_masks(at, size)
        others = (labels + 1 + key(0, _OTHER, at).remainder(len(model.classes) - 1)) % len(model.classes)
        edits = {("photographs", args.seed): images}
        halves: set[tuple[str, int]] = set()
        if args.only != "transfer":
            config, named = EditConfig(margin=args.margin), {_OWN: labels, _ANOTHER: others}
            fillings = filled(model, images, masks, named, at, config, decoding, seeds)
            edits, halves = edits | fillings, set(fillings)
        if args.only != "infilling":
            edits |= transferred(model, images, others, at, args.keep, decoding, seeds)
        results.labels.append(labels)
        results.targets.append(others)
        for (name, seed), pictures in edits.items():
            score = results.scores.setdefault(name, Score())
            score.features.setdefault(seed, []).append(network(pictures))
            if (name, seed) in halves:
                score.psnr.setdefault(seed, []).append(psnr_inside(pictures, images, masks))
        if not results.first:
            # Only pictures of the first seed are shown.
            for (name, _), pictures in edits.items():
                results.first.setdefault(name, pictures[:_COLUMNS])
    return results


def decoding_of(model: StraIT, args: argparse.Namespace) -> DecodingConfig:
    """The model's decoding settings, overridden by those of the command."""
    decoding = base_decoding(model)
    if args.guidance is not None:
        decoding = replace(decoding, guidance=args.guidance)
    if args.temperature is not None:
        decoding = replace(decoding, temperature=(args.temperature,) * len(decoding.steps))
    return decoding


@torch.no_grad()
def main() -> None:
    args = arguments()
    model, network = StraIT.from_pretrained(args.model), open_features(args.features, torch.device("cpu"))
    photographs = open_images(args.data, "validation")
    if list(photographs.classes) != list(model.classes):
        raise ValueError("--data: its classes must be the model's, in the same order, as the network's must")
    count = min(args.samples, len(photographs))
    # Evenly spaced, with a stride between neighbours, so that "another photograph" is of another class.
    order = [(place * 37 % count) * len(photographs) // count for place in range(count)]
    results = gathered(model, network, args, order)
    labels, targets = torch.cat(results.labels), torch.cat(results.targets)
    reference = None
    if args.only != "transfer":
        reference = reference_features(network, args, model.config.image_size, set(order))
    rows = {name: score.row(labels, targets, reference) for name, score in results.scores.items()}
    tested = [(claim, claim.tested(results.scores, labels, targets, reference)) for claim in claims(list(rows))]
    image = results.first["photographs"][:1]
    edit, command = seconds_an_edit(model, image, decoding_of(model, args)), seconds_a_command(image, args.model)
    verdicts = [
        {**asdict(claim), **asdict(difference), "verdict": difference.verdict(claim.more)}
        for claim, difference in tested
    ]
    if args.json:
        seconds = {"an edit": edit, "a command": command, "threads": torch.get_num_threads()}
        print(json.dumps({"samples": len(labels), "seconds": seconds, "scores": rows, "claims": verdicts}, indent=1))
    else:
        print(f"{len(labels)} photographs, {args.seeds} seed(s); one infilling takes {edit:.3f} s, ", end="")
        print(f"the whole command {command:.2f} s, with {torch.get_num_threads()} threads\n")
        print(f"{table(rows)}\n")
        for claim, difference in tested:
            print(in_words(claim, difference))
    if args.sheet is not None:
        sheet = contact_sheet(torch.cat(list(results.first.values())), min(_COLUMNS, count), list(results.first))
        write_new(args.sheet, png_bytes(sheet.quantize(), {"model": model.weights_hash()}), overwrite=True)


def in_words(claim: Claim, difference: Difference) -> str:
    """A claim and its verdict as a line of Markdown."""
    order = "above" if claim.more else "below"
    figures = f"{difference.value:+.4g} ± {difference.error:.2g}"
    return f"- *{difference.verdict(claim.more)}*: {claim.figure}, {claim.ours} {order} {claim.theirs}: {figures}"


if __name__ == "__main__":
    main()
