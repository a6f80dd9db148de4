"""The features of reference photographs, computed once and cached.

The cache is ``$STRAIT_CACHE`` (``~/.cache/strait`` by default). The key of a file covers everything it depends on: the
data's fingerprint, the split, size and count, and the network's hash. Each file stores its key and the hash of its
content; a file that does not match is computed again.
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
"""The only key of a file's metadata: safetensors may write several keys in random order."""


@dataclass(frozen=True)
class ReferenceSet:
    """A set of reference photographs.

    Args:
        source: of the photographs.
        split: its name, for the report.
        size: side in pixels to which they are resized.
        samples: take only this many, evenly spaced; all by default.
    """

    source: ImageSource
    split: str
    size: int
    samples: int | None = None

    def indices(self) -> list[int]:
        """Indices of the images in the source."""
        total = len(self.source)
        count = total if self.samples is None else min(self.samples, total)
        return [position * total // count for position in range(count)]

    def describe(self) -> dict[str, Any]:
        """The provenance of the set."""
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
    """The features of a reference set, from the cache if possible.

    Args:
        reference: the photographs.
        network: computes the features.
        device: of ``through`` and the network.
        through: applied to the images first, such as a tokenizer's reconstruction.
        through_digest: identifies ``through`` in the cache key.
        batch_size: images at once.
        ranks: the processes that share the work; all must call this, and all get the full result.
        stopped: called between batches.

    Returns:
        Features with the indices of their images in the source; unreadable files are left out.

    Raises:
        DataError: if no image can be read.
        FeatureError: if features are not finite; the message names the image, and nothing is cached.
        Stopped: if any process is to stop.
    """
    about = ranks.on_first(reference.describe)
    about = {**about, "network": network.name, "digest": network.digest, "through": through_digest}
    key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:24]
    path = cache_folder() / f"features-{key}.safetensors"
    cached = ranks.on_first(lambda: _read_cache(path, key, about["images"]))
    if cached is not None:
        return cached
    indices = reference.indices()
    bad_files, read = BadFiles(ranks), list[Tensor]()

    def batches() -> Iterable[Images]:
        for start in ranks.turns(range(0, len(indices), batch_size)):
            for batch in in_order(reference.source, reference.size, batch_size, indices[start : start + batch_size]):
                bad_files.note(batch.bad)
                read.append(batch.indices)
                images = batch.images(device)
                # Empty batches are passed on too: the processes take turns by batch.
                yield images if through is None or not len(images) else through(images)

    kind = reference.split if through is None else f"reconstructed {reference.split}"
    features = features_of(batches(), network, len(indices), f"reference {kind}", ranks, stopped)
    bad_files.summary()
    if features is None:
        raise DataError(f"--data: none of the {len(indices)} images can be read")
    features = replace(features, indices=torch.cat(ranks.take_turns(read)))
    ranks.on_first(lambda: check_finite(features, kind))
    ranks.on_first(lambda: _write_cache(path, key, features))
    return features


def _write_cache(path: Path, key: str, features: Features) -> None:
    """Write features to the cache; warn if that fails."""
    tensors = {"values": features.values, "indices": features.indices, "logits": features.logits}
    tensors = {name: value.contiguous() for name, value in tensors.items() if value is not None}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_tensors(path, tensors, {_DIGEST: f"{key} {weights_digest(tensors)}"})
    except OSError as error:  # such as a full disk
        print(f"{path} cannot be written; it is computed again the next time ({error})", file=sys.stderr)


def _read_cache(path: Path, key: str, count: int) -> Features | None:
    """The content of a cache file; None if it is missing, or, with a warning, damaged."""
    if not path.exists():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            digest = (file.metadata() or {}).get(_DIGEST)
        if digest != f"{key} {weights_digest(tensors)}":
            raise ValueError("its content does not match its hash")
        features = Features(tensors["values"], tensors.get("logits"), tensors["indices"])
        rows = {len(value) for value in tensors.values()}
        if rows != {len(features)} or not 0 < len(features) <= count:
            raise ValueError(f"it has {len(features)} rows for {count} images")
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        print(f"{path} is damaged and is computed again ({first_line(error)})", file=sys.stderr)
        return None
    return features


def features_of(
    batches: Iterable[Images],
    network: FeatureNetwork,
    count: int,
    what: str,
    ranks: Ranks = ALONE,
    stopped: Callable[[], bool] = lambda: False,
) -> Features | None:
    """The features of batches of images; None if there are none.

    Each process passes the batches of its turn (``Ranks.turns``); all get the features of all batches, in order.

    Raises:
        Stopped: if any process is to stop before the last batch.
    """
    parts: list[Features | None] = []
    remaining = iter(batches)
    with tqdm(
        total=count, desc=what, unit="image", file=sys.stderr, dynamic_ncols=True, delay=1, disable=not ranks.first
    ) as bar:
        while not (halted := stopped()) and (images := next(remaining, None)) is not None:
            parts.append(network(images) if len(images) else None)
            bar.update(len(images) * ranks.size)
    # Only now do the processes communicate: their numbers of batches may differ.
    ranks.stop_if(halted)
    ordered = [part for part in ranks.take_turns(parts) if part is not None]
    if not ordered:
        return None
    return joined(ordered)


def joined(parts: Sequence[Features]) -> Features:
    """Concatenate the features of batches."""
    logits = [part.logits for part in parts if part.logits is not None]
    return Features(torch.cat([part.values for part in parts]), torch.cat(logits) if logits else None)
