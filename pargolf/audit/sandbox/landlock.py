"""Landlock: the kernel lets this process touch only files below named paths.

A rule is a path and the rights below it. Everything else is refused, also to root, until the process ends. If the
kernel is new enough, it also refuses TCP, abstract sockets and signals to processes outside. Not covered: whether a
path exists, its size and times, and changes of its mode, which the seccomp filter refuses. Sources: landlock(7); the
numbers of rights are from Linux's `landlock.h`.
"""

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterable
from pathlib import Path

from pargolf.audit.sandbox import libc

ENOUGH = 3  # the first version that covers the truncation of files
_CREATE, _ADD, _RESTRICT = 444, 445, 446
_WRITE_FILE, _READ_FILE, _READ_FOLDER, _TRUNCATE = 1 << 1, 1 << 2, 1 << 3, 1 << 14
_READ = _READ_FILE | _READ_FOLDER
_DEVICE = _READ_FILE | _WRITE_FILE | _TRUNCATE
# In the scratch folder: write, read, list, truncate; remove and make folders and files; move between folders.
_SCRATCH = _READ | _WRITE_FILE | _TRUNCATE | 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 13
_OF_FILES = _READ_FILE | _WRITE_FILE | _TRUNCATE
_TCP, _OUTSIDE = 0b11, 0b11  # bind and connect; abstract sockets and signals


def version() -> int:
    """The version of the kernel's Landlock; 0 if it has none."""
    return max(0, libc.call(_CREATE, None, 0, 1))


def restrict(scratch: Path, readable: Iterable[Path], devices: Iterable[Path]) -> None:
    """Refuse this process all files but these. Raises `OSError` if the kernel cannot.

    Args:
        scratch: a folder that can be written.
        readable: files and folders that can be read; missing ones are skipped.
        devices: device files that can be read and written.
    """
    rules = libc.call(_CREATE, _handled(version()), len(_handled(version())), 0)
    if rules < 0:
        raise OSError(ctypes.get_errno(), "the kernel makes no Landlock rules")
    try:
        _grant(rules, scratch, _SCRATCH)
        for path in readable:
            _grant(rules, path, _READ)
        for path in devices:
            _grant(rules, path, _DEVICE)
        libc.give_up_new_privileges()
        if libc.call(_RESTRICT, rules, 0) != 0:
            raise OSError(ctypes.get_errno(), "the kernel does not apply Landlock rules")
    finally:
        os.close(rules)


def _handled(abi: int) -> bytes:
    """All that this version can refuse: rights on files, TCP, and access to processes outside."""
    files = (1 << (16 if abi >= 5 else 15)) - 1
    return struct.pack("QQQ", files, _TCP, _OUTSIDE)[: 24 if abi >= 6 else 16 if abi >= 4 else 8]


def _grant(rules: int, path: Path, rights: int) -> None:
    """Grant rights below a path that exists. A plain file takes only the rights of files."""
    with contextlib.suppress(FileNotFoundError):
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            rights &= ~0 if path.is_dir() else _OF_FILES
            if libc.call(_ADD, rules, 1, struct.pack("=Qi", rights, opened), 0) != 0:
                raise OSError(ctypes.get_errno(), f"the kernel takes no Landlock rule for {path}")
        finally:
            os.close(opened)
