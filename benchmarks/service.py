"""The service under load: nothing lost, nothing wrong, how fast, and whether memory grows.

pip install ".[serve]" httpx
OMP_NUM_THREADS=2 python benchmarks/service.py [--requests 500] [--clients 32] [--memory-requests 2000] [--json]
OMP_NUM_THREADS=2 python benchmarks/service.py --hostile 10         the same beside clients that do harm
OMP_NUM_THREADS=2 python benchmarks/service.py --against OTHER/src   another version in turn with this one

First every request alone, one after the other: what each image must be, and the rate to be beaten. Then all of them
from many clients at once, each image compared. Then many more, with the memory of all processes of the service looked
at. The rate of the model itself at the same batch size is measured before and after, without the service, by
``strait bench`` where there is one and in this process otherwise; service and model have the same number of threads.
With hostile clients, rounds without and with them are compared instead, in turns and by their medians.
Measure on a quiet machine. The exit status is 1 where a bound is missed: see ``bounds`` in the report.
"""

from __future__ import annotations

import argparse
import http.client
import json
import socket
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hostile_clients import hostile_clients
from served import GENERATE, PORT, memory, open_files, processor_seconds, running_service

RATIO = 0.85
"""The service's rate is at least this share of the model's own, at the same batch size."""
SETTLED, GROWTH = 500, 64
"""Memory of all processes grows by no more megabytes after the first so many requests."""
NO_SLOWER, BESIDE = 0.97, 0.9
"""Shares of a rate: of another version's, since two rounds of one version differ by as much; of that without hostile
clients."""
FILES = 20
"""Open files that the service may have more than at first: its connections that are not yet closed."""
Report = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--memory-requests", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--delay", type=float, default=0.02)
    parser.add_argument("--workers", type=int, default=1, help="they share the threads")
    parser.add_argument("--against", help="the folder src of another version: which one is faster")
    parser.add_argument("--rounds", type=int, default=3, help="in turn, of each version, or with hostile clients")
    parser.add_argument("--hostile", type=int, default=0, help="clients that do harm, beside the others")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    words = ("--batch-size", str(args.batch_size), "--delay", str(args.delay), "--workers", str(args.workers))
    bodies = [_body(number) for number in range(args.requests)]
    if args.against is not None:
        report = _compare(args.against, words, bodies, args.clients, args.rounds)
    else:
        report = _measure(words, bodies, args)
    print(
        json.dumps(report) if args.json else "\n".join(f"{name:32} {_shown(value)}" for name, value in report.items())
    )
    return int(not all(report["bounds"].values()))


def _compare(other: str, words: tuple[str, ...], bodies: list[dict[str, Any]], clients: int, rounds: int) -> Report:
    """Both versions in turn, on the same machine, with the same requests."""
    rates: dict[str, list[float]] = {"this": [], "other": []}
    seconds: dict[str, list[float]] = {"this": [], "other": []}
    images: dict[str, list[list[str]]] = {}
    for _ in range(rounds):
        for name, source in (("this", str(Path(__file__).parent.parent / "src")), ("other", other)):
            with running_service(*words, source=source) as service:
                _from_clients(bodies[:clients], clients)
                start, used = time.monotonic(), processor_seconds(service.pid)
                replies = _from_clients(bodies, clients)
                rates[name].append(len(bodies) / (time.monotonic() - start))
                seconds[name].append((processor_seconds(service.pid) - used) / len(bodies))
                images[name] = [reply.images() for reply in replies]
    ratios = [here / there for here, there in zip(rates["this"], rates["other"], strict=True)]
    return {
        "requests": len(bodies),
        "clients": clients,
        "images_per_second": rates["this"],
        "images_per_second_other": rates["other"],
        "ratio_median": statistics.median(ratios),
        "processor_seconds_an_image": seconds["this"],
        "processor_seconds_an_image_other": seconds["other"],
        "bounds": {
            "the same images": images["this"] == images["other"] and all(images["this"]),
            "no slower": statistics.median(ratios) >= NO_SLOWER,
        },
    }


