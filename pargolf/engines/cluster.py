"""Tasks on a Ray cluster: Ray places each task by its needs, and all send their events through one mailbox.

Ray's own retries are off: a task that is lost with its worker or node is started again here, a limited number of times,
so that the loss is reported and the task continues from its checkpoint. Each worker sends its events to the mailbox (an
actor) every half second; the answer may tell it to stop or to end. When this process is gone, Ray ends its workers and
the mailbox.

A node must see the folder that tasks write into (it checks for a file there), and have this version of the package.
Data that it does not have at the same path with the same hashes is sent to it once (`parcels.py`).
"""

import contextlib
import os
import secrets
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import ray
from ray import exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pargolf.core.errors import UserError
from pargolf.core.events import Event, JobBegan, JobLost
from pargolf.core.files import write_text
from pargolf.core.units import size_text
from pargolf.core.version import VERSION
from pargolf.data.folder import DataFolder
from pargolf.engines.mailbox import Mailbox
from pargolf.engines.parcels import Parcel, cut, find_parcel, unpack
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
    perform,
)
from pargolf.run.signals import Interrupted, noted

_PUSH_SECONDS = 0.5
_REPORT_SECONDS = 2.0
_END_SECONDS = 60.0  # how long tasks may take to store their state when this process is told to end
_LOST = (
    exceptions.WorkerCrashedError,
    exceptions.NodeDiedError,
    exceptions.OutOfMemoryError,
    exceptions.LocalRayletDiedError,
    exceptions.OwnerDiedError,
    exceptions.ObjectLostError,
)
Pieces = Mapping[str, Sequence[Any]]
"""Files by name, each as a list of references to its pieces."""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster: `ray`, or `ray://HOST:10001`; runs `jobs` tasks at a time, None for as many as fit."""

    on: str = "ray"
    jobs: int | None = None
    needs: Needs = Needs()
    device: str | None = None

    def room(self) -> int:
        """How many tasks run at a time, by the current resources of the nodes."""
        self.connect()
        resources = self.resources()
        fits = [min(int(node.get(name, 0.0) / amount) for name, amount in resources.items()) for node in _nodes()]
        return max(1, min(sum(fits), self.jobs or sum(fits)))

    def run(self, tasks: Sequence[Task]) -> "RunningCluster":
        """Run all tasks. Raises `UserError` when there is no such cluster, or no node has what a task needs."""
        self.connect()
        self._check()
        return RunningCluster(self, tasks)

    def connect(self) -> None:
        """Join the cluster if needed; for `ray` without a running cluster, start one on this machine."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # send no usage statistics to Ray's makers
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        if ray.is_initialized():
            return
        address = None if self.on == "ray" else self.on
        options = {} if address else {"include_dashboard": False}
        try:
            ray.init(address=address, log_to_driver=False, logging_level="error", **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            cluster_name = address or os.environ.get("RAY_ADDRESS") or "this machine"
            reason = str(error).strip().split("\n")[0][:160]
            raise UserError(f"There is no Ray cluster to join at {cluster_name}: {reason}") from error

    def resources(self) -> dict[str, float]:
        """The resources of a task, in Ray's names. By default one GPU each, if the cluster has GPUs."""
        gpus = self.needs.gpus
        if gpus is None:
            gpus = float(self.device != "cpu" and ray.cluster_resources().get("GPU", 0.0) >= 1.0)
        amounts = {"CPU": float(self.needs.cores or 1), "GPU": gpus, "memory": float(self.needs.memory)}
        return {name: amount for name, amount in amounts.items() if amount}

    def _check(self) -> None:
        resources, nodes = self.resources(), _nodes()
        if not any(all(node.get(name, 0.0) >= amount for name, amount in resources.items()) for node in nodes):
            largest = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in resources}
            raise UserError(
                f"No node of the cluster has {_words(resources)} at once; there is up to {_words(largest)}. "
                "Lower --needs."
            )


def _nodes() -> list[dict[str, float]]:
    """The total resources of each node."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _words(resources: Mapping[str, float]) -> str:
    names = {"CPU": "cores", "GPU": "GPUs"}
    return ", ".join(
        f"{size_text(int(amount))} of memory" if name == "memory" else f"{amount:g} {names[name]}"
        for name, amount in resources.items()
    )


@dataclass(frozen=True)
class Refusal:
    """Why a node did not start a task: it lacks this data (`parcel`), or cannot run the task at all (`reason`)."""

    reason: str = ""
    parcel: Parcel | None = None


@dataclass(frozen=True)
class Handshake:
    """What a node checks before it runs a task: the package's version, a file it must see, the data sent so far."""

    version: str
    seal: tuple[Path, str] | None
    sent: Mapping[Parcel, Pieces] = field(default_factory=dict)


