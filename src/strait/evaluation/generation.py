"""How good generated images are: the scores of section 4.2, each with everything it depends on.

The samples of a set are numbered: sample i is of class i modulo the number of classes, drawn with the noise of (seed,
i), so that the set is the same for any batch size.
"""

from __future__ import annotations

import dataclasses
import os
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

import strait
from strait.data.sources import ImageSource
from strait.decoding.config import DecodingConfig
from strait.decoding.stratified import final_tokens
from strait.evaluation.features import FeatureNetwork
from strait.evaluation.fidelity import NEIGHBOURS, fidelity, frechet_distance, frechet_error
from strait.evaluation.reference import ReferenceSet, features_of, reference_features
from strait.evaluation.report import aligned, figure
from strait.model import StraIT
from strait.ranks import ALONE, Ranks
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
    """

    def __init__(
        self,
        model: StraIT,
        photographs: ImageSource,
        network: FeatureNetwork,
        split: str,
        upsampled: bool = False,
        ranks: Ranks = ALONE,
    ) -> None:
        self.model, self.network, self.ranks = model, network, ranks
        self.weights = model.weights_hash()
        self.reference = ReferenceSet(photographs, split, model.config.image_size * (2 if upsampled else 1))
        self.real = reference_features(self.reference, network, model.device, ranks=ranks)
        self.reconstructed = reference_features(
            self.reference,
            network,
            model.device,
            lambda images: model.tokenizer.decode(model.tokenizer.encode(images)),
            f"reconstructed by {self.weights}",
            ranks=ranks,
        )

    def scores(self, wanted: SampleSet, what: str = "generating") -> dict[str, Any]:
        """The scores of one set of images.

        Returns:
            ``fid, inception_score, inception_score_std, precision, recall, samples``; ``fid_to_reconstructions`` (of
            the same photographs by the model's tokenizer), the sampling errors of both distances (``fid_error`` ...)
            and ``seconds_per_image``, of generation alone.
        """
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

        found = features_of(timed(), self.network, wanted.samples, what, self.ranks)
        assert found is not None
        seconds = max(self.ranks.gather(spent))

        def compare() -> dict[str, Any]:
            return {
                **fidelity(self.real, found),
                "fid_error": frechet_error(found.values, self.real.values),
                "fid_to_reconstructions": frechet_distance(found.values, self.reconstructed.values),
                "fid_to_reconstructions_error": frechet_error(found.values, self.reconstructed.values),
                "seconds_per_image": seconds / wanted.samples,
            }

        # One process compares: what follows from a score must follow for all alike.
        return self.ranks.on_first(compare)

    def reconstruction_distance(self) -> float:
        """The Fréchet distance that the tokenizer alone has: what no transformer can better."""
        return self.ranks.on_first(lambda: frechet_distance(self.reconstructed.values, self.real.values))

    def floor(self, train: ImageSource, samples: int) -> dict[str, Any]:
        """What so many photographs of the training set would score in the place of generated images."""
        some = ReferenceSet(train, "train", self.reference.size, samples)
        found = reference_features(some, self.network, self.model.device, ranks=self.ranks)
        return self.ranks.on_first(
            lambda: {**fidelity(self.real, found), "fid_error": frechet_error(found.values, self.real.values)}
        )

    def provenance(self, wanted: SampleSet) -> dict[str, Any]:
        """Everything that a score of these images depends on."""
        return {
            "features": {
                "network": self.network.name,
                "digest": self.network.digest,
                "resize": self.network.resize,
            },
            "reference": self.reference.describe(),
            "neighbours": NEIGHBOURS,
            "samples": {
                "count": wanted.samples,
                "order": "class i modulo the number of classes" if self.model.classes else "no classes",
                "seed": wanted.seed,
                "decoding": dataclasses.asdict(wanted.decoding),
            },
            "model": self.weights,
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
        What ``Judge.scores`` gives, ``without_guidance`` and ``floor`` (the same), ``reconstruction_fid`` and
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
    if train is not None:
        report["floor"] = judge.floor(train, wanted.samples)
    report["provenance"] = judge.provenance(wanted)
    return report


def versions_and_hardware(device: torch.device, ranks: Ranks = ALONE) -> dict[str, Any]:
    """What a figure was measured with and on."""
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "versions": {
            "strait": strait.__version__,
            "torch": torch.__version__,
            "python": ".".join(map(str, sys.version_info[:3])),
        },
        "hardware": {
            "device": hardware,
            "processes": ranks.size,
            "threads": torch.get_num_threads(),
            "cores": os.cpu_count(),
        },
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            names = [line.partition(":")[2].strip() for line in file if line.startswith("model name")]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


def generation_table(report: dict[str, Any]) -> str:
    """The report for people: scores side by side, and below them what they depend on."""
    columns = {"guided" if "without_guidance" in report else "generated": report}
    if "without_guidance" in report:
        columns["without guidance"] = report["without_guidance"]
    if "floor" in report:
        columns["floor (real)"] = report["floor"]
    rows = [["", *columns]]
    names = {
        "fid": "Fréchet distance",
        "fid_error": "   its sampling error",
        "fid_to_reconstructions": "   to reconstructions",
        "inception_score": "Inception score",
        "inception_score_std": "   its deviation",
        "precision": "precision",
        "recall": "recall",
        "samples": "samples",
        "seconds_per_image": "seconds an image",
    }
    rows += [[name, *(figure(column.get(key)) for column in columns.values())] for key, name in names.items()]
    about = report["provenance"]
    features, reference, samples = about["features"], about["reference"], about["samples"]
    decoding = samples["decoding"]
    lines = [
        aligned(rows, right=range(1, len(columns) + 1)),
        "",
        f"reconstructions to real: Fréchet distance {report['reconstruction_fid']:.3f}",
        f"features   {features['network']} ({features['digest']}), resize: {features['resize']}",
        f"reference  {reference['images']} of {reference['of']} {reference['split']} images ({reference['order']}), "
        f"fingerprint {reference['fingerprint']}, {reference['size']} px, {reference['crop']}, {reference['filter']}",
        f"samples    {samples['count']}, seed {samples['seed']}, {samples['order']}; steps "
        f"{'+'.join(map(str, decoding['steps']))}, temperature {'+'.join(map(str, decoding['temperature']))}, "
        f"guidance {decoding['guidance']} ({decoding['guidance_ramp']}), {decoding['schedule']}, {decoding['keep']}",
        f"model      {about['model']}; strait {about['versions']['strait']}, torch {about['versions']['torch']}, "
        f"{about['hardware']['device']}, {about['hardware']['threads']} threads",
    ]
    return "\n".join(lines)
