"""The order of images in an epoch; rare classes can be drawn as often as common ones."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from strait.randomness import key, permutation

_REPEATS = 61


def epoch_order(length: int, labels: np.ndarray | None, balance: float, *parts: int) -> Tensor:
    """The images of one epoch in random order.

    Args:
        length: number of images, and of draws in an epoch.
        labels: int ``[length]``, -1 for an image without a class; None for data without classes.
        balance: 0 draws each image once; 1 draws every class equally often; between, a class of n images is drawn in
            proportion to n^(1 - balance). Draws of two images of one class differ by one at most. An image without a
            class is drawn once: those images are not a class that could be rare.
        parts: keys of the random order: the seed, the purpose, the epoch.

    Returns:
        int64 ``[length]``.
    """
    order = permutation(length, *parts)
    if not balance or labels is None:
        return order
    return torch.from_numpy(_repeated(np.asarray(labels), balance, int(key(*parts, _REPEATS))))[order]


def _repeated(labels: np.ndarray, balance: float, seed: int) -> np.ndarray:
    """Image indices int64 ``[length]``, those of each class repeated up to its share of the epoch."""
    with_class, without = np.flatnonzero(labels >= 0), np.flatnonzero(labels < 0)
    return np.concatenate([without, with_class[_repeated_classes(labels[with_class], balance, seed)]])


def _repeated_classes(labels: np.ndarray, balance: float, seed: int) -> np.ndarray:
    if not len(labels):
        return np.zeros(0, dtype=np.int64)
    classes, sizes = np.unique(labels, return_counts=True)
    shares = sizes.astype(np.float64) ** (1 - balance)
    exact = len(labels) * shares / shares.sum()
    counts = np.floor(exact).astype(np.int64)
    # Draws lost to rounding down go to the classes with the largest remainders.
    counts[np.argsort(counts - exact, kind="stable")[: len(labels) - counts.sum()]] += 1
    # Sorted once: not a pass over all labels for each class, of which there may be thousands.
    by_class = np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1])
    parts = []
    for label, size, count, members in zip(classes.tolist(), sizes.tolist(), counts.tolist(), by_class, strict=True):
        once_more = permutation(size, seed, label)[: count % size].numpy()
        parts += [np.tile(members, count // size), members[once_more]]
    return np.concatenate(parts)
