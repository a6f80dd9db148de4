"""Memory and open files of the service over an hour of good and hostile traffic, a line a minute.

pip install ".[serve]" httpx
OMP_NUM_THREADS=1 python benchmarks/mixed_traffic.py [--minutes 60] [--rate 1] [--hostile 10] [--json]

One good client asks at a rate, and each of its images must be the one that the same request got before; hostile
clients stand beside it. Memory of a minute is the median of its samples, open files are the most of them. In the end a
straight line is laid through the minutes after the first sixth, when caches are filled. The exit status is 1 where a
bound is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
from hostile_clients import hostile_clients
from served import GENERATE, URL, memory, open_files, running_service

REQUESTS = 50
"""Different good requests; each comes again and again."""
SAMPLES_A_MINUTE = 12
GROWTH = 32
"""Megabytes an hour that all processes together may grow after the first sixth of the time."""
FILES = 20
"""Open files that a process may have more than at first, beside one for each hostile client."""


@dataclass
class GoodClient:
    """Asks for images at a rate until it is over.

    Args:
        rate: requests a second, at most.

    Attributes:
        answered: requests that got their images.
        lost: requests without an answer, or with another status than 200.
        wrong: requests whose image was another one than before.
    """

    rate: float
    answered: int = 0
    lost: int = 0
    wrong: int = 0
    _images: dict[int, str] = field(default_factory=dict)

    def run(self, is_over: threading.Event) -> None:
        """Ask until it is over."""
        begun, sent = time.monotonic(), 0
        with httpx.Client(base_url=URL, timeout=120) as client:
            while not is_over.wait(max(0.0, begun + sent / self.rate - time.monotonic())):
                self._ask(client, sent % REQUESTS)
                sent += 1

    def _ask(self, client: httpx.Client, number: int) -> None:
        try:
            reply = client.post(GENERATE, json={"labels": [number], "seed": number})
        except httpx.HTTPError:
            self.lost += 1
            return
        if reply.status_code != 200:
            self.lost += 1
            return
        image = reply.json()["images"][0]["png"]
        self.answered += 1
        self.wrong += self._images.setdefault(number, image) != image


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--rate", type=float, default=1, help="good requests a second")
    parser.add_argument("--hostile", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    client, is_over = GoodClient(args.rate), threading.Event()
    with running_service() as service, hostile_clients(args.hostile):
        thread = threading.Thread(target=client.run, args=(is_over,))
        thread.start()
        minutes = []
        try:
            for number in range(1, args.minutes + 1):
                minutes.append(_minute(service.pid))
                print(_line(number, minutes[-1], client), file=sys.stderr, flush=True)
        finally:
            is_over.set()
            thread.join()
    report = _report(minutes, client, args.hostile)
    print(json.dumps(report) if args.json else "\n".join(f"{name:24} {value}" for name, value in report.items()))
    return int(not all(report["bounds"].values()))


def _minute(process: int) -> dict[int, tuple[float, int]]:
    """Resident megabytes and open files of each process, over a minute."""
    sizes: dict[int, list[float]] = {}
    files: dict[int, list[int]] = {}
    for _ in range(SAMPLES_A_MINUTE):
        time.sleep(60 / SAMPLES_A_MINUTE)
        for number, size in memory(process).items():
            sizes.setdefault(number, []).append(size)
        for number, count in open_files(process).items():
            files.setdefault(number, []).append(count)
    return {number: (statistics.median(sizes[number]), max(files[number])) for number in sizes}


def _line(number: int, minute: dict[int, tuple[float, int]], client: GoodClient) -> str:
    each = "; ".join(f"process {process}: {size:.1f} MB, {count} files" for process, (size, count) in minute.items())
    return f"minute {number}: {each}; {client.answered} answered, {client.lost} lost, {client.wrong} wrong"


def _report(minutes: list[dict[int, tuple[float, int]]], client: GoodClient, hostile: int) -> dict[str, Any]:
    settled = minutes[len(minutes) // 6 :]
    totals = [sum(size for size, _ in minute.values()) for minute in settled]
    places = list(range(len(totals)))
    growth = 60 * statistics.linear_regression(places, totals).slope if len(totals) > 1 else 0.0
    more_files = max(
        count - settled[0][process][1]
        for minute in settled
        for process, (_, count) in minute.items()
        if process in settled[0]
    )
    return {
        "minutes": len(minutes),
        "answered": client.answered,
        "lost": client.lost,
        "wrong": client.wrong,
        "megabytes_first": round(totals[0], 1),
        "megabytes_last": round(totals[-1], 1),
        "megabytes_an_hour": round(growth, 1),
        "more_files_at_most": more_files,
        "bounds": {
            "none lost": client.lost == 0,
            "none wrong": client.wrong == 0,
            "the same processes": all(minute.keys() == minutes[0].keys() for minute in minutes),
            f"growth at most {GROWTH} megabytes an hour": growth <= GROWTH,
            "open files flat": more_files <= FILES + hostile,
        },
    }


if __name__ == "__main__":
    sys.exit(main())
