"""How the threads of a computation wait for each other: a moment awake, then asleep."""

from __future__ import annotations

import os

_CHOSEN = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def wait_without_spinning() -> None:
    """Bound how long threads spin before they sleep, unless the user's environment says how they wait.

    They spin some milliseconds by default, which takes the processor from whatever else runs there, and from the very
    thread that they wait for. The bounds are of a few microseconds (GNU's library: turns of a loop) and of a
    millisecond (Intel's and LLVM's, the least above none). A library reads them once, when it is loaded: so before
    torch is.
    """
    if not any(name in os.environ for name in _CHOSEN):
        os.environ.update(GOMP_SPINCOUNT="1000", KMP_BLOCKTIME="1")
