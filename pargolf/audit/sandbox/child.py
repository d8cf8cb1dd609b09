"""The parent's side of the sandbox: start a confined child with two pipes, watch it, and always end it.

    with confined("pargolf.audit.sandbox.foreign:serve", files={"train_gpt.py": text}) as child:
        answer = child.ask(request, most=1 << 20)
    child.stopped   # why it was ended early, or None

`entry` names a function of this package that takes the request's pipe and the answer's pipe. It runs in a process of
its own, after that process is locked (see `jail`). A thread of the parent checks the time, the child's memory and its
scratch folder ten times a second. If one is above its limit, it kills the child and all that it started, and a read of
the pipe ends. The scratch folder is removed, whatever it contains. `child.guard` describes the confinement in words.
"""

import contextlib
import os
import pwd
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import IO

from pargolf.audit.sandbox import bubblewrap, landlock, seccomp
from pargolf.audit.sandbox.jail import Level, Limits, Terms
from pargolf.core.errors import UserError

_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from pargolf.audit.sandbox.jail import enter; enter(sys.argv[2])"
_BETWEEN_LOOKS = 0.1
_LIMITS = Limits()
_MOST_FILES = 10_000
_UNUSED_USERS = range(60_001, 65_533)


@dataclass(frozen=True)
class Guard:
    """How a child is confined, and by what.

    Attributes:
        level: the level of confinement.
        user: the unused user id it runs as; None if it runs as the caller.
        limits: its limits.
    """

    level: Level
    user: int | None
    limits: Limits

    def rows(self) -> dict[str, str]:
        """What confines `files`, `network`, `processes` and `limits`, in words for the JSON report."""
        if self.level is Level.NONE:
            unguarded = "Python's own calls are replaced, which a script can undo; the system enforces nothing"
            return {"files": "not guarded", "network": unguarded, "processes": unguarded, "limits": self._bounds()}
        owner = f" as user {self.user}" if self.user is not None else ""
        version = landlock.version()
        walls = ["bubblewrap (an empty root of its own)"] if self.level is Level.BUBBLEWRAP else []
        walls += [f"Landlock {version}"] if version >= landlock.ENOUGH else []
        spaces = "; bubblewrap: namespaces of its own" if self.level is Level.BUBBLEWRAP else ""
        calls = f"the kernel's seccomp filter allows {seccomp.count()} calls"
        return {
            "files": f"the kernel lets only the scratch folder be written: {' and '.join(walls)}{owner}",
            "network": f"{calls}, no socket among them{spaces}",
            "processes": f"{calls}, threads but no processes{spaces}",
            "limits": self._bounds(),
        }

    def line(self) -> str:
        """The confinement in one line for people."""
        if self.level is Level.NONE:
            return f"Sandbox: none (--unsafe): the system guards nothing; {self._bounds()}."
        spaces = ("bubblewrap",) if self.level is Level.BUBBLEWRAP else ()
        walls = (f"Landlock {landlock.version()}",) if landlock.version() >= landlock.ENOUGH else ()
        owner = (f"user {self.user}",) if self.user is not None else ()
        guards = ", ".join((*spaces, f"seccomp with {seccomp.count()} calls allowed", *walls, *owner))
        return f"Sandbox: {guards}; {self._bounds()}."

    def _bounds(self) -> str:
        limits = self.limits
        return f"{limits.memory >> 20:,} MiB of memory, {limits.seconds:g} s, {limits.disk >> 20:,} MiB of files"


