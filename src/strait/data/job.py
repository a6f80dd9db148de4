"""One run of a command, as everything that does its work is handed it."""

from __future__ import annotations

import torch

from strait.data.images import BadFiles
from strait.runtime.ranks import ALONE, Ranks
from strait.runtime.stop import Stop


class Job:
    """Where work is done, by which processes, until when, and which photographs it could not read.

    Args:
        device: where this process computes.
        ranks: the processes that share the work.
        stop: asked after each step or batch; None never stops.
    """

    def __init__(self, device: torch.device, ranks: Ranks = ALONE, stop: Stop | None = None) -> None:
        self.device, self.ranks, self.stop = device, ranks, Stop() if stop is None else stop
        self.bad_files = BadFiles(ranks)
