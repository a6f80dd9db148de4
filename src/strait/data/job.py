"""The context of a run, passed to everything that does its work.

It belongs to ``data`` because the token cache needs it too.
"""

from __future__ import annotations

import sys

import torch

from strait.runtime.ranks import ALONE, Ranks
from strait.runtime.stop import Stop


class BadFiles:
    """Reports each unreadable file once, and their number at the end.

    The first process reports for all; ``share`` brings it the files of the others.
    """

    def __init__(self, ranks: Ranks = ALONE) -> None:
        self._ranks = ranks
        self._seen: set[str] = set()
        self._unreported: list[tuple[str, str]] = []

    def note(self, bad: list[tuple[str, str]]) -> None:
        """Report (name, reason) of files that are new."""
        for name, reason in bad:
            if name not in self._seen:
                self._seen.add(name)
                if self._ranks.first:
                    print(f"skipped {name}: {reason}", file=sys.stderr, flush=True)
                else:
                    self._unreported.append((name, reason))

    def share(self) -> None:
        """Send the files of all processes to the first; a collective call."""
        gathered, self._unreported = self._ranks.gather(self._unreported), []
        if self._ranks.first:
            for bad in gathered[1:]:
                self.note(bad)

    def summary(self) -> None:
        """Report the number of files at the end; a collective call."""
        self.share()
        if self._seen and self._ranks.first:
            count = len(self._seen)
            print(f"{count} unreadable image{'s were' if count > 1 else ' was'} skipped", file=sys.stderr, flush=True)


class Job:
    """Where a run computes, with which processes and until when, and the files it could not read.

    Args:
        device: of this process.
        ranks: the processes that share the work.
        stop: checked after each step or batch; None never stops.
    """

    def __init__(self, device: torch.device, ranks: Ranks = ALONE, stop: Stop | None = None) -> None:
        self.device, self.ranks, self.stop = device, ranks, Stop() if stop is None else stop
        self.bad_files = BadFiles(ranks)
