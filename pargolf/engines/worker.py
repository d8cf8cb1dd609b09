"""The worker side of `processes.py`: a process that runs tasks, and ends when the first process is gone.

It imports only what its tasks need, so that the processes of an audit do not load torch.
"""

import contextlib
import os
import queue
import signal
import threading
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from pargolf.core.events import Event
from pargolf.engines.task import Outcome, Place, Task, perform
from pargolf.run.signals import ignore_the_terminal

_STEP_SECONDS, _PATIENCE = 10.0, 6  # a task that has not ended after so many seconds is signalled again, so many times
_running = threading.Lock()  # held by this process while it has a task


def serve(pipe: Connection) -> None:
    """The body of a worker process: run tasks in turn until the pipe closes."""
    ignore_the_terminal()
    inbox: queue.SimpleQueue[tuple[int, Task, Place]] = queue.SimpleQueue()
    stopped: set[int] = set()
    threading.Thread(target=_listen, args=(pipe, inbox, stopped), daemon=True).start()

    def send(number: int, message: Event | Outcome) -> bool:
        with contextlib.suppress(OSError):  # the first process is gone, and the task ends after its step
            pipe.send((number, message))
        return number in stopped

    while True:
        number, task, place = inbox.get()
        with _running:
            outcome = perform(task, place, partial(send, number))
        send(number, outcome)


def _listen(pipe: Connection, inbox: Any, stopped: set[int]) -> None:
    """Receive tasks, and numbers of tasks to stop; when the pipe closes, end the current task and this process."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            message = pipe.recv()
            if isinstance(message, int):
                stopped.add(message)
            else:
                inbox.put(message)
    idle = _running.acquire(blocking=False)
    for _ in range(0 if idle else _PATIENCE):
        os.kill(os.getpid(), signal.SIGTERM)  # the first ends a run after its step, the second at once
        if _running.acquire(timeout=_STEP_SECONDS):
            break
    os._exit(1)
