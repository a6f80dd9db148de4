"""The features of a set of photographs, which generated images are held against; computed once and kept.

Kept in ``$STRAIT_CACHE`` (``~/.cache/strait`` by default), each under a key of everything it depends on: the data's
fingerprint, the split, size and count, and the network's hash. Each file knows its key and the hash of its content;
one that is not what was kept is made again.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from strait.data.images import in_order
from strait.data.job import BadFiles
from strait.data.sources import DataError, ImageSource
from strait.evaluation.features import FeatureNetwork, Features, weights_digest
from strait.evaluation.fidelity import check_finite
from strait.runtime.files import cache_folder, write_tensors
from strait.runtime.messages import first_line
from strait.runtime.ranks import ALONE, Ranks
from strait.types import Images

_DIGEST = "digest"
"""The one key of a file's metadata: safetensors may order several at random."""


@dataclass(frozen=True)
class ReferenceSet:
    """Which photographs.

    Args:
        source: where they lie.
        split: its name, for the record.
        size: side in pixels to which they are brought.
        samples: take only this many, evenly spread; all by default.
    """

    source: ImageSource
    split: str
    size: int
    samples: int | None = None

    def indices(self) -> list[int]:
        """Which of the source's images are taken."""
        total = len(self.source)
        count = total if self.samples is None else min(self.samples, total)
        return [place * total // count for place in range(count)]

    def describe(self) -> dict[str, Any]:
        """What a score must say about its reference."""
        count = len(self.indices())
        return {
            "fingerprint": self.source.fingerprint(),
            "split": self.split,
            "images": count,
            "of": len(self.source),
            "order": "evenly spread" if count < len(self.source) else "all",
            "size": self.size,
            "crop": "centre square",
            "filter": "lanczos",
        }


def reference_features(
    reference: ReferenceSet,
    network: FeatureNetwork,
    device: torch.device,
    through: Callable[[Images], Images] | None = None,
    through_digest: str = "",
    batch_size: int = 100,
    ranks: Ranks = ALONE,
    stopped: Callable[[], bool] = lambda: False,
) -> Features:
    """The features of a reference set, from the cache where they are there.

    Args:
        reference: which photographs.
        network: which features.
        device: where ``through`` and the network want the images.
        through: applied to the images first, such as a tokenizer's reconstruction.
        through_digest: what tells one ``through`` from another.
        batch_size: images at once.
        ranks: the processes that share the work; all of them call this, and all get everything.
        stopped: asked between batches.

    Returns:
        Features that say which images of the source they are of: damaged files have none.

    Raises:
        DataError: if no image can be read.
        FeatureError: if some are no numbers; the message names the image, and nothing is kept.
        Stopped: if any process was told to stop.
    """
    about = ranks.on_first(reference.describe)
    about = {**about, "network": network.name, "digest": network.digest, "through": through_digest}
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
    path = cache_folder() / f"features-{key}.safetensors"
    kept = ranks.on_first(lambda: _kept(path, key, about["images"]))
    if kept is not None:
        return kept
    wanted = reference.indices()
    bad_files, taken = BadFiles(ranks), list[Tensor]()

    def batches() -> Iterable[Images]:
        for start in ranks.turns(range(0, len(wanted), batch_size)):
            for batch in in_order(reference.source, reference.size, batch_size, wanted[start : start + batch_size]):
                bad_files.note(batch.bad)
                taken.append(batch.indices)
                images = batch.images(device)
                # An empty one is handed on as well: the batches of all processes take turns.
                yield images if through is None or not len(images) else through(images)

    whose = reference.split if through is None else f"reconstructed {reference.split}"
    found = features_of(batches(), network, len(wanted), f"reference {whose}", ranks, stopped)
    bad_files.summary()
    if found is None:
        raise DataError(f"--data: none of the {len(wanted)} images can be read")
    found = replace(found, indices=torch.cat(ranks.take_turns(taken)))
    ranks.on_first(lambda: check_finite(found, whose))
    ranks.on_first(lambda: _keep(path, key, found))
    return found


def _keep(path: Path, key: str, found: Features) -> None:
    """Put features in their file; where that cannot be written, a line says so, and they serve this once."""
    tensors = {"values": found.values, "indices": found.indices, "logits": found.logits}
    tensors = {name: value.contiguous() for name, value in tensors.items() if value is not None}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, tensors, {_DIGEST: f"{key} {weights_digest(tensors)}"})
    except OSError as error:  # a full disk, for one
        print(f"{path} cannot be written, and is worked out again the next time ({error})", file=sys.stderr)


def _kept(path: Path, key: str, count: int) -> Features | None:
    """What a file holds; None, with a line, if it is not what was kept under this key."""
    if not path.exists():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            noted = (file.metadata() or {}).get(_DIGEST)
        if noted != f"{key} {weights_digest(tensors)}":
            raise ValueError("its content is not what was kept")
        found = Features(tensors["values"], tensors.get("logits"), tensors["indices"])
        rows = {len(value) for value in tensors.values()}
        if rows != {len(found)} or not 0 < len(found) <= count:
            raise ValueError(f"it holds {len(found)} rows for {count} images")
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        print(f"{path} is damaged and is made again ({first_line(error)})", file=sys.stderr)
        return None
    return found


def features_of(
    batches: Iterable[Images],
    network: FeatureNetwork,
    count: int,
    what: str,
    ranks: Ranks = ALONE,
    stopped: Callable[[], bool] = lambda: False,
) -> Features | None:
    """The features of images that come in batches; None if there are none.

    Of several processes each hands in the batches of its turn (``Ranks.turns``), and all get the features of all, in
    the order of the batches.

    Raises:
        Stopped: if any process was told to stop before the last batch.
    """
    parts: list[Features | None] = []
    waiting = iter(batches)
    with tqdm(
        total=count, desc=what, unit="image", file=sys.stderr, dynamic_ncols=True, delay=1, disable=not ranks.first
    ) as bar:
        while not (halted := stopped()) and (images := next(waiting, None)) is not None:
            parts.append(network(images) if len(images) else None)
            bar.update(len(images) * ranks.size)
    # Once all are through with their own: between batches they have nothing to tell each other by.
    ranks.stop_if(halted)
    ordered = [part for part in ranks.take_turns(parts) if part is not None]
    if not ordered:
        return None
    return joined(ordered)


def joined(parts: Sequence[Features]) -> Features:
    """Features of batches as those of one set."""
    logits = [part.logits for part in parts if part.logits is not None]
    return Features(torch.cat([part.values for part in parts]), torch.cat(logits) if logits else None)
