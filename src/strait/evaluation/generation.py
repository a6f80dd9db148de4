"""How good generated images are: the scores of section 4.2, each with everything it depends on.

The samples of a set are numbered: sample i is of class i modulo the number of classes, drawn with the noise of (seed,
i), so that the set is the same for any batch size.
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
from strait.types import NULL_LABEL, Images


@dataclass(frozen=True)
class SampleSet:
    """Which images are generated to be judged.

    Args:
        samples: how many.
        seed: sample i of a seed is always the same.
        decoding: steps, temperature, guidance.
        batch_size: images at once; changes nothing but speed and memory.
    """

    samples: int
    seed: int
    decoding: DecodingConfig
    batch_size: int = 50


def generated(model: StraIT, wanted: SampleSet, ranks: Ranks = ALONE) -> Iterator[Images]:
    """The images of a set, batch by batch, in the order of their numbers.

    Whole batches are dealt out to the processes of a launch, so that the images are the same for any number of them.
    """
    classes = len(model.classes)
    numbers = torch.arange(wanted.samples)
    labels = numbers % classes if classes else torch.full_like(numbers, NULL_LABEL)
    batches = list(zip(labels.split(wanted.batch_size), numbers.split(wanted.batch_size), strict=True))
    for some, indices in ranks.turns(batches):
        yield model.decode(final_tokens(model.decoding_steps(some, wanted.seed, indices, wanted.decoding)))


class Judge:
    """Holds the photographs that a model's images are compared with, and compares.

    Args:
        model: whose images are judged.
        photographs: the reference.
        network: whose features are compared.
        split: the name of the reference's split, for the record.
        upsampled: whether the images are of twice the model's base size.
        ranks: the processes that share the work; the scores are the same for any number of them.
        stopped: asked between batches.

    Raises:
        FeatureError: if features of a photograph, or of its reconstruction, are no numbers.
        Stopped: if any process was told to stop; so do all that compute below.
    """

    def __init__(
        self,
        model: StraIT,
        photographs: ImageSource,
        network: FeatureNetwork,
        split: str,
        upsampled: bool = False,
        ranks: Ranks = ALONE,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.model, self.network, self.ranks, self.stopped = model, network, ranks, stopped
        self.weights = model.weights_hash()
        self.reference = ReferenceSet(photographs, split, model.config.image_size * (2 if upsampled else 1))
        self.real = Summary(self._features(self.reference))
        self.reconstructed = Summary(
            self._features(
                self.reference,
                lambda images: model.tokenizer.decode(model.tokenizer.encode(images)),
                f"reconstructed by {self.weights}",
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

    def scores(self, wanted: SampleSet, what: str = "generating") -> dict[str, Any]:
        """The scores of one set of images.

        Returns:
            ``fid, inception_score, inception_score_std, precision, recall, samples`` against the photographs, and the
            same as ``against_reconstructions`` of those photographs by the model's tokenizer; the sampling errors of
            both distances (``fid_error``, ``fid_to_reconstructions_error``); ``recognised``, the share of images whose
            class the network puts first, with its error, where it has a logit for each class; and
            ``seconds_per_image``, of generation alone and without the first batch of its kind.
        """
        self._warm_up(wanted)
        spent = 0.0

        def timed() -> Iterator[Images]:
            nonlocal spent
            images = generated(self.model, wanted, self.ranks)
            while True:
                start = time.perf_counter()
                batch = next(images, None)
                if batch is None:
                    return
                if batch.is_cuda:
                    torch.cuda.synchronize(batch.device)
                spent += time.perf_counter() - start
                yield batch

        features = features_of(timed(), self.network, wanted.samples, what, self.ranks, self.stopped)
        assert features is not None
        found = Summary(features)
        seconds = max(self.ranks.gather(spent))

        def compare() -> dict[str, Any]:
            scores: dict[str, Any] = fidelity(self.real, found)
            again: dict[str, Any] = fidelity(self.reconstructed, found)
            return {
                **scores,
                "fid_error": frechet_error(found, self.real),
                "against_reconstructions": again,
                "fid_to_reconstructions": again["fid"],
                "fid_to_reconstructions_error": frechet_error(found, self.reconstructed),
                **self._recognised(features),
                "seconds_per_image": seconds / wanted.samples,
            }

        # One process compares: what follows from a score must follow for all alike.
        return self.ranks.on_first(compare)

    def _recognised(self, features: Features) -> dict[str, float]:
        if self._logit_of_class is None:
            return {}
        return recognised(features, self._logit_of_class[torch.arange(len(features)) % len(self.model.classes)])

    def recognised_photographs(self) -> dict[str, Any]:
        """The shares of photographs, and of their reconstructions, that are recognised: what a generator could reach.

        Returns:
            ``photographs`` and ``reconstructions``, each with ``recognised`` and ``recognised_error``; empty where the
            network cannot tell.
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

    def _warm_up(self, wanted: SampleSet) -> None:
        """Generate a batch that is not timed, if none of its shape has been: first calls set themselves up."""
        batch = min(wanted.batch_size, wanted.samples)
        shape = (batch, wanted.decoding.guidance != 0, len(wanted.decoding.steps))
        if shape not in self._warm:
            self._warm.add(shape)
            for _ in generated(self.model, dataclasses.replace(wanted, samples=batch)):
                pass

    def reconstruction_distance(self) -> float:
        """The Fréchet distance that the tokenizer alone has: what no transformer can better."""
        return self.ranks.on_first(lambda: frechet_distance(self.reconstructed, self.real))

    def floor(self, train: ImageSource, samples: int) -> dict[str, Any]:
        """What so many photographs of the training set would score in the place of generated images, and what that
        depends on."""
        some = ReferenceSet(train, "train", self.reference.size, samples)
        found = Summary(self._features(some))
        scores = self.ranks.on_first(
            lambda: {**fidelity(self.real, found), "fid_error": frechet_error(found, self.real)}
        )
        return {**scores, "provenance": {**self._provenance(), "photographs": some.describe()}}

    def provenance(self, wanted: SampleSet) -> dict[str, Any]:
        """Everything that a score of these images depends on."""
        return {
            **self._provenance(),
            "samples": {
                "count": wanted.samples,
                "order": "class i modulo the number of classes" if self.model.classes else "no classes",
                "seed": wanted.seed,
                "batch_size": wanted.batch_size,
                "decoding": dataclasses.asdict(wanted.decoding),
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
    wanted: SampleSet,
    split: str = "validation",
    ranks: Ranks = ALONE,
) -> dict[str, Any]:
    """Fréchet distance, Inception score, precision and recall of a model.

    Args:
        model: whose images are judged.
        photographs: the reference.
        train: photographs it was trained on, from which as many as there are samples give the floor: what real
            images themselves would score. None where there are none apart.
        network: whose features are compared.
        wanted: the images; where they are guided, they are judged without guidance as well.
        split: the name of the reference's split, for the record.
        ranks: the processes that share the work.

    Returns:
        What ``Judge.scores`` gives, ``without_guidance`` (the same), ``floor`` with a provenance of its own,
        ``reconstruction_fid``, ``recognised_of`` (what is recognised of photographs and of reconstructions) and
        ``provenance``.
    """
    upsampled = len(wanted.decoding.steps) > model.config.tokenizer.num_levels
    judge = Judge(model, photographs, network, split, upsampled, ranks)
    report = judge.scores(wanted)
    if wanted.decoding.guidance != 0:
        plain = dataclasses.replace(wanted.decoding, guidance=0.0)
        report["without_guidance"] = judge.scores(
            dataclasses.replace(wanted, decoding=plain), "generating without guidance"
        )
    report["reconstruction_fid"] = judge.reconstruction_distance()
    shares = judge.recognised_photographs()
    if shares:
        report["recognised_of"] = shares
    if train is not None:
        report["floor"] = judge.floor(train, wanted.samples)
    report["provenance"] = judge.provenance(wanted)
    return report


def _against_reconstructions(scores: dict[str, Any]) -> dict[str, Any]:
    return {**scores["against_reconstructions"], "fid_error": scores["fid_to_reconstructions_error"]}


def generation_table(report: dict[str, Any]) -> str:
    """The report for people: scores side by side, and below them what they depend on."""
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
