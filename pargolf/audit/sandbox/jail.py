"""Lock the running process down before it executes somebody else's code, and say what holds.

On Linux the kernel does it, for root as for anybody: a seccomp filter refuses sockets, new processes, other programs,
signals to others and changes of ownership; Landlock lets files be read only where Python and the system's libraries
lie and be written only in a scratch folder. Everywhere `RLIMIT_*` bounds memory, processor seconds, file sizes and open
files, and Python's own sockets and process calls are replaced; where the kernel lends no hand that is all there is, and
the returned words say so. Both locks hold until the process ends. Sources: seccomp(2), landlock(7).
"""

import contextlib
import ctypes
import errno
import os
import platform
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_LOAD, _JUMP_EQUAL, _JUMP_ANY_BIT, _JUMP_AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_THREAD = 0x00010000
# Numbers of system calls: sockets, programs, debugging, signals, namespaces, mounts, keys, ownership, io_uring.
_REFUSED = {
    "x86_64": (
        *(41, 42, 43, 44, 49, 50, 288, 57, 58, 59, 322, 62, 200, 129, 297, 424, 434, 438, 101, 310, 311, 272, 308),
        *(165, 166, 155, 161, 321, 425, 248, 249, 250, 90, 91, 268, 92, 93, 94, 260, 188, 189, 190, 169, 175, 313, 29),
    ),
    "aarch64": (
        *(198, 203, 202, 206, 200, 201, 242, 221, 281, 129, 130, 138, 240, 424, 434, 438, 117, 270, 271, 97, 268),
        *(40, 39, 41, 51, 280, 425, 217, 218, 219, 52, 53, 54, 55, 5, 6, 7, 142, 105, 273, 194),
    ),
}
_NUMBERS = {  # architecture's mark, clone, clone3, tgkill, seccomp
    "x86_64": (0xC000003E, 56, 435, 234, 317),
    "aarch64": (0xC00000B7, 220, 435, 131, 277),
}
_READ, _WRITE = 0b1100, 0b1111111110010  # Landlock's rights: read a file or a folder; write, make and remove
_EXECUTE, _REFER, _TRUNCATE = 1 << 0, 1 << 13, 1 << 14


@dataclass(frozen=True)
class Limits:
    """What the process may use: bytes of memory on top of what it has, seconds, bytes of a file, open files."""

    memory: int = 6 << 30
    seconds: int = 180
    file_bytes: int = 64 << 20
    files: int = 256


def lock(scratch: Path, limits: Limits, readable: Sequence[str | Path] = ()) -> dict[str, str]:
    """Lock this process for good; returns in words what holds for `network`, `files`, `processes` and `limits`."""
    said = {"limits": _bound(limits)}
    _close_python()
    kernel = sys.platform == "linux" and platform.machine() in _NUMBERS
    walled = kernel and _wall(scratch, [*_system(), *readable])
    filtered = kernel and _filter(platform.machine())
    replaced = "Python's own calls are replaced, which a script can undo; the system enforces nothing"
    said["files"] = "the kernel lets only the scratch folder be written" if walled else "not enforced: no Landlock"
    said["network"] = "the kernel refuses every socket" if filtered else replaced
    said["processes"] = "the kernel refuses other processes" if filtered else replaced
    return said


def _bound(limits: Limits) -> str:
    wanted = [
        (resource.RLIMIT_CPU, limits.seconds),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.files),
        (resource.RLIMIT_CORE, 0),
    ]
    if sys.platform == "linux":
        held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        wanted.append((resource.RLIMIT_AS, held + limits.memory))
    for kind, most in wanted:
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(kind, (most, most))
    return f"{limits.memory >> 20:,} MiB more memory, {limits.seconds} s, files of {limits.file_bytes >> 20} MiB"


