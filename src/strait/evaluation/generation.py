"""The quality of generated images: the scores of section 4.2, each with everything it depends on.

Sample i of a set has class i modulo the number of classes and the noise of (seed, i): the set does not depend on the
batch size.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from strait.data.sources import ImageSource
from strait.decoding.config import DecodingConfig
from strait.decoding.stratified import final_tokens
from strait.evaluation.features import FeatureNetwork, Features
from strait.evaluation.fidelity import NEIGHBOURS, Summary, fidelity, frechet_distance, frechet_error
from strait.evaluation.provenance import (
    network_provenance,
    photographs_in_words,
    provenance_lines,
    versions_and_hardware,
)
from strait.evaluation.recognised import logit_of_class, recognised
from strait.evaluation.reference import ReferenceSet, features_of, reference_features
from strait.model.strait import StraIT
from strait.runtime.messages import aligned, figure
from strait.runtime.ranks import ALONE, Ranks
from strait.tokenizer.build import AnyTokenizer
from strait.types import NULL_LABEL, Images, Tokens


@dataclass(frozen=True)
class SampleSet:
    """The images to generate for an evaluation.

    Args:
        samples: number of images.
        seed: sample i of a seed is always the same.
        decoding: steps, temperature, guidance.
        batch_size: images at once; affects only speed and memory.
    """

    samples: int
    seed: int
    decoding: DecodingConfig
    batch_size: int = 50


def generated(model: StraIT, sample_set: SampleSet, ranks: Ranks = ALONE) -> Iterator[Images]:
    """Generate a set, batch by batch, in order.

    Processes take turns with whole batches, so the images do not depend on the number of processes.
    """
    classes = len(model.classes)
    indices = torch.arange(sample_set.samples)
    labels = indices % classes if classes else torch.full_like(indices, NULL_LABEL)
    batches = list(zip(labels.split(sample_set.batch_size), indices.split(sample_set.batch_size), strict=True))
    for batch_labels, indices in ranks.turns(batches):
        steps = model.decoding_steps(batch_labels, sample_set.seed, indices, sample_set.decoding)
        yield model.decode(final_tokens(steps))


def reconstruction(tokenizer: AnyTokenizer, images: Images, levels: int) -> Images:
    """Images after the tokenizer, from their first ``levels`` levels."""
    return tokenizer.decode(Tokens(tokenizer.encode(images).levels[:levels]), levels)


class Judge:
    """Compares generated images of a model with photographs.

    Args:
        model: to evaluate.
        photographs: the reference.
        network: computes the features.
        split: name of the reference's split, for the report.
        levels: levels that the images are drawn from: fewer than the tokenizer's are decoded, and compared with
            reconstructions, without the others; more are images of twice the base size. None for the tokenizer's.
        ranks: the processes that share the work; scores do not depend on their number.
        stopped: called between batches.

    Raises:
        FeatureError: if features of a photograph, or of its reconstruction, are not finite.
        Stopped: if any process is to stop; also raised by the methods that compute.
    """

    def __init__(
        self,
        model: StraIT,
        photographs: ImageSource,
        network: FeatureNetwork,
        split: str,
        levels: int | None = None,
        ranks: Ranks = ALONE,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model, self.network, self.ranks, self.stopped = model, network, ranks, stopped
        self.weights = model.weights_hash()
        full = model.config.tokenizer.num_levels
        self.reference = ReferenceSet(
            photographs, split, model.config.image_size * (2 if (levels or full) > full else 1)
        )
        decoded = min(levels or full, full)
        self.real = Summary(self._features(self.reference))
        self.reconstructed = Summary(
            self._features(
                self.reference,
                lambda images: reconstruction(model.tokenizer, images, decoded),
                # Models that share a tokenizer share its reconstructions.
                f"reconstructed by {model.weights_hash('tokenizer')}, {decoded} levels",
            )
        )
        self._logit_of_class = logit_of_class(self.real.features, model.classes, photographs.classes)
        self._warm: set[tuple[int, bool, int]] = set()

    def _features(
        self, reference: ReferenceSet, through: Callable[[Images], Images] | None = None, digest: str = ""
    ) -> Features:
        device = self.model.device
        return reference_features(
            reference, self.network, device, through, digest, ranks=self.ranks, stopped=self.stopped
        )

    def scores(self, sample_set: SampleSet, what: str = "generating") -> dict[str, Any]:
        """The scores of a set of generated images.

        Args:
            sample_set: the images to generate.
            what: description for the progress bar.

        Returns:
            ``fid, inception_score, inception_score_std, precision, recall, samples`` against the photographs, and the
            same against their reconstructions as ``against_reconstructions``; the sampling errors of both distances
            (``fid_error``, ``fid_to_reconstructions_error``); ``recognised``, the share of images whose class the
            network ranks first, with its error, if it has a logit for each class; and ``seconds_per_image``, the time
            of generation alone, after a warm-up.
        """
        self._warm_up(sample_set)
        spent = 0.0

        def timed() -> Iterator[Images]:
            nonlocal spent
            images = generated(self.model, sample_set, self.ranks)
            while True:
                start = time.perf_counter()
                batch = next(images, None)
                if batch is None:
                    return
                if batch.is_cuda:
                    torch.cuda.synchronize(batch.device)
                spent += time.perf_counter() - start
                yield batch

        features = features_of(timed(), self.network, sample_set.samples, what, self.ranks, self.stopped)
        assert features is not None
        summary = Summary(features)
        seconds = max(self.ranks.gather(spent))

        def compare() -> dict[str, Any]:
            to_real: dict[str, Any] = fidelity(self.real, summary)
            to_reconstructions: dict[str, Any] = fidelity(self.reconstructed, summary)
            return {
                **to_real,
                "fid_error": frechet_error(summary, self.real),
                "against_reconstructions": to_reconstructions,
                "fid_to_reconstructions": to_reconstructions["fid"],
                "fid_to_reconstructions_error": frechet_error(summary, self.reconstructed),
                **self._recognised(features),
                "seconds_per_image": seconds / sample_set.samples,
            }

        # Only one process compares, so that all processes act on identical scores.
        return self.ranks.on_first(compare)

    def _recognised(self, features: Features) -> dict[str, float]:
        if self._logit_of_class is None:
            return {}
        return recognised(features, self._logit_of_class[torch.arange(len(features)) % len(self.model.classes)])

    def recognised_photographs(self) -> dict[str, Any]:
        """The recognised shares of photographs and of their reconstructions, as upper bounds for a generator.

        Returns:
            ``photographs`` and ``reconstructions``, each with ``recognised`` and ``recognised_error``; empty if the
            network has no logit for each class.
        """
        if self._logit_of_class is None:
            return {}
        labels = torch.from_numpy(self.reference.source.labels())
        sets = {"photographs": self.real.features, "reconstructions": self.reconstructed.features}
        return {
            name: recognised(features, labels[features.indices])
            for name, features in sets.items()
            if features.indices is not None
        }

    def _warm_up(self, sample_set: SampleSet) -> None:
        """Generate an untimed batch before the first of each shape: first calls include one-time setup."""
        batch = min(sample_set.batch_size, sample_set.samples)
        shape = (batch, sample_set.decoding.guidance != 0, len(sample_set.decoding.steps))
        if shape not in self._warm:
            self._warm.add(shape)
            for _ in generated(self.model, dataclasses.replace(sample_set, samples=batch)):
                pass

    def reconstruction_distance(self) -> float:
        """The Fréchet distance of the tokenizer's reconstructions, a lower bound for the transformers."""
        return self.ranks.on_first(lambda: frechet_distance(self.reconstructed, self.real))

    def floor(self, train: ImageSource, samples: int) -> dict[str, Any]:
        """The scores, with provenance, of ``samples`` training photographs in place of generated images."""
        photographs = ReferenceSet(train, "train", self.reference.size, samples)
        summary = Summary(self._features(photographs))
        scores = self.ranks.on_first(
            lambda: {**fidelity(self.real, summary), "fid_error": frechet_error(summary, self.real)}
        )
        return {**scores, "provenance": {**self._provenance(), "photographs": photographs.describe()}}

    def provenance(self, sample_set: SampleSet) -> dict[str, Any]:
        """Everything that the scores of a set depend on."""
        return {
            **self._provenance(),
            "samples": {
                "count": sample_set.samples,
                "order": "class i modulo the number of classes" if self.model.classes else "no classes",
                "seed": sample_set.seed,
                "batch_size": sample_set.batch_size,
                "decoding": dataclasses.asdict(sample_set.decoding),
            },
            "model": self.weights,
        }

    def _provenance(self) -> dict[str, Any]:
        return {
            "features": network_provenance(self.network),
            "neighbours": NEIGHBOURS,
            "reference": self.reference.describe(),
            **versions_and_hardware(self.model.device, self.ranks),
        }


