"""Real server processes for tests, on free ports, ended when the test is."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import httpx
import torch


@dataclass
class Server:
    """A verb of the command line that serves pages."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)
    url: str = ""

    def follow(self, pattern: str, seconds: float) -> None:
        """Read what the process says until it names its address."""
        ready = threading.Event()

        def read() -> None:
            assert self.process.stderr is not None
            for line in self.process.stderr:
                self.lines.append(line)
                match = re.search(pattern, line)
                if match and not self.url:
                    self.url = match.group(1)
                    ready.set()

        threading.Thread(target=read, daemon=True).start()
        end = time.monotonic() + seconds
        while not ready.wait(0.1):
            assert self.process.poll() is None, "".join(self.lines)
            assert time.monotonic() < end, "".join(self.lines)

    def get(self, path: str, **options: object) -> httpx.Response:
        return httpx.get(self.url + path, timeout=60, **options)  # type: ignore[arg-type]

    def post(self, path: str, **options: object) -> httpx.Response:
        return httpx.post(self.url + path, timeout=60, **options)  # type: ignore[arg-type]


@contextmanager
def serving(*words: object, seconds: float = 120, own_group: bool = False, **environment: str) -> Iterator[Server]:
    """Start ``strait`` with these words, if asked as a process group of its own; wait until it names its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "strait.cli", *map(str, words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=own_group,
        # As many threads as the tests have: some processors round otherwise for another number.
        env={**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), **environment},
    )
    server = Server(process)
    try:
        server.follow(r"(http://127\.0\.0\.1:\d+)\b", seconds)
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
