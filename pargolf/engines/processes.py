"""Tasks on this machine: a few processes, each with its share of threads and GPUs, one task at a time.

The first process and each worker are connected by a pipe: tasks go to the worker, events come back. When the pipe
closes, because the first process is gone or has finished, the worker ends its task, which stores its state, and itself.
A worker that is killed costs its task one attempt, and is replaced.
"""

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from pargolf.core.devices import count_devices, deal_device
from pargolf.core.errors import UserError
from pargolf.core.events import Event, JobBegan, JobLost
from pargolf.core.units import size_text
from pargolf.engines.task import (
    MAX_LOSSES,
    RESUME_HINT,
    Attempts,
    GivenUp,
    Happened,
    Heartbeat,
    Needs,
    Outcome,
    Place,
    Task,
    TaskEnded,
)
from pargolf.engines.worker import serve
from pargolf.run.signals import Interrupted, noted

_LOOK_SECONDS = 0.5
_REPORT_SECONDS = 2.0  # seconds between reports of the running tasks


@dataclass(frozen=True)
class Processes:
    """`jobs` processes on this machine; `device` is the requested one, None for CUDA if available."""

    jobs: int
    needs: Needs = Needs()
    device: str | None = None

    def room(self) -> int:
        """How many tasks run at a time."""
        return self.jobs

    def run(self, tasks: Sequence[Task]) -> "RunningProcesses":
        """Run all tasks. Raises `UserError` when this machine does not have what they need."""
        _check(self.needs, self.jobs)
        return RunningProcesses(tasks, [self._place(k) for k in range(min(self.jobs, max(len(tasks), 1)))])

    def _place(self, number: int) -> Place:
        """The device and threads of one process."""
        return Place(deal_device(self.device, number), self.needs.cores or max(1, torch.get_num_threads() // self.jobs))


def _check(needs: Needs, jobs: int) -> None:
    """Raise `UserError` when `jobs` tasks together need more than this machine has."""
    cores, gpus = os.cpu_count() or 1, count_devices()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    demands = {
        "cores": (needs.cores * jobs, cores, f"{cores}"),
        "GPUs": ((needs.gpus or 0.0) * jobs, gpus, f"{gpus}"),
        "bytes of memory": (needs.memory * jobs, memory or needs.memory * jobs, size_text(max(memory, 1))),
    }
    for name, (needed, available, shown) in demands.items():
        if needed > available:
            raise UserError(f"{jobs} jobs need more {name} than the {shown} of this machine. Lower --jobs or --needs.")


class _Worker:
    """A worker process, and the number of its current task."""

    def __init__(self, place: Place) -> None:
        context = multiprocessing.get_context("spawn")  # forked torch threads hang
        self.place = place
        self.number: int | None = None
        self.pipe, worker_pipe = context.Pipe()
        # A daemon ends with this process even if the iteration was not closed.
        self.process = context.Process(target=serve, args=(worker_pipe,), daemon=True)
        self.process.start()
        worker_pipe.close()

    def give(self, number: int, task: Task, attempt: int) -> bool:
        """Send a task; returns False if the process is gone."""
        self.number = number
        try:
            self.pipe.send((number, task, replace(self.place, attempt=attempt)))
        except OSError:
            return False
        return True

    def messages(self) -> Iterator[Any]:
        """The messages it has sent. Raises `EOFError` when the process has ended."""
        try:
            while self.pipe.poll():
                yield self.pipe.recv()
        except OSError as error:
            raise EOFError from error

    def exit_reason(self) -> str:
        """Clean up after the process has ended; returns why it ended."""
        self.pipe.close()
        self.process.join()
        code = self.process.exitcode or 0
        return (
            f"its process was killed by {signal.Signals(-code).name}" if code < 0 else f"its process exited with {code}"
        )


class RunningProcesses:
    """The tasks of these processes: waiting, running and done."""

    def __init__(self, tasks: Sequence[Task], places: Sequence[Place]) -> None:
        self._tasks = tasks
        self._free = list(reversed(places))
        self._waiting = deque(range(len(tasks)))
        self._workers: list[_Worker] = []
        self._attempts = Attempts()

    def __iter__(self) -> Iterator[Event]:
        """Yield events until all tasks are done. Raises `Interrupted` on a signal to this process or a worker."""
        last_report = time.monotonic()
        with noted() as signals:
            try:
                while self._waiting or self._busy():
                    yield from self._submit()
                    ready = multiprocessing.connection.wait([w.pipe for w in self._busy()], _LOOK_SECONDS)
                    if signals:
                        raise Interrupted(RESUME_HINT)
                    for worker in [worker for worker in self._busy() if worker.pipe in ready]:
                        yield from self._receive(worker)
                    if time.monotonic() - last_report > _REPORT_SECONDS:
                        last_report = time.monotonic()
                        yield Heartbeat(tuple(worker.number for worker in self._busy() if worker.number is not None))
            finally:
                for worker in self._workers:
                    worker.pipe.close()
                for worker in self._workers:
                    worker.process.join()

    def stop(self, number: int) -> None:
        """End a task between two of its events."""
        for worker in self._workers:
            if worker.number == number:
                with contextlib.suppress(OSError):
                    worker.pipe.send(number)

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.number is not None]

    def _submit(self) -> Iterator[Event]:
        """Give waiting tasks to idle processes."""
        while self._waiting:
            idle = next((worker for worker in self._workers if worker.number is None), None)
            if idle is None:
                if not self._free:
                    return
                idle = _Worker(self._free.pop())
                self._workers.append(idle)
            number = self._waiting.popleft()
            self._attempts.counts[number] += 1
            attempt = self._attempts.counts[number]
            if not idle.give(number, self._tasks[number], attempt):
                yield from self._handle_loss(idle)
                continue
            yield JobBegan(self._tasks[number].label, socket.gethostname(), idle.process.pid or 0, attempt)

    def _receive(self, worker: _Worker) -> Iterator[Event]:
        try:
            for number, message in worker.messages():
                if isinstance(message, Outcome):
                    worker.number = None
                    if isinstance(message.error, Interrupted):
                        raise Interrupted(RESUME_HINT)
                    yield TaskEnded(number, message.error, message.stopped)
                else:
                    self._attempts.note(number, message)
                    yield Happened(number, message)
        except EOFError:
            yield from self._handle_loss(worker)

    def _handle_loss(self, worker: _Worker) -> Iterator[Event]:
        """Handle a lost process: start its task again, unless it was lost too often."""
        reason, number = worker.exit_reason(), worker.number
        self._workers.remove(worker)
        self._free.append(worker.place)
        if number is None:
            return
        losses, label = self._attempts.count_loss(number), self._tasks[number].label
        yield JobLost(label, reason, losses, again=losses < MAX_LOSSES)
        if losses < MAX_LOSSES:
            self._waiting.appendleft(number)
        else:
            yield TaskEnded(number, GivenUp(label, reason))