def evaluate_generation(
    model: StraIT,
    photographs: ImageSource,
    train: ImageSource | None,
    network: FeatureNetwork,
    sample_set: SampleSet,
    split: str = "validation",
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Fréchet distance, Inception score, precision and recall of a model.

    Args:
        model: to evaluate.
        photographs: the reference.
        train: training photographs; as many of them as there are samples give the floor, the scores of real images.
            None if there is no separate training set.
        network: computes the features.
        sample_set: the images to generate; if they are guided, they are also evaluated without guidance.
        split: name of the reference's split, for the report.
        ranks: the processes that share the work.

    Returns:
        The result of ``Judge.scores``, ``without_guidance`` (the same), ``floor`` with its own provenance,
        ``reconstruction_fid``, ``recognised_of`` (the recognised shares of photographs and reconstructions) and
        ``provenance``.
    """
    judge = Judge(model, photographs, network, split, len(sample_set.decoding.steps), ranks)
    report = judge.scores(sample_set)
    if sample_set.decoding.guidance != 0:
        unguided = dataclasses.replace(sample_set.decoding, guidance=0.0)
        report["without_guidance"] = judge.scores(
            dataclasses.replace(sample_set, decoding=unguided), "generating without guidance"
        )
    report["reconstruction_fid"] = judge.reconstruction_distance()
    shares = judge.recognised_photographs()
    if shares:
        report["recognised_of"] = shares
    if train is not None:
        report["floor"] = judge.floor(train, sample_set.samples)
    report["provenance"] = judge.provenance(sample_set)
    return report


def _against_reconstructions(scores: dict[str, Any]) -> dict[str, Any]:
    return {**scores["against_reconstructions"], "fid_error": scores["fid_to_reconstructions_error"]}


def generation_table(report: dict[str, Any]) -> str:
    """The report as text: scores side by side, and below them their provenance."""
    columns: dict[str, dict[str, Any]] = {"guided" if "without_guidance" in report else "generated": report}
    if "without_guidance" in report:
        columns["without guidance"] = report["without_guidance"]
    against = {f"{name}, to reconstructions": _against_reconstructions(column) for name, column in columns.items()}
    columns |= against
    if "floor" in report:
        columns["floor (real)"] = report["floor"]
    rows = [["", *columns]]
    names = {
        "fid": "Fréchet distance",
        "fid_error": "   its sampling error",
        "inception_score": "Inception score",
        "inception_score_std": "   its deviation",
        "precision": "precision",
        "recall": "recall",
        "recognised": "recognised",
        "recognised_error": "   its sampling error",
        "samples": "samples",
        "seconds_per_image": "seconds an image",
    }
    rows += [[name, *(figure(column.get(key)) for column in columns.values())] for key, name in names.items()]
    lines = [
        aligned(rows, right=range(1, len(columns) + 1)),
        "",
        f"reconstructions to real: Fréchet distance {report['reconstruction_fid']:.3f}",
        *(
            f"recognised of {name}: {share['recognised']:.3f} (error {share['recognised_error']:.3f})"
            for name, share in report.get("recognised_of", {}).items()
        ),
        *provenance_lines([report["provenance"]]),
    ]
    if "floor" in report:
        lines.append(f"floor: {photographs_in_words(report['floor']['provenance']['photographs'])}")
    return "\n".join(lines)
