"""The service under load: nothing lost, nothing wrong, how fast, and whether memory grows.

pip install ".[serve]" httpx
OMP_NUM_THREADS=2 python benchmarks/service.py [--requests 500] [--clients 32] [--memory-requests 2000] [--json]

First every request alone, one after the other: what each image must be, and the rate to be beaten. Then all of them
from many clients at once, each image compared. Then many more, with the memory of all processes of the service looked
at. The rate of the model itself at the same batch size is measured before and after, without the service, by
``strait bench`` where there is one and in this process otherwise; service and model have the same number of threads.
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
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import torch

RATIO = 0.85
"""The service's rate is at least this share of the model's own, at the same batch size."""
SETTLED, GROWTH = 500, 64
"""Memory of all processes grows by no more megabytes after the first so many requests."""
PORT = 8198
URL = f"http://127.0.0.1:{PORT}"
GENERATE = "/v1/images/generate"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--memory-requests", type=int, default=2000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--delay", type=float, default=0.02)
    parser.add_argument("--workers", type=int, default=1, help="they share the threads")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    words = ("--batch-size", str(args.batch_size), "--delay", str(args.delay), "--workers", str(args.workers))
    before = _direct_rate(args.batch_size)
    with _service(*words) as service:
        bodies = [_body(number) for number in range(args.requests)]
        start = time.monotonic()
        alone = _from_clients(bodies, 1)
        alone_rate = len(bodies) / (time.monotonic() - start)

        start = time.monotonic()
        replies = _from_clients(bodies, args.clients)
        rate = len(bodies) / (time.monotonic() - start)
        wrong = sum(reply.images() != one.images() for reply, one in zip(replies, alone, strict=True))
        times = sorted(reply.seconds for reply in replies)
        memory, lost_later = [_memory(service.pid)], 0
        for start_at in range(0, args.memory_requests, 500):
            more = [_body(number) for number in range(start_at, min(start_at + 500, args.memory_requests))]
            lost_later += sum(reply.status != 200 for reply in _from_clients(more, args.clients))
            memory.append(_memory(service.pid))
    # The better of the two: the bound must not be met by a machine that was busy meanwhile.
    direct_rate = max(before, _direct_rate(args.batch_size))
    totals = [sum(found.values()) for found in memory]
    growth = max(totals[1 + SETTLED // 500 :], default=totals[-1]) - totals[min(SETTLED // 500, len(totals) - 1)]
    lost = lost_later + sum(reply.status != 200 for reply in [*alone, *replies])
    report = {
        "requests": args.requests,
        "clients": args.clients,
        "lost": lost,
        "wrong": wrong,
        "images_per_second": rate,
        "images_per_second_one_at_a_time": alone_rate,
        "images_per_second_model_alone": direct_rate,
        "ratio": rate / direct_rate,
        "seconds_median": statistics.median(times),
        "seconds_95th": times[int(0.95 * len(times))],
        "rows_mean": statistics.mean(reply.rows for reply in replies),
        "delay_seconds": args.delay,
        "megabytes": totals,
        "megabytes_of_processes": [[found.get(number, 0.0) for found in memory] for number in memory[0]],
        "megabytes_after": args.memory_requests,
        "megabytes_growth": growth,
        "threads": torch.get_num_threads(),
        "workers": args.workers,
        "bounds": {
            "none lost": lost == 0,
            "none wrong": wrong == 0,
            f"ratio at least {RATIO}": rate >= RATIO * direct_rate,
            "at least as fast as one at a time": rate >= alone_rate,
            "delay under 0.05 s": args.delay < 0.05,
            f"growth at most {GROWTH} megabytes": growth <= GROWTH,
        },
    }
    print(
        json.dumps(report) if args.json else "\n".join(f"{name:32} {_shown(value)}" for name, value in report.items())
    )
    return int(not all(report["bounds"].values()))


def _body(number: int) -> dict[str, Any]:
    """Other labels, seeds, temperatures and guidance; the model's own steps."""
    return {
        "labels": [number % 200],
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
    labels = [number % 200 for number in range(batch)]
    model.generate(labels, batch_size=batch)
    start, made = time.monotonic(), 0
    while time.monotonic() - start < seconds:
        made += len(model.generate(labels, seed=made, batch_size=batch))
    return made / (time.monotonic() - start)


def _memory(process: int) -> dict[int, float]:
    """Resident megabytes of a process and all below it, the oldest first."""
    found, waiting = {}, [process]
    while waiting:
        number = waiting.pop()
        status = Path(f"/proc/{number}/status").read_text()
        found[number] = next(float(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))
        waiting += map(int, Path(f"/proc/{number}/task/{number}/children").read_text().split())
    return dict(sorted(found.items()))


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name}: {'yes' if held else 'NO'}" for name, held in value.items())
    if isinstance(value, list):
        return ", ".join(f"({_shown(item)})" if isinstance(item, list) else f"{item:.0f}" for item in value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@contextmanager
def _service(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "strait.cli", "serve", "--port", str(PORT), *words]
    service = subprocess.Popen(command)
    try:
        while service.poll() is None:
            try:
                if httpx.get(f"{URL}/health").status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.2)
        else:
            raise SystemExit("the service did not start")
        yield service
    finally:
        service.terminate()
        service.wait(60)


if __name__ == "__main__":
    sys.exit(main())