def _close_python() -> None:
    """Replace what opens sockets and starts processes in Python, for clear errors and for systems without a filter."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EPERM, "the sandbox has no network and starts no processes")

    for name in ("connect", "connect_ex", "bind", "sendto"):
        setattr(socket.socket, name, refuse)
    for holder, names in (
        (socket, ("create_connection", "getaddrinfo", "gethostbyname")),
        (subprocess, ("Popen",)),
        (os, ("system", "fork", "forkpty", "popen", "kill", "execv", "execve", "posix_spawn", "posix_spawnp")),
    ):
        for name in names:
            if hasattr(holder, name):
                if name == "Popen":
                    subprocess.Popen.__init__ = refuse  # type: ignore[method-assign]
                else:
                    setattr(holder, name, refuse)


def _system() -> list[str]:
    """Where Python, its packages (a `.pth` file may add others' folders of them) and the system's libraries lie."""
    packages = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    return [sys.prefix, sys.base_prefix, *packages, "/usr", "/lib", "/lib64", "/etc", "/proc", "/sys", "/dev"]


def _filter(machine: str) -> bool:
    """Install the seccomp filter on all threads; False when the kernel will not have it."""
    mark, clone, clone3, tgkill, seccomp = _NUMBERS[machine]
    code: list[tuple[int, int, int, int]] = [
        (_LOAD, 0, 0, 4),
        (_JUMP_EQUAL, 1, 0, mark),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, 0),
        (_JUMP_AT_LEAST, 0, 1, 0x40000000),  # the second table of numbers that x86 has
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
    ]
    for number in _REFUSED[machine]:
        code += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    # Without clone3 the C library falls back to clone, whose flags a filter can read: threads yes, processes no.
    code += [(_JUMP_EQUAL, 0, 1, clone3), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    code += [(_JUMP_EQUAL, 0, 4, clone), (_LOAD, 0, 0, 16), (_JUMP_ANY_BIT, 0, 1, _THREAD)]
    code += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | errno.EPERM)]
    code += [(_JUMP_EQUAL, 0, 4, tgkill), (_LOAD, 0, 0, 16), (_JUMP_EQUAL, 0, 1, os.getpid())]
    code += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ERRNO | errno.EPERM), (_RETURN, 0, 0, _ALLOW)]
    program = b"".join(struct.pack("HBBI", *line) for line in code)
    held = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("HxxxxxxP", len(code), ctypes.addressof(held))
    library = _no_new_rights()
    return library is not None and library.syscall(seccomp, 1, 1, ctypes.c_char_p(head)) == 0


def _wall(scratch: Path, readable: Iterable[str | Path]) -> bool:
    """Restrict files with Landlock; False when the kernel has none."""
    library = _no_new_rights()
    version = library.syscall(444, None, 0, 1) if library is not None else -1
    if library is None or version < 1:
        return False
    handled = _EXECUTE | _READ | _WRITE | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    rules = library.syscall(444, ctypes.c_char_p(struct.pack("Q", handled)), 8, 0)
    if rules < 0:
        return False
    try:
        for path, rights in [(scratch, handled & ~_EXECUTE), *((p, _READ | _EXECUTE) for p in readable)]:
            _open_up(library, rules, Path(path), rights)
        for device in ("null", "shm"):
            _open_up(library, rules, Path("/dev") / device, handled & ~_EXECUTE)
        return bool(library.syscall(446, rules, 0) == 0)
    finally:
        os.close(rules)


def _open_up(library: ctypes.CDLL, rules: int, path: Path, rights: int) -> None:
    """Grant rights below a path that exists; a plain file takes only the rights that files have."""
    with contextlib.suppress(OSError):
        held = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            rights &= ~0 if path.is_dir() else _EXECUTE | 0b110 | _TRUNCATE
            library.syscall(445, rules, 1, ctypes.c_char_p(struct.pack("=Qi", rights, held)), 0)
        finally:
            os.close(held)


def _no_new_rights() -> ctypes.CDLL | None:
    """The C library, after this process gave up gaining rights; None when it cannot."""
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    return library if library.prctl(38, 1, 0, 0, 0) == 0 else None