@dataclass
class Child:
    """A confined child while it runs, and how it ended.

    Attributes:
        input: the pipe it reads.
        output: the pipe it writes; it ends when the child does.
        scratch: its folder, under the same path on both sides. The child writes here: run nothing from it as code.
        guard: how it is confined.
        stopped: why the parent ended it, or why it could not be locked; None otherwise.
    """

    input: IO[bytes]
    output: IO[bytes]
    scratch: Path
    guard: Guard
    process: "subprocess.Popen[bytes]" = field(repr=False)
    stopped: str | None = None

    def ask(self, request: bytes, *, most: int) -> bytes:
        """Send the request, then read the whole answer; empty if the child was ended or sent more than `most` bytes."""
        with contextlib.suppress(BrokenPipeError):
            self.input.write(request)
            self.input.close()
        answer = self.output.read(most + 1)
        if len(answer) > most:
            self.stop(f"its answer is longer than {most:,} bytes")
        self.end()
        return answer if self.stopped is None else b""

    def end(self, patience: float = 5.0) -> int:
        """Wait until the child has ended, kill it if that takes too long, and return its exit status."""
        try:
            self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self._kill()
        status = self.process.wait()
        assert self.process.stderr is not None
        before = self.process.stderr.read(10_000).decode(errors="replace").strip() if status > 0 else ""
        if before and self.stopped is None:  # this pipe is closed before the entry runs
            self.stopped = f"the sandbox could not be set up: {before.splitlines()[-1]}"
        return status

    def stop(self, reason: str) -> None:
        """End the child and note why. The first reason stays."""
        self.stopped = self.stopped or reason
        self._kill()

    def watch(self, deadline: float) -> None:
        """Check the limits until the child has ended. End it if one is exceeded or cannot be checked."""
        try:
            while self.process.poll() is None:
                is_late = time.monotonic() > deadline
                reason = f"stopped after {self.guard.limits.seconds:g} s" if is_late else self._excess()
                if reason is not None:
                    self.stop(reason)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.process.wait(_BETWEEN_LOOKS)
        finally:
            self._kill()

    def close(self, patience: float = 5.0) -> None:
        """Kill what still runs, wait until the system has ended all of it, and close the pipes."""
        self._kill()
        self.process.wait()
        until = time.monotonic() + patience
        while _runs(self.process.pid) and time.monotonic() < until:
            time.sleep(0.01)
        for pipe in (self.input, self.output, self.process.stderr):
            with contextlib.suppress(OSError):
                assert pipe is not None
                pipe.close()

    def _kill(self) -> None:
        """Kill its process group. In a process namespace, this also ends everything that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def _excess(self) -> str | None:
        limits = self.guard.limits
        resident, threads = _use_of(self.process.pid)
        if resident > limits.memory:
            return f"stopped for using more than {limits.memory >> 20:,} MiB of memory"
        if threads > limits.threads:
            return f"stopped for starting more than {limits.threads} threads"
        if _is_larger(self.scratch, limits.disk):
            return f"stopped for writing more than {limits.disk >> 20:,} MiB, or more than {_MOST_FILES:,} files"
        return None


@cache
def best_level() -> Level:
    """The strongest level that works on this system."""
    if not seccomp.supported():
        return Level.NONE
    if bubblewrap.works():
        return Level.BUBBLEWRAP
    return Level.KERNEL if landlock.version() >= landlock.ENOUGH else Level.NONE


@contextlib.contextmanager
def confined(
    entry: str,
    *,
    files: Mapping[str, str | bytes] | None = None,
    limits: Limits = _LIMITS,
    readable: Sequence[Path] = (),
    env: Mapping[str, str] | None = None,
    level: Level | None = None,
    unsafe: bool = False,
) -> Iterator[Child]:
    """Start a child that calls `entry` after it is locked. When the block ends, it is dead and its folder is gone.

    Args:
        entry: `module:function` of this package, called with a pipe to read (bytes) and one to write.
        files: the initial content of the scratch folder, by name; folders in a name are made.
        limits: limits on memory, time and files.
        readable: further files and folders that the child can read.
        env: settings besides the few that every child has; the parent's environment is not passed on.
        level: how the child is confined; the strongest level that works when left out.
        unsafe: also run if the system cannot confine anything.

    Raises:
        UserError: the system can confine no child, and `unsafe` is not set.
    """
    level = best_level() if level is None else level
    if level is Level.NONE and not unsafe:
        raise UserError(
            "This system cannot confine a script: it has neither bubblewrap nor seccomp with Landlock (Linux 6.2). "
            "Run it on one that can, or say --unsafe if you trust the script as you trust your own."
        )
    user = _unused_user() if os.getuid() == 0 and level is not Level.NONE else None
    scratch = Path(tempfile.mkdtemp(prefix="pargolf-")).resolve()
    try:
        for name, content in (files or {}).items():
            _write(scratch, name, content)
        if user is not None:
            _give(scratch, user)
        visible = (*bubblewrap.view(), *readable) if level is not Level.NONE else ()
        terms = Terms(entry, level, scratch, visible, user, limits)
        child = _start(terms, {**_environment(scratch), **(env or {})})
        watching = threading.Thread(target=child.watch, args=(time.monotonic() + limits.seconds,), daemon=True)
        watching.start()
        try:
            yield child
        finally:
            child.close()
            watching.join()
    finally:
        _remove(scratch)


def _start(terms: Terms, env: Mapping[str, str]) -> Child:
    command = [sys.executable, "-I", "-B", "-c", _BOOT, str(bubblewrap.PACKAGE.parent), terms.to_json()]
    if terms.level is Level.BUBBLEWRAP:
        command = bubblewrap.wrapped(command, terms.scratch, terms.readable)
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=terms.scratch,
        env=dict(env),
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    return Child(process.stdin, process.stdout, terms.scratch, Guard(terms.level, terms.user, terms.limits), process)


def _environment(scratch: Path) -> dict[str, str]:
    """The few settings that every child has. Its home is the scratch folder."""
    homes = ("HOME", "TMPDIR", "XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    return {
        **dict.fromkeys(homes, str(scratch)),
        **{"PATH": os.defpath, "LANG": "C.UTF-8", "USER": "nobody", "OMP_NUM_THREADS": "1"},
    }


def _unused_user() -> int:
    """A user id without a name, without processes, and without another child of ours."""
    busy = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            busy.add(entry.stat().st_uid)
    while True:
        user = random.SystemRandom().choice(_UNUSED_USERS)
        try:
            pwd.getpwuid(user)
        except KeyError:
            if user not in busy:
                return user


def _write(scratch: Path, name: str, content: str | bytes) -> None:
    path = (scratch / name).resolve()
    assert path.is_relative_to(scratch) and path != scratch, f"{name} lies outside the scratch folder"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode(errors="replace") if isinstance(content, str) else content)


def _give(folder: Path, user: int) -> None:
    for path in (folder, *folder.rglob("*")):
        os.chown(path, user, user)


def _runs(session: int) -> bool:
    """Whether a process of a session runs. A process that has ended and was not yet waited for does not count."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, its_session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(its_session) == session and state not in "ZX":
                return True
    return False