def _measure(words: tuple[str, ...], bodies: list[dict[str, Any]], args: argparse.Namespace) -> Report:
    direct_rate = 0.0 if args.hostile else _direct_rate(args.batch_size)
    with running_service(*words) as service:
        start = time.monotonic()
        alone = _from_clients(bodies, 1)
        alone_rate = len(bodies) / (time.monotonic() - start)

        rates: dict[int, list[float]] = {0: [], args.hostile: []}
        seconds: dict[int, list[float]] = {0: [], args.hostile: []}
        replies: list[Reply] = []
        # In turns, the other one first each time: what else the machine does falls on both.
        for number in range(args.rounds if args.hostile else 1):
            for count in list(rates)[:: -1 if number % 2 else 1]:
                with hostile_clients(count):
                    start, used = time.monotonic(), processor_seconds(service.pid)
                    replies += _from_clients(bodies, args.clients)
                    rates[count].append(len(bodies) / (time.monotonic() - start))
                    seconds[count].append((processor_seconds(service.pid) - used) / len(bodies))
        rate = statistics.median(rates[0])
        wrong = sum(reply.images() != alone[number % len(alone)].images() for number, reply in enumerate(replies))
        times = sorted(reply.seconds for reply in replies)
        sizes, files, lost_later = [memory(service.pid)], [open_files(service.pid)[service.pid]], 0
        for start_at in range(0, args.memory_requests, 500):
            more = [_body(number) for number in range(start_at, min(start_at + 500, args.memory_requests))]
            with hostile_clients(args.hostile):
                lost_later += sum(reply.status != 200 for reply in _from_clients(more, args.clients))
            time.sleep(1)
            sizes.append(memory(service.pid))
            files.append(open_files(service.pid)[service.pid])
    if not args.hostile:
        # The better of the two: the bound must not be met by a machine that was busy meanwhile.
        direct_rate = max(direct_rate, _direct_rate(args.batch_size))
    totals = [sum(size.values()) for size in sizes]
    growth = max(totals[1 + SETTLED // 500 :], default=totals[-1]) - totals[min(SETTLED // 500, len(totals) - 1)]
    lost = lost_later + sum(reply.status != 200 for reply in [*alone, *replies])
    report = {
        "requests": args.requests,
        "clients": args.clients,
        "hostile_clients": args.hostile,
        "lost": lost,
        "wrong": wrong,
        "images_per_second": rate,
        "images_per_second_one_at_a_time": alone_rate,
        "seconds_median": statistics.median(times),
        "seconds_95th": times[int(0.95 * len(times))],
        "rows_mean": statistics.mean(reply.rows for reply in replies),
        "delay_seconds": args.delay,
        "megabytes": totals,
        "megabytes_of_processes": [[size.get(number, 0.0) for size in sizes] for number in sizes[0]],
        "megabytes_after": args.memory_requests,
        "megabytes_growth": growth,
        "open_files": files,
        "threads": torch.get_num_threads(),
        "workers": args.workers,
        "bounds": {
            "none lost": lost == 0,
            "none wrong": wrong == 0,
            "at least as fast as one at a time": rate >= alone_rate,
            "delay under 0.05 s": args.delay < 0.05,
            f"growth at most {GROWTH} megabytes": growth <= GROWTH,
            "open files flat": max(files[1:], default=files[0]) <= files[0] + FILES,
        },
    }
    if args.hostile:
        share = statistics.median(rates[args.hostile]) / rate
        report["images_per_second_of_rounds"] = rates[0]
        report["images_per_second_beside_hostile"] = rates[args.hostile]
        report["processor_seconds_an_image"] = seconds[0]
        report["processor_seconds_an_image_beside_hostile"] = seconds[args.hostile]
        report["ratio_beside_hostile"] = share
        report["bounds"][f"at least {BESIDE} of it beside hostile clients"] = share >= BESIDE
    else:
        report["images_per_second_model_alone"] = direct_rate
        report["ratio"] = rate / direct_rate
        report["bounds"][f"ratio at least {RATIO}"] = rate >= RATIO * direct_rate
    return report


def _body(number: int) -> dict[str, Any]:
    """Other labels, seeds, temperatures and guidance; the model's own steps."""
    return {
        "labels": [number % 30],
        "seed": number,
        "temperature": [3.0 + number % 3, 3.0],
        "guidance": 0.5 + number % 4 / 2,
    }


class Reply(NamedTuple):
    """What came back, and how long it took."""

    status: int
    rows: int
    body: bytes
    seconds: float

    def images(self) -> list[str]:
        return [image["png"] for image in json.loads(self.body)["images"]] if self.status == 200 else []


def _from_clients(bodies: list[dict[str, Any]], clients: int) -> list[Reply]:
    """Ask from many clients at once, each with a connection of its own.

    They share the machine with the service, so they do as little as they can: a bare connection, and replies are read
    into memory and looked at later.
    """
    here = threading.local()

    def connect() -> None:
        here.connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=120)
        here.connection.connect()
        here.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(body: bytes) -> Reply:
        start = time.monotonic()
        here.connection.request("POST", GENERATE, body, {"Content-Type": "application/json"})
        reply = here.connection.getresponse()
        read = reply.read()
        rows = int(reply.headers.get("x-strait-batch", 0))
        return Reply(reply.status, rows, read, time.monotonic() - start)

    with ThreadPoolExecutor(clients, initializer=connect) as pool:
        return list(pool.map(ask, [json.dumps(body).encode() for body in bodies]))


def _direct_rate(batch: int, seconds: float = 10) -> float:
    """Images a second of the model by itself."""
    words = ("bench", "--part", "generate", "--batch", str(batch), "--json")
    found = subprocess.run([sys.executable, "-m", "strait.cli", *words], capture_output=True, text=True, check=False)
    if found.returncode == 0:
        return json.loads(found.stdout)["images_per_second"]
    from strait.model.strait import StraIT

    model = StraIT.from_pretrained()
    labels = [number % len(model.classes) for number in range(batch)]
    model.generate(labels, batch_size=batch)
    start, made = time.monotonic(), 0
    while time.monotonic() - start < seconds:
        made += len(model.generate(labels, seed=made, batch_size=batch))
    return made / (time.monotonic() - start)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name}: {'yes' if held else 'NO'}" for name, held in value.items())
    if isinstance(value, list):
        return ", ".join(f"({_shown(item)})" if isinstance(item, list) else f"{item:.4g}" for item in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
