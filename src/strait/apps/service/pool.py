"""The pool of worker processes, in the HTTP process: queues, assignment of tasks, and deadlines.

A worker receives tasks only when it is free, so that the tasks lost with a worker are always known. Waiting images are
assigned together, along with one edit: an image waits for at most one edit.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from typing import Any

from strait.apps.service.gate import Held, Refusal
from strait.apps.service.limits import BODIES, Limits
from strait.apps.service.messages import END, FREE, Form, Reply, Task
from strait.apps.service.replies import problem_bytes
from strait.apps.service.schema import DecodingBody, GenerateBody
from strait.apps.service.worker import run_worker
from strait.runtime.devices import give_back_memory

_BEAT = 1.0
"""Seconds between two checks of the workers."""
_SILENCE = 5.0
"""Seconds after which a worker that is idle, or past its deadline, counts as stuck."""
_LOADING = 600.0
"""Seconds after which a worker that has not loaded its model counts as stuck."""
_LOST = "the service has lost a worker and is stopping; retry when it is back"


@dataclass(eq=False)
class _Job:
    """A request that is waiting or in progress; of its unread steps only the newest is kept."""

    task: Task
    rows: int
    reply: Reply | None = None
    there: asyncio.Event = field(default_factory=asyncio.Event)
    timer: asyncio.TimerHandle | None = None
    is_over: bool = False

    def put(self, reply: Reply) -> None:
        if self.is_over:
            return
        self.is_over, self.reply = reply.is_last, reply
        self.there.set()
        if reply.is_last and self.timer is not None:
            self.timer.cancel()

    def put_problem(self, status: int, detail: str) -> None:
        self.put(Reply(self.task.number, status, problem_bytes(detail), "application/json"))


@dataclass(eq=False)
class _Worker:
    """A process and its jobs. ``busy_until`` is the deadline for its next message; None while it is free."""

    process: Any
    connection: Any  # multiprocessing.connection.Connection, which is of another class on each system
    jobs: dict[int, _Job] = field(default_factory=dict)
    busy_until: float | None = field(default_factory=lambda: time.monotonic() + _LOADING)
    is_ready: bool = False
    sending: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1))

    @property
    def is_stuck(self) -> bool:
        return self.busy_until is not None and time.monotonic() > self.busy_until


class Pool:
    """Worker processes with a queue and deadlines.

    Args:
        source: the model's folder.
        devices: one for each worker.
        limits: of time, and of unread replies.
        batch: rows decoded at once.
        delay: seconds to wait for a batch to fill.
        threads: of each CPU worker.
        held: bytes of unread replies.
        on_loss: called when a worker has ended unexpectedly.
    """

    def __init__(
        self, source: str, devices: Sequence[str], limits: Limits, batch: int, delay: float, threads: int, held: Held
    ) -> None:
        self.source, self.devices, self.threads = source, devices, threads
        self.limits, self.batch, self.delay, self.held = limits, batch, delay, held
        self.on_loss: Callable[[], None] = lambda: None
        self.is_lost = self._is_closing = False
        self._workers: list[_Worker] = []
        self._images, self._edits = deque[_Job](), deque[_Job]()
        self._count, self._filling_until = 0, 0.0

    async def __aenter__(self) -> Pool:
        """Start the workers, which then load their models."""
        self._loop = asyncio.get_running_loop()
        context = multiprocessing.get_context("spawn")
        # Ctrl-C reaches every process of a terminal, and a signal to the group reaches every process of the service.
        # Workers inherit that these signals are blocked, and end on request or with this process. The resource tracker
        # is started first: if multiprocessing started it later, it would unblock the signals.
        resource_tracker.ensure_running()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
        try:
            for device in self.devices:
                here, there = context.Pipe()
                arguments = (there, os.getpid(), self.source, device, self.limits, self.batch, self.threads)
                process = context.Process(target=run_worker, args=arguments, daemon=True)
                process.start()
                there.close()  # so that the worker's end closes the pipe
                self._workers.append(_Worker(process, here))
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for worker in self._workers:
            threading.Thread(target=self._listen, args=(worker,), daemon=True).start()
        self._beating = asyncio.create_task(self._beat())
        return self

    async def __aexit__(self, *_: object) -> None:
        """End the workers, waiting a few seconds for those that are busy."""
        self._is_closing = True
        self._beating.cancel()
        await asyncio.to_thread(self._end)

    def _end(self) -> None:
        ready = [worker for worker in self._workers if worker.is_ready and not worker.is_stuck]
        for worker in ready:
            worker.sending.submit(worker.connection.send, END)
        end = time.monotonic() + _SILENCE
        for worker in ready:
            worker.process.join(max(0.0, end - time.monotonic()))
        for worker in self._workers:
            worker.process.kill()
            worker.process.join()
            worker.sending.shutdown()

    async def ask(self, body: DecodingBody, form: Form) -> AsyncIterator[Reply]:
        """Process a request: yields every step, if the form has steps, and then the last reply.

        Raises:
            Refusal: if a worker was lost.
        """
        if self.is_lost:
            raise Refusal(503, _LOST, {"Retry-After": "10"})
        self._count += 1
        rows = body.images if isinstance(body, GenerateBody) else 0
        job = _Job(Task(self._count, body, form), rows)
        queue = self._images if isinstance(body, GenerateBody) else self._edits
        queue.append(job)
        too_late = "the request waited too long for its turn"
        job.timer = self._loop.call_later(self.limits.seconds, job.put_problem, 504, too_late)
        self._hand_over()
        try:
            while True:
                await job.there.wait()
                job.there.clear()
                reply, job.reply = job.reply, None
                assert reply is not None
                if self.is_lost and reply.status == 503:
                    raise Refusal(503, _LOST, {"Retry-After": "10"})
                yield reply
                if reply.is_last:
                    return
        finally:
            job.is_over = True
            job.timer.cancel()
            if job in queue:
                queue.remove(job)

    def ready(self) -> int:
        """The number of workers that have loaded their model."""
        return sum(worker.is_ready for worker in self._workers)

    def health(self) -> str | None:
        """A description of the problem, or None."""
        if self.is_lost:
            return "a worker was lost"
        stuck = sum(worker.is_stuck for worker in self._workers)
        if stuck:
            return f"{stuck} of {len(self._workers)} workers do not answer"
        if not self.ready():
            return "the model is loading"
        return None

    def _hand_over(self) -> None:
        """Assign waiting jobs to free workers, unless a batch is filling or too many replies are unread."""
        for worker in self._workers:
            if worker.busy_until is not None or self.held.replies > BODIES * self.limits.bytes:
                continue
            if self._is_filling():
                return
            jobs = self._next_jobs()
            if jobs:
                self._give(worker, jobs)

    def _is_filling(self) -> bool:
        """Whether to wait for more images because there are too few for a full batch."""
        if not self._images or sum(job.rows for job in self._images) >= self.batch:
            self._filling_until = 0.0
            return False
        now = time.monotonic()
        if not self._filling_until:
            self._filling_until = now + self.delay
            self._loop.call_later(self.delay, self._hand_over)
        return now < self._filling_until

    def _next_jobs(self) -> list[_Job]:
        self._filling_until = 0.0
        jobs: list[_Job] = []
        rows = 0
        while self._images and rows < self.batch:
            jobs.append(self._images.popleft())
            rows += jobs[-1].rows
        if self._edits:
            jobs.append(self._edits.popleft())
        return [job for job in jobs if not job.is_over]

    def _give(self, worker: _Worker, jobs: Sequence[_Job]) -> None:
        """Send jobs to a free worker; an empty list checks that it responds."""
        seconds = self.limits.work_seconds if jobs else 0.0
        worker.busy_until = time.monotonic() + seconds + _SILENCE
        too_long = "the work on the request took too long; ask for less"
        for job in jobs:
            worker.jobs[job.task.number] = job
            assert job.timer is not None
            job.timer.cancel()
            job.timer = self._loop.call_later(seconds + _SILENCE, job.put_problem, 504, too_long)
        # On a thread: sending to a stuck worker may block.
        worker.sending.submit(worker.connection.send, [job.task for job in jobs])

    def _listen(self, worker: _Worker) -> None:
        """Forward a worker's messages; runs on a thread."""
        try:
            while True:
                message = worker.connection.recv()
                self._loop.call_soon_threadsafe(self._hear, worker, message)
        except (OSError, EOFError):
            pass
        if not self._is_closing:
            self._loop.call_soon_threadsafe(self._lose)

    def _hear(self, worker: _Worker, message: Reply | str) -> None:
        if isinstance(message, Reply):
            job = worker.jobs.get(message.number)
            if job is not None:
                job.put(message)
            if message.is_last:
                worker.jobs.pop(message.number, None)
        elif message == FREE:
            worker.is_ready, worker.busy_until = True, None
            self._hand_over()

    def _lose(self) -> None:
        """End the service after losing a worker: with fewer workers, clients would wait too long."""
        if self._is_closing or self.is_lost:
            return
        self.is_lost = True
        for job in [*self._images, *self._edits, *(job for worker in self._workers for job in worker.jobs.values())]:
            job.put_problem(503, _LOST)
        self.on_loss()

    async def _beat(self) -> None:
        """Check free workers, assign jobs that waited until replies were read, and return the memory of those replies
        to the system."""
        most = 0
        while True:
            await asyncio.sleep(_BEAT)
            self._hand_over()
            most = max(most, self.held.replies)
            if most > self.limits.bytes and not self.held.replies:
                most = 0
                give_back_memory()
            for worker in self._workers:
                if worker.busy_until is None:
                    self._give(worker, [])
