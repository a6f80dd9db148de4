"""Recognised: the share of images whose class a scoring network puts first.

Fréchet distance and Inception score compare sets; this asks of each image whether it shows what was asked for. Beside
it stands the same share for photographs, which no generator needs to exceed, and for their reconstructions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from strait.evaluation.features import Features
from strait.runtime.messages import say_once


def recognised(features: Features, labels: Tensor) -> dict[str, float]:
    """How many images are recognised.

    Args:
        features: of the images, with logits.
        labels: int64 ``[images]``, which logit is right for each; -1 for images without a class, which do not count.

    Returns:
        ``recognised``, a share, and ``recognised_error``, the standard error that comes from having drawn just these
        images; empty if the network has no logits or no image has a class.
    """
    known = labels >= 0
    if features.logits is None or not bool(known.any()):
        return {}
    right = (features.logits.argmax(1) == labels)[known].double()
    share = float(right.mean())
    return {"recognised": share, "recognised_error": math.sqrt(share * (1 - share) / len(right))}


def logit_of_class(features: Features, classes: Sequence[str], reference_classes: Sequence[str]) -> Tensor | None:
    """Which logit stands for each class of a model, int64 ``[classes]``.

    A network says no names: one with as many logits as the reference has classes is taken to have them in its order.

    Args:
        features: of any images, by the network.
        classes: of the model.
        reference_classes: of the photographs.

    Returns:
        -1 for a class that the photographs do not have; None, with a line that says so, where the network cannot tell
        these classes apart.
    """
    if features.logits is None or not classes or not reference_classes:
        return None
    if features.logits.shape[1] != len(reference_classes):
        say_once(
            f"the feature network has {features.logits.shape[1]} logits for {len(reference_classes)} classes: "
            "it cannot say which images are recognised"
        )
        return None
    numbers = {name: number for number, name in enumerate(reference_classes)}
    return torch.tensor([numbers.get(name, -1) for name in classes], dtype=torch.int64)
