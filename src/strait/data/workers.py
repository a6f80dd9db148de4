"""Processes that read and crop photographs while the device computes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence

import torch
from torch.utils.data import DataLoader, Dataset

from strait.data.config import DataConfig
from strait.data.images import ImageBatch


def default_workers(config: DataConfig, device: torch.device, cores: int) -> int:
    """Number of processes that decode images: 0 for a model on the CPU, which needs the cores itself."""
    if config.workers is not None:
        return config.workers
    return min(8, cores - 1) if device.type == "cuda" else 0


def leave_stopping_to_the_parent(worker: int) -> None:
    """Start of a worker: take it out of the parent's process group.

    Ctrl-C, and often SIGTERM, reach every process of a group, but the parent still needs images to finish its step.
    Ignoring the signals instead would make workers impossible to end.
    """
    if hasattr(os, "setsid"):
        os.setsid()


class _Calls(Dataset[ImageBatch]):
    """Item k is the result of call k."""

    def __init__(self, calls: Sequence[Callable[[], ImageBatch]]) -> None:
        self.calls = calls

    def __len__(self) -> int:
        return len(self.calls)

    def __getitem__(self, index: int) -> ImageBatch:
        return self.calls[index]()


def batches_ahead(calls: Sequence[Callable[[], ImageBatch]], workers: int) -> Iterator[ImageBatch]:
    """The batches that ``calls`` read, in their order; worker processes read a few batches ahead.

    Args:
        calls: each reads one batch.
        workers: number of processes; 0 reads here, when a batch is needed.
    """
    pinned = torch.cuda.is_available()
    loader = DataLoader(
        _Calls(calls),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=2 if workers else None,
        pin_memory=pinned and workers > 0,
        worker_init_fn=leave_stopping_to_the_parent,
    )
    yield from loader
