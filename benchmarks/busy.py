"""The time of a command beside other busy programs, for several settings of how its threads wait.

OpenMP's threads spin while they wait for each other. Beside other programs this takes processor time from the thread
that they wait for. The load is created here: as many busy programs as there are processors.

python benchmarks/busy.py                     strait generate --count 16: alone, beside busy programs, and two at once
python benchmarks/busy.py --count 4 --repeats 1
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

WAYS: dict[str, dict[str, str]] = {
    "default of the libraries": {},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"},
    "GOMP_SPINCOUNT=10000 (strait's own)": {"GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "1"},
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
}
_NAMES = ("GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_WAIT_POLICY")
# No variable selects the libraries' default; this runs a verb without the package's own settings.
_PROGRAM = "import sys; from strait.cli import main; sys.exit(main(sys.argv[1:]))"


@contextmanager
def busy(programs: int) -> Iterator[None]:
    """Run programs that only compute."""
    running = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(programs)]
    try:
        yield
    finally:
        for program in running:
            program.kill()
            program.wait()


def seconds(arguments: Sequence[str], variables: dict[str, str], at_once: int) -> float:
    """The time until the last of ``at_once`` equal, simultaneous commands has ended.

    Raises:
        RuntimeError: if one fails.
    """
    environment = {name: value for name, value in os.environ.items() if name not in _NAMES}
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        commands = [
            subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, *arguments, "--output", f"{folder}/{number}"],
                env={**environment, **variables},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for number in range(at_once)
        ]
        statuses = [command.wait() for command in commands]
        if any(statuses):
            raise RuntimeError(f"{' '.join(arguments)} failed")
        return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--count", type=int, default=16, help="images per command")
    parser.add_argument("--repeats", type=int, default=5, help="of each setting, in turns; medians are reported")
    args = parser.parse_args()
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    arguments = ["generate", "--count", str(args.count), *([] if args.model is None else ["--model", args.model])]
    loads = {"alone": (0, 1), f"beside {processors} busy programs": (processors, 1), "two at once": (0, 2)}
    taken: dict[tuple[str, str], list[float]] = {(way, load): [] for way in WAYS for load in loads}
    for _ in range(args.repeats):
        for load, (programs, at_once) in loads.items():
            for way, variables in WAYS.items():
                with busy(programs):
                    taken[way, load].append(seconds(arguments, variables, at_once))
    print(f"strait {' '.join(arguments)}, the whole command in seconds, on {processors} processors")
    print(f"| threads wait | {' | '.join(loads)} |\n|---|{'---|' * len(loads)}")
    for way in WAYS:
        cells = [
            f"{statistics.median(times):.1f} ({min(times):.1f} to {max(times):.1f})"
            for times in (taken[way, load] for load in loads)
        ]
        print(f"| {way} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
