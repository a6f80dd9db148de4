"""A worker: the process that holds the model and processes tasks until it is told to end."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from multiprocessing.connection import Connection

import torch

from strait.apps.service.limits import Limits
from strait.apps.service.messages import END, FREE, Reply, Task
from strait.apps.service.replies import Replier, refusal
from strait.model.strait import StraIT
from strait.runtime.devices import give_back_memory

_TRIM_EVERY = 32
"""Rounds of work between two calls that return free memory to the system: batches of all sizes fragment it more and
more."""
_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG


def run_worker(
    service: Connection, parent: int, source: str, device: str, limits: Limits, rows: int, threads: int
) -> None:
    """Load the model, then process tasks.

    Args:
        service: the connection for lists of ``Task`` in, and each ``Reply`` out.
        parent: id of the process that started this one; the worker ends with it.
        source: the model's folder.
        device: to compute on.
        limits: of a request.
        rows: decoded at once.
        threads: of a CPU worker.
    """
    _end_with(parent)
    if device == "cpu":
        torch.set_num_threads(threads)
    replier = Replier(StraIT.from_pretrained(source, device), limits, rows)
    replier.warm_up()
    with contextlib.suppress(OSError, EOFError):  # the service is gone
        Work(replier, service).run()


def _end_with(parent: int) -> None:
    """End this process when its parent ends, in any way and at any time."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class Work:
    """The loop of a worker. A second thread encodes and sends replies while the next images are decoded."""

    def __init__(self, replier: Replier, service: Connection) -> None:
        self.replier, self.service, self.sending = replier, service, threading.Lock()

    def run(self) -> None:
        rounds, before, last = 0, list[Future[None]](), list[Future[None]]()
        with ThreadPoolExecutor(1) as finishing:
            while True:
                # At most one round is encoded while the next is decoded, which limits the pixels in memory.
                wait(before)
                self._say(FREE)
                tasks = self.service.recv()
                if tasks == END:
                    return
                if not tasks:
                    continue
                before, last = last, self._do(tasks, finishing)
                rounds += 1
                if rounds % _TRIM_EVERY == 0:
                    give_back_memory()

    def _do(self, tasks: list[Task], finishing: ThreadPoolExecutor) -> list[Future[None]]:
        futures: list[Future[None]] = []

        def finish(number: int, make: Callable[[], Reply]) -> None:
            futures.append(finishing.submit(self._send, number, make))

        until = time.monotonic() + self.replier.limits.work_seconds
        for number, make in self.replier.results(tasks, until, finish):
            finish(number, make)
        return futures

    def _send(self, number: int, make: Callable[[], Reply]) -> None:
        try:
            reply = make()
        except Exception as error:  # such as no memory for the PNGs; without a reply the client would wait
            reply = refusal(number, error)()
        self._say(reply)

    def _say(self, message: Reply | str) -> None:
        with self.sending:
            self.service.send(message)
