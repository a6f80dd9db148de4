"""The service as a process of its own, on a free port of this machine, and what its processes use."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


PORT = _free_port()
"""Of this process's services: two benchmarks at once do not meet."""
URL = f"http://127.0.0.1:{PORT}"
GENERATE, EDIT = "/v1/images/generate", "/v1/images/edit"


@contextmanager
def running_service(*words: str, source: str | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A service that is ready to work, ended afterwards.

    Args:
        words: options of ``strait serve``.
        source: the folder src of another version.
    """
    command = [sys.executable, "-m", "strait.cli", "serve", "--port", str(PORT), *words]
    service = subprocess.Popen(command, env=os.environ | ({"PYTHONPATH": source} if source else {}))
    try:
        while service.poll() is None:
            with suppress(httpx.HTTPError):
                if httpx.get(f"{URL}/health").status_code == 200:
                    break
            time.sleep(0.2)
        else:
            raise SystemExit("the service did not start")
        yield service
    finally:
        service.terminate()
        service.wait(120)


def processes(process: int) -> list[int]:
    """A process and all below it, the oldest first."""
    numbers, waiting = [], [process]
    while waiting:
        numbers.append(waiting.pop())
        for task in Path(f"/proc/{numbers[-1]}/task").iterdir():
            waiting += map(int, (task / "children").read_text().split())
    return sorted(numbers)


def memory(process: int) -> dict[int, float]:
    """Resident megabytes of a process and all below it, the oldest first."""
    sizes = {}
    for number in processes(process):
        status = Path(f"/proc/{number}/status").read_text()
        sizes[number] = next(float(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))
    return sizes


def open_files(process: int) -> dict[int, int]:
    """Open files, sockets included, of a process and all below it, the oldest first."""
    return {number: len(os.listdir(f"/proc/{number}/fd")) for number in processes(process)}


def processor_seconds(process: int) -> float:
    """Time that a process and all below it have computed; what else the machine does changes it little."""
    ticks = 0
    for number in processes(process):
        values = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
        ticks += int(values[11]) + int(values[12])
    return ticks / os.sysconf("SC_CLK_TCK")
