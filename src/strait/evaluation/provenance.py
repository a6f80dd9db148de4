"""What a score depends on, as values beside it and as lines for people: a figure without them is worth nothing.

features       network, digest of its weights or file, what it does to images of other sizes
neighbours     k of precision and recall
reference      photographs: fingerprint, split, how many of how many, order, size, crop, filter
reconstructed  in which order they were, and how many at once
samples        what was generated: how many, in which order, seed, settings of decoding
model          hash of its weights
versions, hardware
"""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import PIL
import torch

import strait
from strait.evaluation.features import FeatureNetwork
from strait.runtime.ranks import ALONE, Ranks


def network_provenance(network: FeatureNetwork) -> dict[str, str]:
    """Which features are compared."""
    return {"network": network.name, "digest": network.digest, "resize": network.resize}


def versions_and_hardware(device: torch.device, ranks: Ranks = ALONE) -> dict[str, Any]:
    """What a figure was measured with and on."""
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "versions": {
            "strait": strait.__version__,
            "torch": torch.__version__,
            "pillow": PIL.__version__,  # whose is the resize filter
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


def provenance_lines(abouts: Sequence[Mapping[str, Any]], names: Sequence[str] = ()) -> list[str]:
    """Provenance as lines, a kind each; where several scores differ in one, all that occur stand in it.

    Args:
        abouts: of one score or several.
        names: of the scores, where their models are to be told apart.
    """
    lines = {
        kind: _each(say(about[kind]) for about in abouts if about.get(kind) is not None)
        for kind, say in _IN_WORDS.items()
    }
    samples = [about["samples"] for about in abouts if "samples" in about]
    lines["samples"] = _samples(samples) if samples else ""
    hashes = [about["model"] for about in abouts]
    if len(set(hashes)) > 1 and names:
        hashes = [f"{name} {digest}" for name, digest in zip(names, hashes, strict=True)]
    lines["model"] = _each(hashes)
    order = ("features", "neighbours", "reference", "reconstructed", "samples", "model", "versions", "hardware")
    return [f"{kind}: {lines[kind]}" for kind in order if lines[kind]]


def photographs_in_words(about: Mapping[str, Any]) -> str:
    """A set of photographs, as ``ReferenceSet.describe`` has it."""
    return (
        f"{about['images']} of {about['of']} {about['split']} photographs ({about['order']}), fingerprint "
        f"{about['fingerprint']}, {about['size']} px, crop: {about['crop']}, filter: {about['filter']}"
    )


def decoding_in_words(decoding: Mapping[str, Any]) -> str:
    """Settings of decoding, all of them."""
    return (
        f"{'+'.join(map(str, decoding['steps']))} steps at {'+'.join(f'{t:g}' for t in decoding['temperature'])}, "
        f"guidance {decoding['guidance']:g} ({decoding['guidance_ramp']}), {decoding['schedule']}, {decoding['keep']}"
    )


def _each(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))


def _samples(abouts: Sequence[Mapping[str, Any]]) -> str:
    seeds = sorted({about["seed"] for about in abouts})
    settings = list(dict.fromkeys(decoding_in_words(about["decoding"]) for about in abouts))
    return (
        f"{_each(str(about['count']) for about in abouts)} generated, seed {', '.join(map(str, seeds))}, order: "
        f"{_each(about['order'] for about in abouts)}, batches of {_each(str(a['batch_size']) for a in abouts)}; "
        + (settings[0] if len(settings) == 1 else "decoded as it says beside each")
    )


_IN_WORDS: dict[str, Callable[[Any], str]] = {
    "features": lambda about: f"{about['network']} ({about['digest']}), resize: {about['resize']}",
    "neighbours": lambda count: f"k = {count} for precision and recall",
    "reference": photographs_in_words,
    "reconstructed": lambda about: f"{about['order']}, batches of {about['batch_size']}",
    "versions": lambda about: ", ".join(f"{name} {number}" for name, number in about.items()),
    "hardware": lambda about: (
        f"{about['device']}, {about['cores']} cores, {about['processes']} process(es) of {about['threads']} thread(s)"
    ),
}
