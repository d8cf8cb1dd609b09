"""The child's side of the sandbox: lock this process, then call the function it was started for.

The order matters. First files are restricted, while the process may still open the folders that it is granted. Then
root becomes a user that nobody else has. Then the seccomp filter removes the calls that did both. Only after that are
torch and the entry's own modules imported. Nothing else is imported: the scratch folder with foreign files is on no
path yet. If a lock fails, the process ends before anything foreign is read. The parent's side is `child`.
"""

import contextlib
import ctypes
import errno
import importlib
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO

from pargolf.audit.sandbox import landlock, libc, seccomp

_SET_PARENT_DEATH, _KEEP_CAPABILITIES = 1, 8
_READ_EVERYTHING = 1 << 2  # CAP_DAC_READ_SEARCH
_CAPABILITY_VERSION = 0x20080522
_DEVICES = tuple(Path("/dev") / name for name in ("null", "zero", "full", "random", "urandom"))


class Level(StrEnum):
    """How a child is confined, strongest first."""

    BUBBLEWRAP = "bubblewrap"  # namespaces, and as much of the next level as the kernel has
    KERNEL = "kernel"  # seccomp, Landlock, an unused user
    NONE = "none"  # limits and a clock only


@dataclass(frozen=True)
class Limits:
    """What a child may use.

    Attributes:
        memory: resident bytes, with shared memory; also bytes of addresses beyond those that importing takes.
        seconds: wall seconds, from start to end.
        file_bytes: bytes of one file.
        disk: bytes of the scratch folder.
        files: open files at a time.
        threads: threads at a time.
    """

    memory: int = 6 << 30
    seconds: float = 120
    file_bytes: int = 64 << 20
    disk: int = 1 << 30
    files: int = 256
    threads: int = 256


@dataclass(frozen=True)
class Terms:
    """The parent's instructions to its child, as JSON in an argument.

    Attributes:
        entry: `module:function` to call with the two pipes after locking.
        level: which locks are required.
        scratch: the folder that can be written; the working directory.
        readable: files and folders that can be read.
        user: the unused user id that root becomes; None if the child is not root, or not confined.
        limits: its limits.
    """

    entry: str
    level: Level
    scratch: Path
    readable: tuple[Path, ...]
    user: int | None
    limits: Limits

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(
            {
                **{"entry": self.entry, "level": self.level, "scratch": str(self.scratch), "user": self.user},
                **{"readable": [str(path) for path in self.readable], "limits": vars(self.limits)},
            }
        )

    @classmethod
    def from_json(cls, text: str) -> "Terms":
        """Read what `to_json` wrote."""
        fields = json.loads(text)
        readable = tuple(Path(path) for path in fields["readable"])
        level, limits = Level(fields["level"]), Limits(**fields["limits"])
        return cls(fields["entry"], level, Path(fields["scratch"]), readable, fields["user"], limits)


def enter(text: str) -> None:
    """Lock this process, import the entry, call it with the request's and the answer's pipe, and end the process.

    What the entry and all it calls print goes to `output.txt` in the scratch folder.
    """
    terms = Terms.from_json(text)
    _lock(terms)
    name, _, function = terms.entry.partition(":")
    serve: Callable[[IO[bytes], IO[bytes]], None] = getattr(importlib.import_module(name), function)
    request, answer = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    output = os.open(terms.scratch / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream, target in ((os.open(os.devnull, os.O_RDONLY), 0), (output, 1), (output, 2)):
        os.dup2(stream, target)
    _close_python()
    _bound_addresses(terms.limits)
    try:
        serve(request, answer)
        answer.flush()
    finally:
        os._exit(0)


def execute(request: IO[bytes], answer: IO[bytes]) -> None:
    """An entry: execute `main.py` of the scratch folder, with only the two pipes as names."""
    path = Path("main.py")
    exec(compile(path.read_bytes(), str(path), "exec"), {"__name__": "main", "request": request, "answer": answer})


def _lock(terms: Terms) -> None:
    """Apply every lock of the level, beginning with the strongest guard of files."""
    _bound(terms.limits)
    if terms.level is not Level.NONE:
        if landlock.version() >= landlock.ENOUGH:
            landlock.restrict(terms.scratch, terms.readable, _DEVICES)
        elif terms.level is not Level.BUBBLEWRAP:
            raise PermissionError("the kernel has no Landlock that guards truncation")
        if terms.user is not None:
            _become(terms.user, [terms.scratch, *terms.readable])
        if 0 in (*os.getresuid(), *os.getresgid()):
            raise PermissionError("the process is still root")
        libc.prctl(_SET_PARENT_DEATH, signal.SIGKILL)
        libc.give_up_new_privileges()
        seccomp.install()


def _bound(limits: Limits) -> None:
    """Set the limits that the kernel enforces. The limit on addresses comes later, after the imports."""
    processors = os.cpu_count() or 1
    bounds = {
        resource.RLIMIT_CPU: int(limits.seconds * processors) + 1,
        resource.RLIMIT_FSIZE: limits.file_bytes,
        resource.RLIMIT_NOFILE: limits.files,
        resource.RLIMIT_CORE: 0,
    }
    if os.getuid() == 0:  # for an ordinary user, processes outside would count, too
        bounds[resource.RLIMIT_NPROC] = limits.threads
    for kind, most in bounds.items():
        _limit(kind, most)


def _bound_addresses(limits: Limits) -> None:
    if sys.platform == "linux":
        usage = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        _limit(resource.RLIMIT_AS, usage + limits.memory)


def _limit(kind: int, most: int) -> None:
    hard = resource.getrlimit(kind)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(kind, (most, most))


def _become(user: int, needed: list[Path]) -> None:
    """Become a user without groups and capabilities.

    If Python is in a folder that only root can read, the right to read all files is kept. Landlock or the mount
    namespace already allow nothing else to be read.
    """
    existing = [path for path in needed if path.exists()]
    libc.prctl(_KEEP_CAPABILITIES, 1)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    _hold(0, permitted=_READ_EVERYTHING)
    readable = all(os.access(path, os.R_OK, effective_ids=True) for path in existing)
    rights = 0 if readable else _READ_EVERYTHING
    _hold(rights, permitted=rights)


def _hold(effective: int, *, permitted: int) -> None:
    """Keep these capabilities and no others."""
    head = struct.pack("Ii", _CAPABILITY_VERSION, 0)
    low, high = struct.pack("III", effective, permitted, 0), struct.pack("III", 0, 0, 0)
    capset = {"x86_64": 126, "aarch64": 91}[os.uname().machine]
    if libc.call(capset, head, low + high) != 0:
        raise OSError(ctypes.get_errno(), "capabilities cannot be given up")


def _close_python() -> None:
    """Replace Python's functions that open sockets and start processes.

    At the lowest level this is the only guard; at the others it gives clear errors.
    """

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "the sandbox has no network and starts no processes")

    for name in ("connect", "connect_ex", "bind", "sendto"):
        setattr(socket.socket, name, refuse)
    subprocess.Popen.__init__ = refuse  # type: ignore[method-assign]
    for holder, names in (
        (socket, ("create_connection", "getaddrinfo", "gethostbyname")),
        (os, ("system", "fork", "forkpty", "popen", "kill", "execv", "execve", "posix_spawn", "posix_spawnp")),
    ):
        for name in names:
            if hasattr(holder, name):
                setattr(holder, name, refuse)