def _use_of(process: int) -> tuple[int, int]:
    """Resident bytes and threads of a process and all its descendants, as the system counts them."""
    resident = threads = 0
    waiting = [process]
    while waiting:
        folder = Path(f"/proc/{waiting.pop()}")
        with contextlib.suppress(OSError, ValueError, IndexError):
            resident += int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            tasks = list((folder / "task").iterdir())
            threads += len(tasks)
            for task in tasks:
                waiting += [int(word) for word in (task / "children").read_text().split()]
    return resident, threads


def _is_larger(folder: Path, most: int) -> bool:
    """Whether a folder contains more bytes than `most`, or too many files. Links are not followed."""
    waiting, size, count = [str(folder)], 0, 0
    while waiting and size <= most and count <= _MOST_FILES:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
            for entry in entries:
                count += 1
                with contextlib.suppress(OSError):
                    size += entry.stat(follow_symlinks=False).st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
    return size > most or count > _MOST_FILES


def _remove(folder: Path) -> None:
    """Remove a folder of any depth. Inner folders are moved up first, so that no path becomes too long."""
    count = 0
    waiting = [folder]
    while waiting:
        inner = waiting.pop()
        with contextlib.suppress(OSError):
            inner.chmod(0o700)
            for entry in list(os.scandir(inner)):
                if entry.is_dir(follow_symlinks=False):
                    count += 1
                    moved = folder.with_name(f"{folder.name}.{count}")
                    Path(entry).chmod(0o700)
                    Path(entry).rename(moved)
                    waiting.append(moved)
                else:
                    Path(entry).unlink()
            inner.rmdir()