class RunningCluster:
    """The tasks of a cluster: waiting, running and done."""

    def __init__(self, cluster: Cluster, tasks: Sequence[Task]) -> None:
        self._cluster = cluster
        self._tasks = tasks
        self._waiting = deque(range(len(tasks)))
        self._running: dict[Any, int] = {}
        self._attempts = Attempts()
        self._sent: dict[Parcel, Pieces] = {}
        this_node = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        mailbox = ray.remote(Mailbox).options(
            num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=this_node
        )
        self._mailbox: Any = mailbox.remote()
        self._started: set[int] = set()

    def __iter__(self) -> Iterator[Event]:
        """Yield events until all tasks are done. Raises `Interrupted` on a signal to this process."""
        last_report = time.monotonic()
        with _sealed(self._tasks) as seals, noted() as signals:
            try:
                while self._waiting or self._running:
                    self._submit(seals)
                    done, _ = ray.wait(list(self._running), num_returns=1, timeout=_PUSH_SECONDS)
                    if signals:
                        raise Interrupted(RESUME_HINT)
                    yield from self._worker_events()
                    for reference in done:
                        yield from self._finish(reference, self._running.pop(reference))
                    if time.monotonic() - last_report > _REPORT_SECONDS:
                        last_report = time.monotonic()
                        yield Heartbeat(tuple(n for n in self._running.values() if n in self._started))
            finally:
                self._shut_down()

    def stop(self, number: int) -> None:
        """End a task between two of its events."""
        self._mailbox.stop.remote(number)

    def _submit(self, seals: Mapping[Path, str]) -> None:
        """Submit tasks to Ray, a few more than there is room for, so that no node waits."""
        most = self._cluster.jobs or 2 * self._cluster.room()
        resources = self._cluster.resources()
        options = {"num_cpus": resources.get("CPU", 0), "num_gpus": resources.get("GPU", 0), "max_retries": 0}
        body = ray.remote(do_task).options(**options, memory=resources.get("memory"))
        while self._waiting and len(self._running) < most:
            number = self._waiting.popleft()
            task = self._tasks[number]
            self._attempts.counts[number] += 1
            place = Place(self._cluster.device, self._cluster.needs.cores or 1, self._attempts.counts[number])
            seal = None if task.folder is None else (task.folder.parent, seals[task.folder.parent])
            handshake = Handshake(VERSION, seal, self._sent)
            self._running[body.remote(number, task, place, handshake, self._mailbox)] = number

    def _worker_events(self) -> Iterator[Event]:
        """The events of the workers since the last call."""
        with contextlib.suppress(exceptions.RayActorError, exceptions.GetTimeoutError):
            for number, attempt, event in ray.get(self._mailbox.take.remote(), timeout=10):
                if attempt != self._attempts.counts[number]:
                    continue  # late events of a lost worker
                if isinstance(event, JobBegan):
                    self._started.add(number)
                    yield event
                else:
                    self._attempts.note(number, event)
                    yield Happened(number, event)

    def _finish(self, reference: Any, number: int) -> Iterator[Event]:
        """Handle a task that Ray reports as finished."""
        self._started.discard(number)
        try:
            outcome = ray.get(reference)
        except _LOST as error:
            yield from self._handle_loss(number, _reason(error))
            return
        except exceptions.RayError as error:
            label = self._tasks[number].label
            raise UserError(
                f"The cluster cannot run {label}: {_reason(error)}. Its nodes need pargolf {VERSION}."
            ) from error
        if isinstance(outcome, Refusal):
            if outcome.parcel is None:
                raise UserError(outcome.reason)
            self._send(outcome.parcel)
            self._attempts.counts[number] -= 1
            self._waiting.appendleft(number)
        elif isinstance(outcome.error, Interrupted):  # its machine is being taken away
            yield from self._handle_loss(number, "its machine ended it")
        else:
            yield TaskEnded(number, outcome.error, outcome.stopped)

    def _handle_loss(self, number: int, reason: str) -> Iterator[Event]:
        """Start a lost task again, unless it was lost too often."""
        losses, label = self._attempts.count_loss(number), self._tasks[number].label
        yield JobLost(label, reason, losses, again=losses < MAX_LOSSES)
        if losses < MAX_LOSSES:
            self._waiting.appendleft(number)
        else:
            yield TaskEnded(number, GivenUp(label, reason))

    def _send(self, parcel: Parcel) -> None:
        """Put a data folder into Ray's object store, once, so that every node can fetch it."""
        if parcel not in self._sent:
            pieces: dict[str, list[Any]] = {}
            for name, piece in cut(parcel):
                pieces.setdefault(name, []).append(ray.put(piece))
            self._sent = {**self._sent, parcel: pieces}

    def _shut_down(self) -> None:
        """Let running tasks store their state, cancel waiting ones, and wait until all have ended."""
        with contextlib.suppress(exceptions.RayError):
            if self._running:
                ray.get(self._mailbox.end.remote(), timeout=10)
                for reference, number in self._running.items():
                    if number not in self._started:
                        ray.cancel(reference)
                ray.wait(list(self._running), num_returns=len(self._running), timeout=_END_SECONDS)
            ray.kill(self._mailbox)


