"""The features of a set of photographs, which generated images are held against; computed once and kept.

Kept in ``$STRAIT_CACHE`` (``~/.cache/strait`` by default), each under a key of everything it depends on: the data's
fingerprint, the split, size and count, and the network's hash. A file that cannot be read is made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from strait.data.images import BadFiles, in_order
from strait.data.sources import DataError, ImageSource
from strait.evaluation.features import FeatureNetwork, Features
from strait.ranks import ALONE, Ranks
from strait.types import Images


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

    def describe(self) -> dict[str, Any]:
        """What a score must say about its reference."""
        count = len(self.source) if self.samples is None else min(self.samples, len(self.source))
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

    Raises:
        DataError: if no image can be read.
    """
    about = {**reference.describe(), "network": network.name, "digest": network.digest, "through": through_digest}
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
    path = _cache_folder() / f"features-{key}.safetensors"
    if ranks.on_first(path.exists):
        try:
            tensors = load_file(path)
            return Features(tensors["values"], tensors.get("logits"))
        except (SafetensorError, OSError, KeyError, ValueError) as error:
            print(f"{path} is damaged and is made again ({str(error).splitlines()[0]})", file=sys.stderr)
    count, total = about["images"], about["of"]
    indices = [index * total // count for index in range(count)]
    bad_files = BadFiles(ranks)

    def batches() -> Iterable[Images]:
        for start in ranks.turns(range(0, count, batch_size)):
            for batch in in_order(reference.source, reference.size, batch_size, indices[start : start + batch_size]):
                bad_files.note(batch.bad)
                images = batch.images(device)
                # An empty one is handed on as well: the batches of all processes take turns.
                yield images if through is None or not len(images) else through(images)

    found = features_of(batches(), network, count, f"reference {reference.split}", ranks)
    bad_files.summary()
    if found is None:
        raise DataError(f"--data: none of the {count} images can be read")
    if ranks.first:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}.tmp")
        tensors = {"values": found.values} | ({} if found.logits is None else {"logits": found.logits})
        save_file(tensors, str(aside))
        aside.replace(path)
    return found


def features_of(
    batches: Iterable[Images], network: FeatureNetwork, count: int, what: str, ranks: Ranks = ALONE
) -> Features | None:
    """The features of images that come in batches; None if there are none.

    Of several processes each hands in the batches of its turn (``Ranks.turns``), and all get the features of all, in
    the order of the batches.
    """
    parts: list[Features | None] = []
    with tqdm(
        total=count, desc=what, unit="image", file=sys.stderr, dynamic_ncols=True, delay=1, disable=not ranks.first
    ) as bar:
        for images in batches:
            parts.append(network(images) if len(images) else None)
            bar.update(len(images) * ranks.size)
    ordered = [part for part in ranks.take_turns(parts) if part is not None]
    if not ordered:
        return None
    return joined(ordered)


def joined(parts: Sequence[Features]) -> Features:
    """Features of batches as those of one set."""
    logits = [part.logits for part in parts if part.logits is not None]
    return Features(torch.cat([part.values for part in parts]), torch.cat(logits) if logits else None)


def _cache_folder() -> Path:
    return Path(os.environ.get("STRAIT_CACHE") or Path.home() / ".cache" / "strait")
