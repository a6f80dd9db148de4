"""Provenance: everything that a score depends on, as values in the report and as lines of text.

features       network, digest of its weights or file, how it resizes images
neighbours     k of precision and recall
reference      photographs: fingerprint, split, number taken and available, order, size, crop, filter
reconstructed  order and batch size
samples        generated images: number, order, seed, decoding settings
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

from strait.evaluation.features import FeatureNetwork
from strait.runtime.ranks import ALONE, Ranks
from strait.version import __version__


def network_provenance(network: FeatureNetwork) -> dict[str, str]:
    """The feature network of a score."""
    return {"network": network.name, "digest": network.digest, "resize": network.resize}


def versions_and_hardware(device: torch.device, ranks: Ranks = ALONE) -> dict[str, Any]:
    """The software versions and the hardware of a measurement."""
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "versions": {
            "strait": __version__,
            "torch": torch.__version__,
            "pillow": PIL.__version__,  # provides the resize filter
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
    """Provenance as lines of text, one per kind; if several scores differ in a kind, its line lists all values.

    Args:
        abouts: the provenance of each score.
        names: of the scores, to tell their models apart.
    """
    lines = {
        kind: _distinct(describe(about[kind]) for about in abouts if about.get(kind) is not None)
        for kind, describe in _IN_WORDS.items()
    }
    samples = [about["samples"] for about in abouts if "samples" in about]
    lines["samples"] = _samples(samples) if samples else ""
    hashes = [about["model"] for about in abouts]
    if len(set(hashes)) > 1 and names:
        hashes = [f"{name} {digest}" for name, digest in zip(names, hashes, strict=True)]
    lines["model"] = _distinct(hashes)
    order = ("features", "neighbours", "reference", "reconstructed", "samples", "model", "versions", "hardware")
    return [f"{kind}: {lines[kind]}" for kind in order if lines[kind]]


def photographs_in_words(about: Mapping[str, Any]) -> str:
    """A set of photographs (``ReferenceSet.describe``) as text."""
    return (
        f"{about['images']} of {about['of']} {about['split']} photographs ({about['order']}), fingerprint "
        f"{about['fingerprint']}, {about['size']} px, crop: {about['crop']}, filter: {about['filter']}"
    )


_UNUSUAL = {"guidance_start": 0, "quality": 1, "revise": "none", "revise_share": 0, "revise_passes": 0}
"""Settings that are named only where they are not these."""


def decoding_in_words(decoding: Mapping[str, Any]) -> str:
    """All decoding settings as text."""
    return (
        f"{'+'.join(map(str, decoding['steps']))} steps at {'+'.join(f'{t:g}' for t in decoding['temperature'])}, "
        f"guidance {decoding['guidance']:g} ({decoding['guidance_ramp']}), {decoding['schedule']}, {decoding['keep']}"
        + "".join(
            f", {name} {decoding[name]}" for name, usual in _UNUSUAL.items() if decoding.get(name, usual) != usual
        )
    )


def _distinct(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(texts))


def _samples(abouts: Sequence[Mapping[str, Any]]) -> str:
    seeds = sorted({about["seed"] for about in abouts})
    settings = list(dict.fromkeys(decoding_in_words(about["decoding"]) for about in abouts))
    return (
        f"{_distinct(str(about['count']) for about in abouts)} generated, seed {', '.join(map(str, seeds))}, order: "
        f"{_distinct(about['order'] for about in abouts)}, "
        f"batches of {_distinct(str(about['batch_size']) for about in abouts)}; "
        + (settings[0] if len(settings) == 1 else "decoding as stated for each")
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
