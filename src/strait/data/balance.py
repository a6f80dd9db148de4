"""The order of an epoch, in which rare classes may come as often as common ones."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from strait.randomness import key, permutation

_REPEATS = 61


def epoch_order(length: int, labels: np.ndarray | None, balance: float, *parts: int) -> Tensor:
    """The images of one epoch in random order.

    Args:
        length: images there are, and draws of an epoch.
        labels: int ``[length]``, -1 for an image without class; None where there are no classes.
        balance: 0 takes each image once; at 1 every class comes equally often. Between, a class of n images comes in
            proportion to n^(1 - balance). Within a class every image comes equally often, or once more than another.
        parts: what the order depends on: the seed, its purpose, the number of the epoch.

    Returns:
        int64 ``[length]``.
    """
    order = permutation(length, *parts)
    if not balance or labels is None:
        return order
    return torch.from_numpy(_repeated(np.asarray(labels), balance, int(key(*parts, _REPEATS))))[order]


def _repeated(labels: np.ndarray, balance: float, seed: int) -> np.ndarray:
    """Each class' images as often as its share of the epoch asks for, int64 ``[length]``."""
    classes, sizes = np.unique(labels, return_counts=True)
    shares = sizes.astype(np.float64) ** (1 - balance)
    exact = len(labels) * shares / shares.sum()
    counts = np.floor(exact).astype(np.int64)
    # What rounding down has left over goes to the largest remainders.
    counts[np.argsort(counts - exact, kind="stable")[: len(labels) - counts.sum()]] += 1
    parts = []
    for label, size, count in zip(classes.tolist(), sizes.tolist(), counts.tolist(), strict=True):
        members = np.flatnonzero(labels == label)
        once_more = permutation(size, seed, label)[: count % size].numpy()
        parts += [np.tile(members, count // size), members[once_more]]
    return np.concatenate(parts)
