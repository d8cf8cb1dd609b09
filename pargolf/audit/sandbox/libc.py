"""Calls of the C library that Python does not offer: system calls by number, and prctl.

Both return the kernel's result. After -1, `ctypes.get_errno()` gives the reason.
"""

import ctypes
from functools import cache

_NO_NEW_PRIVILEGES = 38


@cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.syscall.restype = ctypes.c_long
    return library


def call(number: int, *arguments: int | bytes | None) -> int:
    """Make a system call by its number; arguments are numbers, addresses, or bytes that the kernel only reads."""
    values = [ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_void_p(a) for a in arguments]
    return int(_library().syscall(ctypes.c_long(number), *values))


def prctl(option: int, *arguments: int) -> int:
    """Change or query an attribute of this process."""
    padded = [*arguments, 0, 0, 0, 0][:4]
    return int(_library().prctl(option, *(ctypes.c_ulong(a) for a in padded)))


def give_up_new_privileges() -> None:
    """Programs that this process executes gain no rights. Filters of unprivileged processes need this."""
    if prctl(_NO_NEW_PRIVILEGES, 1) != 0:
        raise OSError(ctypes.get_errno(), "the kernel does not let this process give up new privileges")