def _reason(error: Exception) -> str:
    """A Ray error in a few words: its cause, else its type and the last line of its message."""
    words = {
        exceptions.WorkerCrashedError: "its process was killed",
        exceptions.NodeDiedError: "its node left",
        exceptions.OutOfMemoryError: "its node ran out of memory",
    }
    known = next((text for kind, text in words.items() if isinstance(error, kind)), "")
    return known or f"{type(error).__name__}: {str(error).strip().splitlines()[-1][:160]}"


@contextlib.contextmanager
def _sealed(tasks: Sequence[Task]) -> Iterator[dict[Path, str]]:
    """Put a file into each output folder, so that a node can check that it sees the folder; removed at the end."""
    folders = {task.folder.parent for task in tasks if task.folder is not None}
    seals = {folder: secrets.token_hex(8) for folder in folders}
    try:
        for folder, word in seals.items():
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / f".seen-{word}", word)
        yield seals
    finally:
        for folder, word in seals.items():
            (folder / f".seen-{word}").unlink(missing_ok=True)


def do_task(number: int, task: Task, place: Place, handshake: Handshake, mailbox: Any) -> Outcome | Refusal:
    """The body of a worker: check that the node can run the task, then run it, sending its events to the mailbox."""
    if handshake.version != VERSION:
        return Refusal(
            f"{_node_name()} has pargolf {VERSION}, and {handshake.version} was started. Install the same everywhere."
        )
    if handshake.seal is not None and not (handshake.seal[0] / f".seen-{handshake.seal[1]}").is_file():
        return Refusal(
            f"{_node_name()} does not see {handshake.seal[0]}. Put --out on storage that all nodes have at the same "
            "path, such as NFS, Lustre or a mounted bucket."
        )
    data: dict[Parcel, DataFolder] = {}
    for parcel in (argument for argument in task.arguments if isinstance(argument, Parcel)):
        folder = find_parcel(parcel)
        if folder is None and parcel not in handshake.sent:
            return Refusal(parcel=parcel)
        pieces = handshake.sent.get(parcel, {})
        data[parcel] = folder or unpack(parcel, {name: map(ray.get, every) for name, every in pieces.items()})
    with _EventSender(mailbox, number, place.attempt) as post:
        post.report(JobBegan(task.label, _node_name(), os.getpid(), place.attempt))
        return perform(task, replace(place, find=data.__getitem__), post.report)


def _node_name() -> str:
    """The name and address of this node."""
    return f"{socket.gethostname()} ({ray.util.get_node_ip_address()})"


class _EventSender:
    """Collects a task's events, and sends them to the mailbox twice a second from a separate thread."""

    def __init__(self, mailbox: Any, number: int, attempt: int) -> None:
        self._mailbox, self._number, self._attempt = mailbox, number, attempt
        self._events: list[Event] = []
        self._word, self._lock = "", threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._push_all, daemon=True)

    def __enter__(self) -> "_EventSender":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def report(self, event: Event) -> bool:
        """Add an event; returns whether the task must stop."""
        with self._lock:
            self._events.append(event)
        return self._word == "stop"

    def _push_all(self) -> None:
        over = False
        while not over:
            over = self._over.wait(_PUSH_SECONDS)
            with self._lock:
                events, self._events = self._events, []
            try:
                word = ray.get(self._mailbox.push.remote(self._number, self._attempt, events), timeout=10)
            except exceptions.RayError:
                with self._lock:
                    self._events = events + self._events  # the mailbox is moving to another node
                continue
            if word == "end" and self._word != "end" and not over:
                os.kill(os.getpid(), signal.SIGTERM)  # a run ends after its step, with a checkpoint
            self._word = word
