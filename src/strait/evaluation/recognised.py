"""Recognised: the share of images whose class a scoring network ranks first.

Fréchet distance and Inception score compare sets; this score checks for each image whether it shows the requested
class. Reports also state it for photographs and for their reconstructions, as upper bounds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from strait.evaluation.features import Features
from strait.runtime.messages import say_once


def recognised(features: Features, labels: Tensor) -> dict[str, float]:
    """The share of images that are recognised.

    Args:
        features: of the images, with logits.
        labels: int64 ``[images]``, the correct logit of each; -1 for images without a class, which are ignored.

    Returns:
        ``recognised``, the share, and ``recognised_error``, its standard error over images; empty if the network has
        no logits or no image has a class.
    """
    labelled = labels >= 0
    if features.logits is None or not bool(labelled.any()):
        return {}
    correct = (features.logits.argmax(1) == labels)[labelled].double()
    share = float(correct.mean())
    return {"recognised": share, "recognised_error": math.sqrt(share * (1 - share) / len(correct))}


def logit_of_class(features: Features, classes: Sequence[str], reference_classes: Sequence[str]) -> Tensor | None:
    """The index of the logit for each class of a model, int64 ``[classes]``.

    Networks do not name their logits: if there are as many logits as reference classes, they are taken to be in the
    order of those classes.

    Args:
        features: of any images.
        classes: of the model.
        reference_classes: of the photographs.

    Returns:
        The indices, -1 for a class that the photographs lack; None, with a warning, if the numbers of logits and
        reference classes differ.
    """
    if features.logits is None or not classes or not reference_classes:
        return None
    if features.logits.shape[1] != len(reference_classes):
        say_once(
            f"the feature network has {features.logits.shape[1]} logits for {len(reference_classes)} classes: "
            "it cannot tell which images are recognised"
        )
        return None
    indices = {name: index for index, name in enumerate(reference_classes)}
    return torch.tensor([indices.get(name, -1) for name in classes], dtype=torch.int64)
