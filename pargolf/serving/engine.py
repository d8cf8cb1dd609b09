"""One thread runs the model for all clients, one step of each in turn.

    client -> submit(job) -> [waiting, first come first served] -> [ACTIVE jobs, one step each, round and round]

A job is a generator: each `next` is one step (a token, a window) and yields what the client gets. So a long job delays
a short one only by single steps, and memory is bounded by the caches of the active jobs and by the length of the queue.
When a client disconnects, its jobs are cancelled and end before their next step.
"""

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from pargolf.serving.requests import APIError

ACTIVE = 8
WAITING = 256


class Job:
    """Work for one client. The values of its steps arrive, in order, in the event loop that created it."""

    def __init__(self, steps: Callable[[], Iterator[Any]]) -> None:
        self.steps = steps
        self.cancelled = False
        self._loop = asyncio.get_running_loop()
        self._arrived: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    def send(self, kind: str, value: Any = None) -> None:
        """Called from the engine's thread: pass a piece, an error, or the end to the event loop."""
        try:
            self._loop.call_soon_threadsafe(self._arrived.put_nowait, (kind, value))
        except RuntimeError:  # the event loop is closed, so the client is gone
            self.cancelled = True

    async def pieces(self) -> AsyncIterator[Any]:
        """The values of the steps. Leaving early cancels the job; an error in a step is raised here."""
        try:
            while True:
                kind, value = await self._arrived.get()
                if kind == "end":
                    return
                if kind == "error":
                    raise value
                yield value
        finally:
            self.cancelled = True


class Engine:
    """The queue and the thread."""

    def __init__(self, *, active: int = ACTIVE, waiting: int = WAITING) -> None:
        self._limits = active, waiting
        self._waiting: deque[Job] = deque()
        self._active: deque[tuple[Job, Iterator[Any]]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="pargolf engine", daemon=True)
        self._thread.start()

    @property
    def load(self) -> tuple[int, int]:
        """The numbers of active and of waiting jobs."""
        return len(self._active), len(self._waiting)

    def submit(self, jobs: list[Job]) -> None:
        """Put jobs in the queue, all or none. Raises `APIError` if the queue has no room."""
        with self._changed:
            self._waiting = deque(job for job in self._waiting if not job.cancelled)
            if len(self._waiting) + len(jobs) > self._limits[1]:
                raise APIError("The server's queue is full. Try again later.", status=429, kind="rate_limit_error")
            self._waiting += jobs
            self._changed.notify()

    def close(self) -> None:
        """Stop the thread; unfinished jobs end with an error."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while self._admit():
            if self._active:
                job, steps = self._active.popleft()
                if self._step(job, steps):
                    self._active.append((job, steps))
        for job in [*(job for job, _ in self._active), *self._waiting]:
            job.send("error", APIError("The server is shutting down.", status=503, kind="server_error"))

    def _admit(self) -> bool:
        """Wait until there is a job, then activate as many as allowed; False when the engine stops."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._active or self._waiting)
            while self._waiting and len(self._active) < self._limits[0]:
                job = self._waiting.popleft()
                if not job.cancelled:
                    self._active.append((job, job.steps()))
            return not self._closed

    def _step(self, job: Job, steps: Iterator[Any]) -> bool:
        """Do one step of a job; returns whether it continues."""
        if job.cancelled:
            return False
        try:
            job.send("piece", next(steps))
        except StopIteration:
            job.send("end")
            return False
        except Exception as error:  # the client gets any error, and the thread goes on for the others
            job.send("error", error)
            return False
        return True
